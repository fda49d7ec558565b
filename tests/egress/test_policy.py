"""The judge admits what the rules say and nothing that could be read in two ways."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.egress.policy import Judge, split_authority, split_target
from polydev.egress.refusal import Refused
from polydev.models.egress import AddedHeader, EgressMode, EgressPolicy, Rule

HOST = "api.provider.test"
# As open as a rule can be, so that only the judge's own refusals are seen.
OPEN = Judge(
    EgressPolicy(mode=EgressMode.INJECT, rules=(Rule(method="GET", host=HOST, path=r"(?s:.*)"),))
)
NARROW = Judge(
    EgressPolicy(
        mode=EgressMode.INJECT,
        rules=(
            Rule(method="POST", host=HOST, path=r"/v1/messages"),
            Rule(method="GET", host=HOST, path=r"/v1/models/[a-z0-9.-]+"),
            Rule(method="GET", host=HOST, path=r"/v1/live", websocket=True),
        ),
    )
)

TRICKS = [
    "/v1/../admin",
    "/v1/./messages",
    "/v1/messages/..",
    "/..",
    "//v1/messages",
    "/v1//messages",
    "/v1/messages//",
    "/v1%2fmessages",
    "/v1%2Fmessages",
    "/v1/%2e%2e/admin",
    "/v1/%2E./admin",
    "/v1%5cmessages",
    "/v1/messages%00",
    "/v1/messages%0a",
    "/v1/%252e%252e/admin",
    "/v1\\messages",
    "/v1/messages\x00",
    "/v1/messages\n",
    "/v1/mess ages",
    "/v1/messagés",
    "/v1/messages#x",
    "/v1/messages%",
    "/v1/messages%zz",
    "v1/messages",
    "*",
    "",
]


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(Refused) as refused:
        OPEN.rule(method="GET", host=HOST, path=path)
    assert refused.value.status == 403


PIECES = st.sampled_from(
    [*"/.%2eEfF5cC\\0;?# é\x00\n", "..", "%2e", "%2F", "%5C", "/v1", "messages", "://", "@"]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_is_admitted_has_one_reading(text: str) -> None:
    path = "/" + text
    try:
        OPEN.rule(method="GET", host=HOST, path=path)
    except Refused:
        return
    segments = path.split("/")
    assert not {".", ".."} & set(segments)
    assert "" not in segments[1:-1]
    assert not re.search(r"%(2e|2f|5c|00|25)", path, re.IGNORECASE)
    assert path.isascii() and path.isprintable() and " " not in path and "\\" not in path


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_rules_match_whole_paths_only(text: str) -> None:
    for path in (f"/v1/messages{text}", f"{text}/v1/messages", f"/v1/models/{text}"):
        for method in ("GET", "POST"):
            try:
                rule = NARROW.rule(method=method, host=HOST, path=path)
            except Refused:
                continue
            assert re.fullmatch(rule.path, path)
            assert rule.method == method


@pytest.mark.parametrize(
    ("method", "host", "path"),
    [
        ("GET", HOST, "/v1/messages"),
        ("post", HOST, "/v1/messages"),
        ("POST", HOST, "/v1/messages/"),
        ("POST", HOST, "/v1/messages\n"),
        ("POST", HOST, "/V1/messages"),
        ("POST", "evil.test", "/v1/messages"),
        ("POST", f"{HOST}.", "/v1/messages"),
        ("POST", HOST.upper(), "/v1/messages"),
        ("DELETE", HOST, "/v1/models/x"),
    ],
)
def test_anything_beside_the_rules_is_refused(method: str, host: str, path: str) -> None:
    with pytest.raises(Refused):
        NARROW.rule(method=method, host=host, path=path)


def test_an_upgrade_needs_a_rule_that_admits_it() -> None:
    assert NARROW.rule(method="GET", host=HOST, path="/v1/live", websocket=True).websocket
    with pytest.raises(Refused):
        NARROW.rule(method="GET", host=HOST, path="/v1/models/x", websocket=True)


@pytest.mark.parametrize(
    "query",
    ["key=x", "a=1&access_token=x", "%6bey=x", "KEY=x", "a;key=x", "$key=x", "$httpHeaders=x",
     "%24httpMethod=DELETE", "api_key=", "key", "oauth_token=x", "+key=x"],
)  # fmt: skip
def test_credentials_in_the_query_are_refused(query: str) -> None:
    with pytest.raises(Refused):
        OPEN.check_query(query)


@pytest.mark.parametrize("query", ["", "beta=true", "alt=sse", "monkey=1", "q=key"])
def test_other_queries_pass(query: str) -> None:
    OPEN.check_query(query)


def test_targets_are_split() -> None:
    assert split_target("/a/b?c=/d?e").line() == "/a/b?c=/d?e"
    absolute = split_target("http://API.provider.test:80/a?b")
    assert (absolute.host, absolute.path, absolute.query) == (HOST, "/a", "b")


@pytest.mark.parametrize(
    "target",
    ["https://api.provider.test/", "ftp://x/", "http://user@api.provider.test/", "http:/x",
     "http://api.provider.test", "http://api.provider.test:8080/", "http://[::1]/", "api/x",
     "http://api.provider.test\\@evil/", "http://127.0.0.1%00/", "*"],
)  # fmt: skip
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(Refused):
        split_target(target)


@pytest.mark.parametrize(
    "target", ["host", "host:", "host:x", ":443", "[::1]:443", "a b:443", "host:٤٤٣", "h:123456"]
)
def test_strange_connect_targets_are_refused(target: str) -> None:
    with pytest.raises(Refused):
        split_authority(target)


def test_connect_targets_are_split() -> None:
    assert split_authority("API.provider.test:443") == (HOST, 443)


BROWSER = Judge(EgressPolicy(mode=EgressMode.TUNNEL, rules=(), any_public_host=True))


@pytest.mark.parametrize("host", ["accounts.google.test", "claude.com", "8.8.8.8", "a.b.c.example"])
def test_a_browser_may_reach_whatever_calls_itself_public(host: str) -> None:
    BROWSER.check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0x1",
        "0177.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "metadata", "metadata.google.internal", "printer.local", "router.lan", "1.0.0.127.in-addr.arpa",
    ],
)  # fmt: skip
def test_a_browser_reaches_nothing_that_is_private_by_its_name(host: str) -> None:
    with pytest.raises(Refused, match="not public"):
        BROWSER.check_host(host)


@pytest.mark.parametrize("mode", [EgressMode.INJECT, EgressMode.WITNESS])
def test_whoever_may_reach_every_host_is_neither_read_nor_given_a_token(mode: EgressMode) -> None:
    with pytest.raises(ValueError, match="tunnel"):
        Judge(EgressPolicy(mode=mode, rules=(), any_public_host=True))
    added = (AddedHeader(name="authorization", value="Bearer {access_token}"),)
    with pytest.raises(ValueError, match="tunnel"):
        Judge(EgressPolicy(mode=EgressMode.TUNNEL, rules=(), any_public_host=True, added=added))
