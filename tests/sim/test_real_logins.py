"""The vendors' unmodified CLIs log in at the simulator, each in every way that it has."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polydev.sim import Simulator
from polydev.sim.person import Person
from tests.sim.clis import WITHIN, Cli, Home, argv_of, home

pytestmark = [pytest.mark.anyio, pytest.mark.real]

ADA = "ada@example.org"


@pytest.fixture
async def person(sim: Simulator) -> AsyncIterator[Person]:
    async with Person(sim.redirect, sim.ca) as somebody:
        yield somebody


@pytest.fixture
async def at_home(sim: Simulator, tmp_path: Path) -> AsyncIterator[Home]:
    async with home(tmp_path / "home", sim) as made:
        yield made


def owner(sim: Simulator, provider: str, token: str) -> str:
    return sim.world.authenticate(provider, token).email


# -- claude ---------------------------------------------------------------------------------------


def claude(at_home: Home, *more: str) -> Cli:
    return Cli(at_home, [*argv_of("claude"), *(more or ("auth", "login"))])


async def link_to_paste(cli: Cli) -> str:
    return (await cli.says(r"visit: (https://\S+)\s+Paste code here if prompted > "))[1]


async def test_claude_logs_in_with_a_code_to_paste(
    sim: Simulator, person: Person, at_home: Home
) -> None:
    async with claude(at_home) as cli:
        seen = await person.allow(await link_to_paste(cli), email=ADA)
        cli.type(f"{seen.code.partition('#')[0]}\n")
        await cli.says("That doesn't look like the full code")
        cli.type(f"{seen.code}\n")
        await cli.says("Login successful")
        assert await cli.ended() == 0
    oauth = at_home.json(".claude/.credentials.json")["claudeAiOauth"]
    assert owner(sim, "claude", oauth["accessToken"]) == ADA
    assert at_home.json(".claude.json")["oauthAccount"]["emailAddress"] == ADA

    # What it got serves a prompt, and is refreshed and rotated like any other.
    account = sim.world.accounts["ada"]
    sim.world.expire_tokens(account)
    oauth["expiresAt"] = 1
    (at_home.path / ".claude/.credentials.json").write_text(json.dumps({"claudeAiOauth": oauth}))
    async with claude(at_home, "-p", "calculate 3*67", "--model", "sonnet", "--tools", "") as cli:
        await cli.says(r"\b201\b")
        assert await cli.ended() == 0
    assert account.counters["refreshes"] == 1
    renewed = at_home.json(".claude/.credentials.json")["claudeAiOauth"]
    assert renewed["refreshToken"] != oauth["refreshToken"]


@pytest.mark.parametrize("flag", ["--claudeai", "--console"])
async def test_claude_logs_in_by_its_own_listener(person: Person, at_home: Home, flag: str) -> None:
    async with claude(at_home, "auth", "login", flag) as cli:
        seen = await person.allow(await at_home.opened(), email=ADA)
        assert seen.url.startswith("http://localhost:")
        assert (await person.call_back(seen)).title == "You are signed in to Claude (simulator)"
        await cli.says("Login successful")
        assert await cli.ended() == 0
    written = at_home.json(".claude/.credentials.json")
    if flag == "--console":
        assert at_home.json(".claude.json")["primaryApiKey"].startswith("sk-ant-api03-made-up")
    else:
        assert written["claudeAiOauth"]["subscriptionType"] == "max"


async def test_claude_is_told_of_a_wrong_code_and_of_a_denial(
    person: Person, at_home: Home
) -> None:
    async with claude(at_home) as cli:
        await link_to_paste(cli)
        cli.type("made-up-but-never-given#x\n")
        await cli.says("Couldn't log in: That code wasn't accepted")
        assert await cli.ended() == 1
    await at_home.opened()
    async with claude(at_home) as cli:
        await person.call_back(await person.deny(await at_home.opened()))
        await cli.says("Couldn't log in: No authorization code received")
        assert await cli.ended() == 1
    assert not (at_home.path / ".claude/.credentials.json").exists()


# -- codex ----------------------------------------------------------------------------------------


def app_server(at_home: Home) -> Cli:
    return Cli(at_home, [*argv_of("codex"), "app-server"])


async def initialized(cli: Cli) -> None:
    cli.call(1, "initialize", clientInfo={"name": "tests", "title": "tests", "version": "0"})
    await cli.answer(1)
    cli.type('{"jsonrpc": "2.0", "method": "initialized"}\n')


async def test_codex_logs_in_with_a_device_code(
    sim: Simulator, person: Person, at_home: Home
) -> None:
    sim.world.turn(None, {"device_poll_seconds": 1})
    async with app_server(at_home) as cli:
        await initialized(cli)
        cli.call(2, "account/login/start", type="chatgptDeviceCode")
        started = (await cli.answer(2))["result"]
        await person.allow_device(started["verificationUrl"], started["userCode"], email=ADA)
        completed = await cli.says(r'"account/login/completed"[^\n]*')
        assert '"success":true' in completed[0]
        cli.call(3, "account/read", refreshToken=True)
        assert (await cli.answer(3))["result"]["account"]["email"] == ADA
    tokens = at_home.json(".codex/auth.json")["tokens"]
    assert owner(sim, "codex", tokens["access_token"]) == ADA
    assert sim.world.accounts["ada"].counters["refreshes"] == 1


async def test_codex_prints_a_device_code(sim: Simulator, person: Person, at_home: Home) -> None:
    sim.world.turn(None, {"device_poll_seconds": 1})
    async with Cli(at_home, [*argv_of("codex"), "login", "--device-auth"]) as cli:
        found = await cli.says(r"(?s)(https://\S+)\s.*?\s([A-Z]{4}-[A-Z]{5})\s")
        await person.allow_device(found[1], found[2], email=ADA)
        await cli.says("Successfully logged in")
        assert await cli.ended() == 0
    assert at_home.json(".codex/auth.json")["auth_mode"] == "chatgpt"


@pytest.mark.parametrize("end", ["denied", "expired", "disabled"])
async def test_codex_is_told_why_a_device_code_failed(
    sim: Simulator, person: Person, at_home: Home, end: str
) -> None:
    sim.world.turn(None, {"device_poll_seconds": 1, "device_login_disabled": end == "disabled"})
    if end == "expired":
        sim.world.turn(None, {"device_code_lifetime_seconds": 0})
    async with app_server(at_home) as cli:
        await initialized(cli)
        cli.call(2, "account/login/start", type="chatgptDeviceCode")
        started = await cli.answer(2)
        if end == "disabled":
            assert "device code login is not enabled" in started["error"]["message"]
            return
        if end == "denied":
            asked = started["result"]
            await person.deny_device(asked["verificationUrl"], asked["userCode"])
        completed = await cli.says(r'"account/login/completed"[^\n]*')
        assert '"success":false' in completed[0]
        assert "status 400" in completed[0]


async def test_codex_logs_in_by_its_own_listener(tmp_path: Path) -> None:
    """In a network namespace of its own: its port is fixed, and a second login ends the first."""
    bwrap = shutil.which("bwrap")
    assert bwrap, "bubblewrap is not installed"
    command = [
        bwrap, "--unshare-user", "--unshare-net", "--die-with-parent", "--dev-bind", "/", "/",
        sys.executable, "-m", "tests.sim.codex_listener", str(tmp_path),
    ]  # fmt: skip
    alone = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=4 * WITHIN,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr


# -- gemini ---------------------------------------------------------------------------------------

GOOGLE_LINK = r"(https://accounts\.google\.com/\S+)"


async def authenticating(cli: Cli) -> None:
    cli.call(1, "initialize", protocolVersion=1, clientCapabilities={})
    await cli.answer(1)
    cli.call(2, "authenticate", methodId="oauth-personal")


def acp(at_home: Home, **environment: str) -> Cli:
    return Cli(at_home, [*argv_of("gemini"), "--acp"], environment)


def assert_gemini_is_logged_in(sim: Simulator, at_home: Home) -> None:
    token = at_home.json(".gemini/oauth_creds.json")["access_token"]
    assert owner(sim, "gemini", token) == ADA
    assert at_home.json(".gemini/google_accounts.json")["active"] == ADA


async def test_gemini_logs_in_with_a_code_to_paste(
    sim: Simulator, person: Person, at_home: Home
) -> None:
    async with acp(at_home, NO_BROWSER="true") as cli:
        await authenticating(cli)
        first = await cli.says(rf"{GOOGLE_LINK}\s+Enter the authorization code: ")
        cli.type("made-up-but-never-given\n")
        # It asks twice, the second time with another link.
        second = await cli.says(
            rf"{GOOGLE_LINK}\s+Enter the authorization code: ", after=first.end()
        )
        assert second[1] != first[1]
        cli.type(f"{(await person.allow(second[1], email=ADA)).code}\n")
        assert (await cli.answer(2))["result"] == {}
    assert_gemini_is_logged_in(sim, at_home)


async def test_gemini_logs_in_with_a_code_to_paste_in_a_terminal(
    sim: Simulator, person: Person, at_home: Home
) -> None:
    settings = at_home.path / ".gemini/settings.json"
    settings.parent.mkdir()
    settings.write_text('{"security": {"auth": {"selectedType": "oauth-personal"}}}')
    environment = {"NO_BROWSER": "true", "TERM": "xterm-256color"}
    async with Cli(at_home, argv_of("gemini"), environment, terminal=True) as cli:
        found = await cli.says(rf"{GOOGLE_LINK}\s+Enter the authorization code: ")
        cli.type(f"{(await person.allow(found[1], email=ADA)).code}\r")
        await sim.world.records.arrived(
            lambda seen: any(one.path == "/v1internal:loadCodeAssist" for one in seen), WITHIN
        )
    assert_gemini_is_logged_in(sim, at_home)


async def test_gemini_logs_in_by_its_own_listener(
    sim: Simulator, person: Person, at_home: Home
) -> None:
    async with acp(at_home, DISPLAY=":no-such-display") as cli:
        await authenticating(cli)
        seen = await person.allow(await at_home.opened(), email=ADA)
        assert (await person.call_back(seen)).title.startswith("You are signed in to Gemini")
        assert (await cli.answer(2))["result"] == {}
    assert_gemini_is_logged_in(sim, at_home)


async def test_gemini_is_told_of_a_denial(person: Person, at_home: Home) -> None:
    async with acp(at_home, DISPLAY=":no-such-display") as cli:
        await authenticating(cli)
        await person.call_back(await person.deny(await at_home.opened()))
        assert "access_denied" in (await cli.answer(2))["error"]["message"]
    assert not (at_home.path / ".gemini/oauth_creds.json").exists()
