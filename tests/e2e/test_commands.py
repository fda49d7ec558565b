"""The owner's commands, beside a running gateway."""

import json
from pathlib import Path

import pytest

from polydev.sim.control import credential_of
from tests.e2e.conftest import House
from tests.e2e.gateway import MARKER, Gateway

pytestmark = pytest.mark.anyio


async def done(gateway: Gateway, *arguments: str, stdin: str = "") -> str:
    """What a command that succeeds prints."""
    said = await gateway.command(*arguments, stdin=stdin)
    assert said.code == 0, said
    return said.output


async def refused(gateway: Gateway, *arguments: str) -> str:
    """What a command that fails says; one clear error."""
    said = await gateway.command(*arguments)
    assert said.code == 1, said
    assert said.errors.strip()
    return said.errors


def login_file(house: House, home: Path) -> Path:
    """A home with a Claude login in it, as its CLI would have written it."""
    account = house.sim.world.create_account("claude")
    file = home / ".claude/.credentials.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(credential_of(house.sim.world, account, None).encode())
    return file


async def test_users(scripted_house: House):
    gateway = scripted_house.gateway
    assert "grace" in await done(gateway, "users", "add", "grace")
    assert "Choose another name" in await refused(gateway, "users", "add", "grace")
    assert "1 to 64" in await refused(gateway, "users", "add", " ")
    await done(gateway, "users", "disable", "grace")
    row = next(
        line for line in (await done(gateway, "users", "list")).splitlines() if "grace" in line
    )
    assert "disabled" in row
    assert "users list" in await refused(gateway, "users", "disable", "nobody")


async def test_keys(scripted_house: House):
    gateway = scripted_house.gateway
    await done(gateway, "users", "add", "heidi")
    key = (await done(gateway, "keys", "create", "editor", "--user", "heidi")).strip()
    assert key.startswith("polydev_")
    listed = await done(gateway, "keys", "list", "--user", "heidi")
    row = next(line for line in listed.splitlines() if "editor" in line)
    assert key not in listed
    assert "is revoked" in await done(gateway, "keys", "revoke", row.split()[0])
    assert "key" in await refused(gateway, "keys", "revoke", "key_none")


async def test_a_connection_from_its_file_to_its_end(scripted_house: House, tmp_path: Path):
    gateway = scripted_house.gateway
    await done(gateway, "users", "add", "ivan")
    file = login_file(scripted_house, tmp_path)
    said = await done(gateway, "connect", "claude", "--from", str(tmp_path), "--user", "ivan")
    assert "connected Claude" in said
    taken = await done(
        gateway, "connect", "claude", "--from", str(file), "--user", "ivan", "--take"
    )
    assert "log in again" in taken.lower()
    listed = await done(gateway, "connections")
    rows = [line.split() for line in listed.splitlines() if " ivan " in line]
    assert [(row[2], row[3]) for row in rows][-1] == ("claude", "active")
    id = rows[-1][0]
    assert "It answered" in await done(gateway, "check", id)
    assert MARKER in await done(gateway, "run", "claude", MARKER, "--user", "ivan")
    assert "deleted" in await done(gateway, "disconnect", id)
    assert id not in await done(gateway, "connections")
    assert id in await done(gateway, "connections", "--all")
    assert "Connect it anew" in await refused(gateway, "check", id)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"claudeAiOauth": {}}', "no access token"),
        ("x" * 2**21, "too large"),
    ],
    ids=["missing", "empty", "list", "no token", "huge"],
)
async def test_a_file_that_is_no_login(
    scripted_house: House, tmp_path: Path, content: str | None, words: str
):
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    said = await refused(scripted_house.gateway, "connect", "claude", "--from", str(file))
    assert words in said
    assert "claude auth login" in said or content == "x" * 2**21


async def test_what_cannot_be_connected_is_named(scripted_house: House, tmp_path: Path):
    file = login_file(scripted_house, tmp_path)
    gateway = scripted_house.gateway
    assert "claude" in await refused(gateway, "connect", "nonesuch", "--from", str(file))
    said = await refused(gateway, "connect", "claude", "--from", str(file), "--user", "nobody")
    assert "no user" in said
    for command in ("check", "disconnect"):
        assert "polydev connections" in await refused(gateway, command, "con_none")


async def test_a_question_from_standard_input_and_its_events(scripted_house: House):
    gateway = scripted_house.gateway
    await scripted_house.person("judy", "claude")
    user = ("--user", "judy-claude")
    assert MARKER in await done(gateway, "run", "claude", "-", *user, stdin=MARKER)
    lines = (await done(gateway, "run", "claude", MARKER, "--json", *user)).splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run.finished"


async def test_a_run_that_fails_says_why(scripted_house: House):
    gateway = scripted_house.gateway
    await scripted_house.person("judy", "claude")
    command = json.dumps({"do": "die", "code": 7})
    said = await refused(gateway, "run", "claude", command, "--user", "judy-claude")
    assert "exit code 7" in said
    assert "no model" in await refused(gateway, "run", "nonesuch", MARKER)
