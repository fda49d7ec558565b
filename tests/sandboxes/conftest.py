import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from polydev.models.places import Launch
from polydev.proc import Process
from polydev.sandboxes import Bubblewrap, Sandbox, Sandboxes, Unprotected

KINDS: dict[str, Any] = {"bubblewrap": Bubblewrap, "none": Unprotected}


@pytest.fixture
def machine(tmp_path_factory) -> Path:
    """A host's data directory, with a program in it, on a path short enough for a socket."""
    data: Path = tmp_path_factory.mktemp("host", numbered=True)
    bin_directory = data / "programs" / "node_modules" / "tool"
    bin_directory.mkdir(parents=True)
    (bin_directory / "tool").write_text('#!/bin/sh\necho "tool $1"\n')
    (bin_directory / "tool").chmod(0o755)
    (data / "authority.pem").write_text("made-up authority\n")
    (data / "vault.key").write_text("made-up key of the host\n")
    return data


def make(kind: str, data: Path) -> Sandboxes:
    sandboxes: Sandboxes = KINDS[kind](
        directory=data / "sandboxes", programs=data / "programs", authority=data / "authority.pem"
    )
    return sandboxes


@pytest.fixture(params=list(KINDS))
def kind(request) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def sandboxes(anyio_backend, kind, machine) -> AsyncIterator[Sandboxes]:
    async with make(kind, machine) as made:
        yield made


@pytest.fixture
async def bubblewrap(anyio_backend, machine) -> AsyncIterator[Sandboxes]:
    async with make("bubblewrap", machine) as made:
        yield made


async def lines_of(process: Process, seconds: float = 20) -> list[str]:
    async with asyncio.timeout(seconds):
        return [line.decode(errors="replace") async for line in process.lines()]


async def first_line(process: Process, seconds: float = 20) -> str:
    async with asyncio.timeout(seconds):
        async for line in process.lines():
            return line.decode(errors="replace")
    raise AssertionError(f"it printed nothing; {process.stderr_tail()}")


async def output(sandboxes: Sandboxes, launch: Launch) -> list[str]:
    """What `launch` prints in a sandbox of its own; it must succeed."""
    async with await sandboxes.open(lambda _: launch) as sandbox:
        process = await sandbox.start()
        lines = await lines_of(process)
        async with asyncio.timeout(20):
            assert await process.wait() == 0, process.stderr_tail()
    return lines


def marked(mark: str) -> list[int]:
    """Processes on this machine whose environment holds MARK=`mark`."""
    wanted = f"MARK={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def none_marked(mark: str, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while marked(mark):
            await asyncio.sleep(0.02)


async def serve(sandbox: Sandbox, answer: Callable[[int], bytes]) -> list[asyncio.Server]:
    """Answers on each listener, on copies of them as egress does."""
    servers = []
    for index, listener in enumerate(sandbox.listeners):

        async def greet(reader, writer, index=index):
            writer.write(answer(index) + await reader.readline())
            await writer.drain()
            writer.close()

        start = asyncio.start_unix_server if index == 0 else asyncio.start_server
        servers.append(await start(greet, sock=listener.dup()))
    return servers


def descriptors() -> list[str]:
    """Our own open sockets and pipes: what would be left of a sandbox in this process."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:", "anon_inode:[pidfd]", "/memfd:")):
            found.append(target)
    return sorted(found)
