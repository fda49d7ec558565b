"""codex logs in by its own listener on its fixed port, in both ways that it offers.

Run as a program in a network namespace of its own, with a directory; it ends with 0 when all is
as it should be.
"""

import asyncio
import sys
from pathlib import Path

from polydev.sim import Simulator
from polydev.sim.person import Person
from tests.sim.clis import Cli, Home, argv_of, home

ADA = "ada@example.org"


async def printed(at_home: Home, person: Person) -> None:
    """`codex login`, which prints the link and opens it in a browser."""
    async with Cli(at_home, [*argv_of("codex"), "login"]) as cli:
        link = (await cli.says(r"(https://auth\.openai\.com/\S+)\s"))[1]
        assert await at_home.opened() == link
        seen = await person.allow(link, email=ADA)
        assert seen.url.startswith("http://127.0.0.1:1455/auth/callback?")
        await person.call_back(seen)
        await cli.says("Successfully logged in")
        assert await cli.ended() == 0
    written = at_home.json(".codex/auth.json")
    assert written["OPENAI_API_KEY"] is None
    assert written["auth_mode"] == "chatgpt"


async def denied(at_home: Home, person: Person) -> None:
    async with Cli(at_home, [*argv_of("codex"), "login"]) as cli:
        await person.call_back(await person.deny(await at_home.opened()))
        await cli.says("Error logging in: Sign-in failed: The user denied the request")
        assert await cli.ended() == 1
    assert not (at_home.path / ".codex/auth.json").exists()


async def served(at_home: Home, person: Person) -> None:
    """The app-server's own listener; it opens no browser."""
    async with Cli(at_home, [*argv_of("codex"), "app-server"]) as cli:
        cli.call(1, "initialize", clientInfo={"name": "tests", "title": "tests", "version": "0"})
        await cli.answer(1)
        cli.type('{"jsonrpc": "2.0", "method": "initialized"}\n')
        cli.call(2, "account/login/start", type="chatgpt")
        link = (await cli.answer(2))["result"]["authUrl"]
        await person.call_back(await person.allow(link, email=ADA))
        completed = await cli.says(r'"account/login/completed"[^\n]*')
        assert '"success":true' in completed[0]
    assert at_home.json(".codex/auth.json")["tokens"]["refresh_token"]


async def main(directory: Path) -> None:
    async with (
        Simulator(directory / "sim") as sim,
        Person(sim.redirect, sim.ca) as person,
    ):
        for way in (printed, denied, served):
            async with home(directory / way.__name__, sim) as at_home:
                await way(at_home, person)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
