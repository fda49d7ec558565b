from pathlib import Path

import pytest

from polydev.config import ServerSettings
from polydev.core.listening import check_listening, is_loopback, plain_name, reached_at
from polydev.errors import SetupProblem


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8484", "localhost"),
        ("LOCALHOST.", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:8484", "::1"),
        ("::1", "::1"),
        ("polydev.example:443", "polydev.example"),
        ("", ""),
    ],
)
def test_a_name_without_its_port(header: str, name: str):
    assert plain_name(header) == name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_loopback_is(host: str, loopback: bool):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("settings", "url", "secure"),
    [
        ({}, "http://127.0.0.1:9000", False),
        ({"host": "::1"}, "http://[::1]:9000", False),
        ({"host": "0.0.0.0", "behind_tls_proxy": True}, "https://localhost:9000", True),
        (
            {"behind_tls_proxy": True, "hosts": ("polydev.example",)},
            "https://polydev.example",
            True,
        ),
        (
            {"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k", "hosts": ("box.example",)},
            "https://box.example:9000",
            True,
        ),
    ],
)
def test_how_a_browser_reaches_it(settings: dict[str, object], url: str, secure: bool):
    server = ServerSettings.model_validate(settings)
    reached = reached_at(server, server.host, 9000)
    assert (reached.url, reached.secure) == (url, secure)
    assert {"localhost", "127.0.0.1", "::1", *server.hosts} <= reached.names


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "box.example"])
def test_beyond_loopback_it_takes_tls(host: str):
    with pytest.raises(SetupProblem, match="TLS") as caught:
        check_listening(ServerSettings(host=host))
    assert "POLYDEV_SERVER__TLS_CERTIFICATE" in caught.value.remedy
    assert "POLYDEV_SERVER__BEHIND_TLS_PROXY" in caught.value.remedy
    check_listening(ServerSettings(host=host, behind_tls_proxy=True))


def test_half_of_tls_is_none(tmp_path: Path):
    with pytest.raises(SetupProblem, match="one of them is not set"):
        check_listening(ServerSettings(tls_certificate=tmp_path / "c.pem"))
    with pytest.raises(SetupProblem, match="cannot be"):
        check_listening(
            ServerSettings(tls_certificate=tmp_path / "c.pem", tls_key=tmp_path / "k.pem")
        )
