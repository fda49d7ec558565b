"""A provider's redirect reaches the CLI that waits for it, and nothing else does."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from polydev.core.callbacks import OfferedPort, Relay
from polydev.errors import Conflict, InvalidRequest, LoginFailed
from polydev.models.logins import LoginTrouble
from polydev.providers.login import Callback, callback_of

pytestmark = pytest.mark.anyio

STATE = "made-up-state"
DONE = b"HTTP/1.1 302 Found\r\nlocation: /success?token=made-up\r\nset-cookie: a=b\r\n\r\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Cli:
    """Listens as a CLI does, inside; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = DONE
        self.port = 0
        self.callback = Callback(
            port=free_port(), path="/callback", state=STATE, after=("/success",)
        )

    def address(self, text: str) -> str:
        return text.replace("PORT", str(self.callback.port))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split()[1].decode())
        writer.write(self.answer)
        writer.close()

    async def connect(self, port: int) -> socket.socket:
        assert port == self.callback.port
        found = socket.create_connection(("127.0.0.1", self.port))
        found.setblocking(False)
        return found


# PORT stands for the callback's port, which is another in each test.
GOOD = f"http://localhost:PORT/callback?code=made-up-code&state={STATE}&scope=more"


@pytest.fixture
async def cli() -> AsyncIterator[Cli]:
    made = Cli()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


@pytest.fixture
def relay(cli: Cli) -> Relay:
    return Relay(cli.callback, cli.connect)


class TestPasted:
    async def test_code_and_state_reach_the_cli_and_nothing_else(
        self, relay: Relay, cli: Cli
    ) -> None:
        await relay.pasted(f"  {cli.address(GOOD)}\n")
        (asked,) = cli.asked
        assert urlsplit(asked).path == "/callback"
        assert parse_qs(urlsplit(asked).query) == {"code": ["made-up-code"], "state": [STATE]}

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            (GOOD.replace(STATE, "another"), "wrong_state"),
            (GOOD.replace(f"&state={STATE}", ""), "wrong_state"),
            (GOOD.replace("/callback", "/other"), "wrong_address"),
            (GOOD.replace("PORT", "1"), "wrong_address"),
            (GOOD.replace("localhost", "example.org"), "wrong_address"),
            (GOOD.replace("localhost", "localhost@example.org"), "wrong_address"),
            (GOOD.replace("http:", "https:"), "wrong_address"),
            (GOOD.replace("code=made-up-code&", ""), "wrong_address"),
            (GOOD.replace("code=made-up-code", "error=access_denied"), "denied"),
            ("http://localhost:99999999/callback", "wrong_address"),
            ("", "wrong_address"),
        ],
    )
    async def test_anything_else_is_refused_and_costs_nothing(
        self, relay: Relay, cli: Cli, address: str, reason: str
    ) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await relay.pasted(cli.address(address))
        assert caught.value.reason == reason
        assert cli.asked == []
        await relay.pasted(cli.address(GOOD))

    async def test_it_is_taken_once(self, relay: Relay, cli: Cli) -> None:
        await relay.pasted(cli.address(GOOD))
        with pytest.raises(Conflict):
            await relay.pasted(cli.address(GOOD))
        assert len(cli.asked) == 1

    @pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
    async def test_a_cli_that_does_not_answer_is_said(
        self, relay: Relay, cli: Cli, answer: bytes
    ) -> None:
        cli.answer = answer
        with pytest.raises(LoginFailed) as caught:
            await relay.pasted(cli.address(GOOD))
        assert caught.value.reason == LoginTrouble.CLI_ENDED


@asynccontextmanager
async def offered(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    address = f"http://127.0.0.1:{relay.callback.port}"
    async with OfferedPort(relay), httpx.AsyncClient(base_url=address) as client:
        yield client


class TestOfferedPort:
    async def test_a_browser_is_answered_as_by_the_cli(self, relay: Relay, cli: Cli) -> None:
        async with offered(relay) as browser:
            answer = await browser.get(f"/callback?code=made-up-code&state={STATE}")
            assert (answer.status_code, answer.headers["location"]) == (
                302,
                "/success?token=made-up",
            )
            assert "set-cookie" not in answer.headers
            cli.answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<p>Done"
            assert (await browser.get("/success?token=made-up")).text == "<p>Done"
        assert [urlsplit(asked).path for asked in cli.asked] == ["/callback", "/success"]

    @pytest.mark.parametrize(
        ("ask", "status"),
        [
            (lambda b: b.get("/callback?code=c&state=another"), 400),
            (lambda b: b.get("/success?token=made-up"), 404),  # nothing was taken yet
            (lambda b: b.get("/other"), 404),
            (lambda b: b.post(f"/callback?code=c&state={STATE}"), 403),
            (
                lambda b: b.get(
                    f"/callback?code=c&state={STATE}", headers={"host": "example.org:80"}
                ),
                403,
            ),
        ],
    )
    async def test_nothing_else_reaches_the_cli(
        self,
        relay: Relay,
        cli: Cli,
        ask: Callable[[httpx.AsyncClient], "asyncio.Future[httpx.Response]"],
        status: int,
    ) -> None:
        async with offered(relay) as browser:
            assert (await ask(browser)).status_code == status
        assert cli.asked == []

    async def test_a_replay_is_refused(self, relay: Relay, cli: Cli) -> None:
        async with offered(relay) as browser:
            await browser.get(f"/callback?code=made-up-code&state={STATE}")
            again = await browser.get(f"/callback?code=made-up-code&state={STATE}")
        assert again.status_code == 409
        assert len(cli.asked) == 1

    async def test_nonsense_is_dropped(self, relay: Relay, cli: Cli) -> None:
        async with offered(relay):
            reader, writer = await asyncio.open_connection("127.0.0.1", cli.callback.port)
            writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
        assert cli.asked == []

    async def test_a_port_in_use_is_said(self, relay: Relay) -> None:
        async with offered(relay):
            with pytest.raises(LoginFailed) as caught:
                await OfferedPort(relay).__aenter__()
            assert caught.value.reason == LoginTrouble.PORT_TAKEN


@pytest.mark.parametrize(
    ("redirect", "port"),
    [
        ("http%3A%2F%2Flocalhost%3A40123%2Fcallback", 40123),
        ("http%3A%2F%2F127.0.0.1%3A1455%2Fauth%2Fcallback", 1455),
        ("https%3A%2F%2Fplatform.claude.com%2Foauth%2Fcode%2Fcallback", None),
        ("http%3A%2F%2Flocalhost%2Fcallback", None),
        ("http%3A%2F%2Flocalhost%3A99999999%2F", None),
        ("", None),
    ],
)
def test_where_a_link_leads_back(redirect: str, port: int | None) -> None:
    found = callback_of(f"https://example.org/authorize?redirect_uri={redirect}&state={STATE}")
    assert (found.port if found else None) == port
