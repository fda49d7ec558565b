"""Installs what is missing, and shows how far that is: a moving line on a terminal, a plain line
now and then elsewhere.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from polydev.config import Settings
from polydev.core.debian import install_line, install_packages, may_install
from polydev.core.desktops import missing_packages
from polydev.core.installer import Progress, Report, install, is_current
from polydev.core.layout import Layout
from polydev.errors import SetupProblem
from polydev.providers.registry import PROVIDERS

_PLAIN_SECONDS = 5.0

told = Console(stderr=True, highlight=False, soft_wrap=True)


async def ensure_bubblewrap() -> None:
    """Installs it where that needs nobody's password; otherwise leaves it to the examination."""
    if shutil.which("bwrap") is None and await may_install():
        told.print("Installing bubblewrap with apt-get …")
        await install_packages(["bubblewrap"])


async def ensure_desktop() -> None:
    """Installs what a remote desktop needs. Raises SetupProblem where that takes a password."""
    missing = missing_packages()
    if not missing:
        return
    if not await may_install():
        raise SetupProblem(
            "A remote desktop's packages cannot be installed from here.",
            remedy=f"Run it by hand: {install_line(missing)}",
        )
    told.print(f"Installing {', '.join(missing)} with apt-get …")
    await install_packages(missing)


async def ensure_programs(settings: Settings) -> None:
    """Installs the CLIs, showing how far it is, unless they are there."""
    root = Layout.of(settings).programs
    if is_current(root):
        return
    needed = [provider.program for provider in PROVIDERS.values()]
    with _shown_progress() as report:
        await install(root, needed, report=report)


@contextmanager
def _shown_progress() -> Iterator[Report]:
    started_at = time.monotonic()
    if told.is_terminal:
        with told.status("Installing the CLIs …") as status:
            yield lambda progress: status.update(_words(progress, time.monotonic() - started_at))
    else:
        yield _plain(started_at)
    told.print(f"The CLIs are installed ({time.monotonic() - started_at:.0f} s).")


def _plain(started_at: float) -> Report:
    said_at: dict[str, float] = {}

    def report(progress: Progress) -> None:
        now = time.monotonic()
        if now - said_at.get(progress.what, float("-inf")) >= _PLAIN_SECONDS:
            said_at[progress.what] = now
            told.print(_words(progress, now - started_at))

    return report


def _words(progress: Progress, seconds: float) -> str:
    size = f" {progress.written_bytes / 2**20:,.0f} MiB," if progress.written_bytes else ""
    return f"Installing the CLIs: {progress.what},{size} {seconds:.0f} s"
