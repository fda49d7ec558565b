"""What the measurements run on: a simulator and a gateway, each a process of its own."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from polydev.bench.proxy import proxy
from polydev.errors import SetupProblem
from polydev.models.accounts import Ownership

_START_SECONDS = 60.0
_READY = re.compile(rb"on (?:http://)?127\.0\.0\.1:(\d+)")
_LAST_LINE = re.compile(rb"(?:ANTHROPIC_BASE_URL|UPSTREAM_CA)=\S+\s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """simulator, gateway: their ports on 127.0.0.1; directory: the simulator's files; data: the
    gateway's.

    proxy: the address of one that leads every name to the simulator.
    """

    simulator: int
    proxy: str
    directory: Path
    data: Path
    gateway: int
    gateway_pid: int
    key: str

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.gateway}",
            headers={"authorization": f"Bearer {self.key}"},
            timeout=120,
        )


@asynccontextmanager
async def stage(directory: Path, programs: Path, providers: list[str]) -> AsyncIterator[Stage]:
    """Both started, and every provider connected. Raises SetupProblem."""
    files = directory / "simulator"
    environment = dict(os.environ)
    async with _child(["sim", str(files)], environment) as (_, simulator, _):
        environment |= {
            "POLYDEV_DATA": str(directory / "data"),
            "POLYDEV_PROGRAMS": str(programs),
            "POLYDEV_EGRESS__REDIRECT": f"127.0.0.1:{simulator}",
            "POLYDEV_EGRESS__UPSTREAM_CA": str(files / "ca.pem"),
            "POLYDEV_KEYS__REQUESTS_PER_MINUTE": "1000000",
        }
        async with _child(["up", "--port", "0"], environment) as (pid, gateway, words):
            found = re.search(rb"polydev_\w+", words)
            if found is None:
                raise SetupProblem("The gateway printed no key.")
            for provider in providers:
                await _connect(provider, files, environment)
            async with proxy(simulator) as address:
                yield Stage(
                    simulator=simulator,
                    proxy=address,
                    directory=files,
                    data=directory / "data",
                    gateway=gateway,
                    gateway_pid=pid,
                    key=found[0].decode(),
                )


def access_token(stage: Stage, provider: str) -> str:
    """What the simulator accepts, for the bare CLI (claude takes it from its environment)."""
    file = next((stage.directory / provider).rglob("*.json"))
    return str(json.loads(file.read_bytes())["claudeAiOauth"]["accessToken"])


async def _connect(provider: str, files: Path, environment: dict[str, str]) -> None:
    source = next(path for path in (files / provider).rglob("*") if path.is_file())
    process = await asyncio.create_subprocess_exec(
        *_command(["connect", provider, "--from", str(source), f"--{Ownership.FOLLOW.value}"]),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait():
        raise SetupProblem(f"{provider} could not be connected to the simulator.")


@asynccontextmanager
async def _child(
    arguments: list[str], environment: dict[str, str]
) -> AsyncIterator[tuple[int, int, bytes]]:
    """A `polydev` process that has said its port: pid, port, what it said."""
    process = await asyncio.create_subprocess_exec(
        *_command(arguments),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        words = b""
        async with asyncio.timeout(_START_SECONDS):
            while not _LAST_LINE.search(words):
                line = await process.stdout.readline()
                if not line:
                    raise SetupProblem(f"`polydev {arguments[0]}` ended while it was starting.")
                words += line
        port = _READY.search(words)
        assert port is not None
        yield process.pid, int(port[1]), words
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "polydev", *arguments]
