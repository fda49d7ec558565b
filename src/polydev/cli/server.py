"""`polydev up` and `polydev sim`."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from polydev import __version__
from polydev.config import Settings, load_settings
from polydev.gateway import network_listener, running_gateway
from polydev.logs import set_up_logging
from polydev.sim import Simulator

console = Console(highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(sim)


def up(
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
) -> None:
    """Start the gateway; Ctrl-C or SIGTERM ends it."""
    settings = load_settings()
    changed = {"port": port, "host": host}
    server = settings.server.model_copy(
        update={name: value for name, value in changed.items() if value is not None}
    )
    settings = settings.model_copy(update={"server": server})
    set_up_logging(settings.log)
    uvloop.run(_serve(settings))


def sim(
    directory: Annotated[Path, typer.Argument(help="Where its CA and credential files go.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
) -> None:
    """Start the simulator: local stand-ins for the providers, to try everything without account."""
    set_up_logging(load_settings().log)
    uvloop.run(_simulate(directory, port))


async def _serve(settings: Settings) -> None:
    stop = _stop_event()
    listener = network_listener(settings.server)
    scheme = "http" if settings.server.tls_certificate is None else "https"
    with listener:
        async with running_gateway(settings) as gateway:
            host, port = listener.getsockname()[:2]
            console.print(
                f"polydev {__version__} on {scheme}://{host}:{port}, data {settings.data}"
            )
            key = await gateway.services.accounts.first_key()
            if key is not None:
                console.print(f"Your first API key, shown only now: [bold]{key.reveal()}[/]")
            console.print("The dashboard: polydev open")
            console.print(f"OPENAI_BASE_URL={scheme}://{host}:{port}/v1")
            console.print(f"ANTHROPIC_BASE_URL={scheme}://{host}:{port}")
            await gateway.serve_until(stop, listener)


async def _simulate(directory: Path, port: int) -> None:
    stop = _stop_event()
    async with Simulator(directory, port=port) as simulator:
        console.print(f"simulator on {simulator.redirect}; its files are in {directory}")
        console.print(f"POLYDEV_EGRESS__REDIRECT={simulator.redirect}")
        console.print(f"POLYDEV_EGRESS__UPSTREAM_CA={simulator.ca}")
        await stop.wait()


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
