"""A client of the gateway's owner's socket; starts a gateway when none is running."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx
import uvloop

from polydev.config import Settings, load_settings
from polydev.core.layout import Layout, address_of, make
from polydev.errors import PolydevError, SetupProblem
from polydev.logs import set_up_logging

T = TypeVar("T")


# Nothing the owner asks takes longer than a run may.
_TIMEOUT = httpx.Timeout(900, connect=5)
_START_SECONDS = 10


class OwnerError(PolydevError):
    """An error that the gateway answered with."""


def settings_and_logging() -> Settings:
    """For a command: quiet unless something is wrong."""
    settings = load_settings()
    quiet = settings.log if settings.log.level != "info" else settings.log.model_copy(
        update={"level": "warning"}
    )  # fmt: skip
    set_up_logging(quiet)
    return settings


def with_owner(work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
    """Runs `work` with a client of the gateway, and gives its result."""

    async def whole() -> T:
        async with owners_client(settings_and_logging()) as client:
            return await work(client)

    return uvloop.run(whole())


@asynccontextmanager
async def owners_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client; its gateway is the running one, or one that ends with this block."""
    layout = Layout.of(settings)
    make(layout)  # there may be none yet, and the address goes through it
    with address_of(layout.owners_socket) as address:
        async with _client(address) as client:
            if await _answers(client):
                yield client
                return
            # A command that finds one running needs none of it, and starts in half the time.
            from polydev.gateway import running_gateway  # noqa: PLC0415

            async with running_gateway(settings) as gateway:
                stop = asyncio.Event()
                serving = asyncio.create_task(gateway.serve_until(stop, None))
                try:
                    await _until_it_answers(client, serving)
                    yield client
                finally:
                    stop.set()
                    await asyncio.wait({serving})
                serving.result()


async def ask(
    client: httpx.AsyncClient, method: str, path: str, body: Any = None, **query: Any
) -> Any:
    """The JSON of an answer. Raises OwnerError with the gateway's own words."""
    with answering():
        answer = await client.request(method, path, json=body, params=query)
    raise_for(answer.status_code, answer.content)
    return answer.json()


@contextmanager
def answering() -> Iterator[None]:
    """Raises SetupProblem for a gateway that does not answer, or stops in the middle of it."""
    try:
        yield
    except httpx.HTTPError as error:
        raise SetupProblem(
            f"The gateway did not answer: {error or type(error).__name__}.",
            remedy="Its log may tell why.",
        ) from error


def raise_for(status: int, content: bytes) -> None:
    """Raises OwnerError for an answer that is an error."""
    if status < 400:
        return
    try:
        fields = httpx.Response(status, content=content).json()["error"]
        message, remedy = fields["message"], fields.get("remedy", "")
    except (ValueError, KeyError, TypeError):
        message, remedy = f"The gateway answered with status {status}.", "See its log."
    raise OwnerError(message, remedy=remedy)


def _client(address: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=address)
    return httpx.AsyncClient(transport=transport, base_url="http://polydev", timeout=_TIMEOUT)


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def _until_it_answers(client: httpx.AsyncClient, serving: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await _answers(client):
                if serving.done():
                    serving.result()
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise SetupProblem(
            f"The gateway that was started does not answer after {_START_SECONDS} seconds.",
            remedy="Try again; `polydev doctor` looks at this installation.",
        ) from error
