"""`polydev doctor`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polydev.cli.client import settings_and_logging
from polydev.cli.installing import ensure_bubblewrap, ensure_desktop, ensure_programs
from polydev.config import Settings
from polydev.core.doctor import Finding, examine, failed
from polydev.core.layout import Layout
from polydev.errors import PolydevError, SetupProblem

PARTS = ("python", "sandbox", "programs", "data", "database", "gateway", "desktop")


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Only these: {', '.join(PARTS)}.")
    ] = None,
    *,
    fix: Annotated[bool, typer.Option("--fix", help="Install what is missing.")] = False,
    desktop: Annotated[
        bool,
        typer.Option("--desktop", help="With --fix: also what logins on a remote desktop need."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A list, for programs.")] = False,
) -> None:
    """Look at everything polydev needs; say what is missing and what mends it."""
    settings = settings_and_logging()
    chosen = frozenset(parts or PARTS)
    if unknown := chosen.difference(PARTS):
        raise SetupProblem(
            f"There is nothing called {', '.join(sorted(unknown))} to look at.",
            remedy=f"The parts are: {', '.join(PARTS)}.",
        )
    if desktop and not fix:
        raise SetupProblem("--desktop says what --fix is to install.", remedy="Give both.")
    findings = uvloop.run(_examine(settings, chosen, fix=fix, desktop=desktop))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


async def _examine(
    settings: Settings, parts: frozenset[str], *, fix: bool, desktop: bool
) -> list[Finding]:
    unmended = await _mend(settings, parts, desktop=desktop) if fix else []
    return [*await examine(settings, parts), *unmended]


async def _mend(settings: Settings, parts: frozenset[str], *, desktop: bool) -> list[Finding]:
    """Installs what can be; what went wrong with that."""
    problems: list[Finding] = []
    try:
        if "data" in parts and (data := Layout.of(settings).data).exists():
            _make_private(data)
        if "sandbox" in parts and settings.sandbox.kind == "bubblewrap":
            await ensure_bubblewrap()
    except PolydevError as error:
        problems.append(failed("fix", error))
    try:
        if "programs" in parts:
            await ensure_programs(settings)
    except PolydevError as error:
        problems.append(failed("fix", error))
    try:
        if desktop:
            await ensure_desktop()
    except PolydevError as error:
        problems.append(failed("fix", error))
    return problems


def _make_private(data: Path) -> None:
    try:
        data.chmod(0o700)
    except OSError as error:
        raise SetupProblem(
            f"{data} cannot be made private: {error.strerror}.", remedy=f"chmod 700 {data}"
        ) from error


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        mark = ("[green]ok[/]" if not finding.problem else "[yellow]warning[/]") if finding.ok \
            else "[bold red]missing[/]"  # fmt: skip
        words = [finding.version] if finding.version else []
        words += [finding.problem] if finding.problem else []
        table.add_row(mark, finding.name, Text("\n".join(words), overflow="fold"))
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(Text(f"\n{finding.name}: {finding.remedy}"), soft_wrap=True)
