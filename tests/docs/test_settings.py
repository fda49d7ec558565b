"""docs/settings.md lists every setting, with its true default, and its variables work."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from polydev.config import Settings, load_settings
from tests.docs.generate import current, default_text, settings, written

ROW = re.compile(
    r"^\| `(?P<name>[a-z_.]+)` \| `(?P<variable>POLYDEV_\w+)` \| .* \| (?P<default>[^|]+) \| [^|]+ \|$"
)
# A value for each that is valid and is not the default.
OTHERS = {
    "data": "/elsewhere/data",
    "programs": "/elsewhere/programs",
    "master_key": "bWFkZS11cA==",
    "server.host": "127.0.0.2",
    "server.hosts": '["box.example"]',
    "server.tls_certificate": "/elsewhere/certificate.pem",
    "server.tls_key": "/elsewhere/key.pem",
    "server.behind_tls_proxy": "true",
    "sandbox.kind": "none",
    "egress.redirect": "127.0.0.1:9443",
    "egress.upstream_ca": "/elsewhere/ca.pem",
    "egress.proxy": "http://made-up-user:made-up-password@proxy.example:10001-10100",
    "store.url": "postgresql://someone@127.0.0.1/polydev",
    "log.level": "debug",
    "log.json_lines": "true",
}


def rows() -> dict[str, re.Match[str]]:
    found = (ROW.match(line) for line in written("settings.md").splitlines())
    return {row["name"]: row for row in found if row}


def value_of(loaded: Settings, name: str) -> Any:
    value: Any = loaded
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("POLYDEV_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_the_page_is_current() -> None:
    assert written("settings.md") == current("settings.md"), "run: python -m tests.docs.generate"


def test_every_setting_has_exactly_one_row() -> None:
    assert sorted(rows()) == sorted(name for name, _ in settings())


@pytest.mark.parametrize("name", [name for name, _ in settings() if name != "data"])
def test_the_default_of_the_page_is_what_an_empty_configuration_gives(name: str) -> None:
    shown = rows()[name]["default"].strip("`")
    value = value_of(load_settings(), name)
    if value in (None, "", ()):
        assert shown == "–"
    elif isinstance(value, bool):
        assert shown == str(value).lower()
    else:
        assert shown == str(value)


@pytest.mark.parametrize("name", [name for name, _ in settings()])
def test_the_variable_of_the_page_sets_the_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = value_of(load_settings(), name)
    text = OTHERS.get(name) or str(int(float(before)) + 1)
    monkeypatch.setenv(rows()[name]["variable"], text)
    after = value_of(load_settings(), name)
    assert after != before
    shown = after.get_secret_value() if isinstance(after, SecretStr) else str(after)
    if isinstance(after, tuple):
        shown = json.dumps(after)
    assert shown.lower().removesuffix(".0") == text.lower()


def test_the_example_of_a_file_is_taken(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", written("settings.md"), re.DOTALL)
    assert example
    directory = tmp_path / "polydev"
    directory.mkdir()
    (directory / "config.toml").write_text(example[1])
    loaded = load_settings()
    for section, fields in tomllib.loads(example[1]).items():
        for name, value in fields.items():
            assert value_of(loaded, f"{section}.{name}") == value


def test_every_default_can_be_shown() -> None:
    assert all(default_text(name, field) for name, field in settings())
