"""A real desktop in a real sandbox, with a command that does what a test needs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from polydev.config import DesktopSettings
from polydev.core.desktops import Desktops, OpenDesktop, missing_packages
from polydev.models.places import Launch
from polydev.sandboxes import Bubblewrap, Sandboxes


@pytest.fixture
async def sandboxes(
    anyio_backend: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Sandboxes]:
    if missing := missing_packages():
        pytest.fail(f"not installed: {', '.join(missing)}; run `make setup`")
    data: Path = tmp_path_factory.mktemp("host")
    (data / "programs").mkdir()
    (data / "authority.pem").touch()
    async with Bubblewrap(
        directory=data / "sandboxes", programs=data / "programs", authority=data / "authority.pem"
    ) as made:
        yield made
    assert list((data / "sandboxes").iterdir()) == []


@asynccontextmanager
async def standby(sandboxes: Sandboxes, count: int) -> AsyncIterator[Desktops]:
    async with Desktops(sandboxes, DesktopSettings(standby=count), None) as desktops:
        yield desktops


def shell(script: str) -> Launch:
    """A command of the terminal, in place of a CLI."""
    return Launch(argv=("/bin/sh", "-c", script), needs_port=True)


async def told(desktop: OpenDesktop, wanted: Callable[[str], bool], seconds: float = 60) -> str:
    """The next fact of the desktop that is `wanted`."""
    facts: asyncio.Queue[str] = asyncio.Queue()
    desktop.desktop.on_fact = facts.put_nowait
    async with asyncio.timeout(seconds):
        while not wanted(fact := await facts.get()):
            pass
    return fact
