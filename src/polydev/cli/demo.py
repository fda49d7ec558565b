"""`polydev demo`: everything working end to end, with no account and no provider.

A simulator and a gateway of its own, on free loopback ports and in a directory that goes with
them; the CLIs are the real ones. Nothing of this installation but the CLIs is used or changed.
"""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from polydev.cli.client import OwnerError, raise_for, settings_and_logging
from polydev.cli.connections import credential_files
from polydev.cli.installing import ensure_bubblewrap, ensure_programs
from polydev.config import (
    EgressSettings,
    KeeperSettings,
    KeySettings,
    RunSettings,
    ServerSettings,
    Settings,
    StoreSettings,
)
from polydev.core.connecting import NewConnection
from polydev.core.layout import Layout
from polydev.core.programs import Programs
from polydev.errors import PolydevError
from polydev.gateway import Gateway, network_listener, running_gateway
from polydev.models.accounts import Ownership
from polydev.providers.registry import PROVIDERS
from polydev.secret import Secret
from polydev.sim import Simulator

QUESTION = "calculate 3*67 and respond with just the number"
RIGHT = "201"
_ANSWER_SECONDS = 120.0

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """An API of the gateway, as its SDK uses it. extra: what its requests have besides."""

    name: str
    path: str
    extra: dict[str, Any]

    def text_in(self, data: dict[str, Any]) -> str:
        """What one streamed chunk adds to the answer. Raises OwnerError for one that is an error."""
        if "error" in data:
            raise OwnerError(data["error"].get("message", "The run failed."))
        if self.name == "OpenAI":
            return "".join(choice["delta"].get("content") or "" for choice in data["choices"])
        return str(data.get("delta", {}).get("text", ""))


SURFACES = (
    Surface(name="OpenAI", path="/v1/chat/completions", extra={}),
    Surface(name="Anthropic", path="/v1/messages", extra={"max_tokens": 64}),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    text: str
    first_seconds: float
    problem: str = ""

    @property
    def right(self) -> bool:
        return not self.problem and self.text.strip() == RIGHT


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo() -> None:
    """Show it working against the simulator: every CLI, both APIs, no account."""
    sys.exit(uvloop.run(_until_stopped(settings_and_logging())))


async def _until_stopped(settings: Settings) -> int:
    """The exit code; Ctrl-C and SIGTERM end it as if it had come to its end."""
    task = asyncio.create_task(_demo(settings))
    loop = asyncio.get_running_loop()
    stopped_by: list[int] = []

    def stop(number: int) -> None:
        stopped_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + stopped_by[0] if stopped_by else 1


async def _demo(settings: Settings) -> int:
    await ensure_bubblewrap()
    await ensure_programs(settings)
    programs = Programs(Layout.of(settings).programs)
    table = Table("provider", "CLI", "API", "answer", "first token", box=None, pad_edge=False)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="polydev-demo-") as name:
        async with _stage(settings, Path(name)) as (simulator, gateway, client):
            console.print(f"Asking: {QUESTION}\n")
            for provider in PROVIDERS.values():
                await _connect(gateway, simulator, provider.name)
                for surface in SURFACES:
                    answer = await _ask(client, surface, provider.name)
                    wrong += not answer.right
                    table.add_row(
                        provider.title,
                        f"{provider.name} {programs.version(provider.program)}",
                        surface.name,
                        answer.problem or answer.text.strip(),
                        f"{answer.first_seconds * 1000:.0f} ms" if answer.text else "",
                        style="" if answer.right else "red",
                    )
    console.print(table)
    if wrong:
        console.print(f"\n{wrong} of the answers are wrong: each should be {RIGHT}.")
        return 1
    console.print("\nThe real thing: `polydev up`, then `polydev open`, and click Connect.")
    return 0


@asynccontextmanager
async def _stage(
    settings: Settings, directory: Path
) -> AsyncIterator[tuple[Simulator, Gateway, httpx.AsyncClient]]:
    """A simulator, a gateway that reaches nothing else, and a client with the gateway's key."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(directory / "simulator"))
        listener = stack.enter_context(network_listener(ServerSettings(port=0)))
        own = settings.model_copy(
            update={
                "data": directory / "data",
                "programs": Layout.of(settings).programs,
                "master_key": None,
                "server": ServerSettings(),
                "runs": RunSettings(),
                "keys": KeySettings(),
                "egress": EgressSettings(redirect=simulator.redirect, upstream_ca=simulator.ca),
                "store": StoreSettings(),
                "keeper": KeeperSettings(),
            }
        )
        gateway = await stack.enter_async_context(running_gateway(own))
        stop = asyncio.Event()
        serving = asyncio.create_task(gateway.serve_until(stop, listener))
        key = await gateway.services.accounts.first_key()
        assert key is not None
        try:
            host, port = listener.getsockname()[:2]
            async with httpx.AsyncClient(
                base_url=f"http://{host}:{port}",
                headers={"authorization": f"Bearer {key.reveal()}"},
                timeout=_ANSWER_SECONDS,
                trust_env=False,
            ) as client:
                yield simulator, gateway, client
        finally:
            stop.set()
            await asyncio.wait({serving})
        serving.result()


async def _connect(gateway: Gateway, simulator: Simulator, name: str) -> None:
    provider = PROVIDERS[name]
    _, files = credential_files(provider, simulator.credential_path(name))
    await gateway.services.connecting.connect(
        NewConnection(
            user=await gateway.services.accounts.user_named(None),
            provider=name,
            files={path: Secret(content) for path, content in files.items()},
            ownership=Ownership.TAKE,
            source=None,
        )
    )


async def _ask(client: httpx.AsyncClient, surface: Surface, model: str) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    text, first = "", 0.0
    started_at = time.perf_counter()
    try:
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            client.stream("POST", surface.path, json=body | surface.extra) as stream,
        ):
            if stream.is_error:
                raise_for(stream.status_code, await stream.aread())
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                added = surface.text_in(json.loads(line.removeprefix("data: ")))
                if added and not text:
                    first = time.perf_counter() - started_at
                text += added
    except (PolydevError, httpx.HTTPError, TimeoutError) as error:
        return Answer(text=text, first_seconds=first, problem=str(error) or type(error).__name__)
    return Answer(text=text, first_seconds=first)
