"""`polydev bench`."""

import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from polydev.bench.desktop import desktop
from polydev.bench.egress import egress_cost
from polydev.bench.figures import Figure
from polydev.bench.first_token import first_token
from polydev.bench.logins import logins, noticing
from polydev.bench.memory import gateway_memory
from polydev.bench.stage import stage
from polydev.cli.client import settings_and_logging
from polydev.core.layout import Layout
from polydev.core.programs import Programs
from polydev.providers.registry import PROVIDERS

console = Console(highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    runs: Annotated[int, typer.Option(min=1, help="Pairs of runs per provider.")] = 40,
    memory_runs: Annotated[int, typer.Option(min=20, help="Runs for the memory figure.")] = 500,
) -> None:
    """Measure what polydev costs, against the bare CLIs, on this machine. Takes some minutes."""
    settings = settings_and_logging()
    programs = Programs(Layout.of(settings).programs)
    if not uvloop.run(_measure(programs, runs, memory_runs)):
        sys.exit(1)


async def _measure(programs: Programs, runs: int, memory_runs: int) -> bool:
    holds = True
    with tempfile.TemporaryDirectory(prefix="polydev-bench-") as name:
        async for figure in _figures(Path(name), programs, runs, memory_runs):
            limit = "" if figure.limit is None else f" (limit {figure.limit:g} {figure.unit})"
            mark = "[green]ok  [/]" if figure.holds else "[red]over[/]"
            error = f" ± {figure.error:.1f}" if figure.error else ""
            console.print(f"{mark} {figure.name}: {figure.value:.1f}{error} {figure.unit}{limit}")
            console.print(f"     [dim]{figure.detail}[/]")
            holds = holds and figure.holds
    return holds


async def _figures(
    directory: Path, programs: Programs, runs: int, memory_runs: int
) -> AsyncIterator[Figure]:
    async for figure in egress_cost(directory / "egress", 500):
        yield figure
    async for figure in noticing(directory):
        yield figure
    providers = [name for name in PROVIDERS if programs.version(PROVIDERS[name].program)]
    async with stage(directory, programs.root, providers) as ready:
        for provider in providers:
            home = directory / "homes" / provider
            async for figure in first_token(provider, ready, programs, home, runs):
                yield figure
        async for figure in logins(ready, providers):
            yield figure
        async for figure in desktop(directory / "desktops", programs.root, ready):
            yield figure
        # codex starts quickest, so that the runs and not the CLI's start are what is measured.
        provider = "codex" if "codex" in providers else providers[0]
        async for figure in gateway_memory(provider, ready, memory_runs):
            yield figure
