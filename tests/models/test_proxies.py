"""Addresses of outbound proxies: read, shown without their login, written again."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.models.proxies import ProxyKind, ProxyRange

words = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters=":"), min_size=1, max_size=40
)
hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["[::1]", "[2001:db8::7]", "10.1.2.3"]
)
ports = st.integers(1, 65535)


@given(st.sampled_from(ProxyKind), words, words, hosts, st.tuples(ports, ports).map(sorted))
def test_what_is_written_is_read_again_and_shown_without_its_login(
    kind: ProxyKind, user: str, password: str, host: str, span: list[int]
):
    first, last = span
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    text = f"{kind}://{login}@{host}:{first}-{last}"
    found = ProxyRange.parse(text)
    assert (found.kind, found.host, found.ports) == (kind, host, range(first, last + 1))
    assert (found.user.reveal(), found.password.reveal()) == (user, password)
    assert ProxyRange.parse(found.reveal()) == found
    proxy = found.at(last)
    again = ProxyRange.parse(proxy.reveal())
    assert again.at(again.ports[0]) == proxy
    assert proxy.shown() == f"{kind}://{host}:{last}"
    assert login not in repr(found) + repr(proxy) + found.shown() + str(proxy)


@given(st.text(max_size=60) | words.map("http://{}".format) | words.map("http://{}@h:1".format))
def test_anything_is_read_or_refused_without_being_repeated(text: str):
    try:
        ProxyRange.parse(text)
    except ValueError as error:
        assert len(text) < 8 or text not in str(error)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://proxy.example:8080", "http://proxy.example:8080"),
        ("HTTP://Proxy.Example:8080/", "http://proxy.example:8080"),
        ("https://u:p@proxy.example:443", "https://proxy.example:443"),
        ("socks5h://u@127.0.0.1:1080", "socks5://127.0.0.1:1080"),
        ("socks5://[::1]:1080", "socks5://[::1]:1080"),
        ("http://u:p@ss:w@rd@h_1:7-9", "http://h_1:7-9"),
    ],
)
def test_addresses_are_read(text: str, shown: str):
    assert ProxyRange.parse(text).shown() == shown


def test_a_login_may_hold_what_an_address_cannot():
    found = ProxyRange.parse("http://u%40e:p%3a%2f%2525@h:1")
    assert (found.user.reveal(), found.password.reveal()) == ("u@e", "p:/%25")


@pytest.mark.parametrize(
    "text",
    [
        "", "h:1", "http://h", "http://h:", "http://h:0", "http://h:65536", "http://h:9-8",
        "ftp://h:1", "socks4://h:1", "http://h:1/path", "http://:p@h:1", "http://u%3a:p@h:1",
        "http://u%0a:p@h:1", f"http://{'u' * 256}@h:1", "http:// h:1", "http://h:1 ", "http://h:1-",
        "http://h:١", f"http://{'u' * 3000}@h:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ValueError, match="prox"):
        ProxyRange.parse(text)
