"""The gateway's memory over many runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from polydev.bench.figures import Figure
from polydev.bench.first_token import gateway_seconds
from polydev.bench.stage import Stage

_AT_ONCE = 4
_GROWTH_LIMIT_MIB = 8.0


async def gateway_memory(provider: str, stage: Stage, runs: int) -> AsyncIterator[Figure]:
    """Resident memory after a tenth of the runs, and after all of them."""
    warm = max(_AT_ONCE, runs // 10)
    await _ask(provider, stage, warm)
    before = _resident_mib(stage.gateway_pid)
    await _ask(provider, stage, runs - warm)
    after = _resident_mib(stage.gateway_pid)
    yield Figure(
        name=f"gateway memory, growth from run {warm} to run {runs}",
        value=after - before,
        unit="MiB",
        limit=_GROWTH_LIMIT_MIB,
        detail=f"{before:.1f} → {after:.1f} MiB",
    )


async def _ask(provider: str, stage: Stage, runs: int) -> None:
    left = iter(range(runs))

    async def worker() -> None:
        async with stage.client() as client:
            for _ in left:
                await gateway_seconds(client, provider)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(worker())


def _resident_mib(pid: int) -> float:
    return _status(pid, "VmRSS") / 1024


def peak_mib(pid: int) -> float:
    return _status(pid, "VmHWM") / 1024


def _status(pid: int, name: str) -> int:
    """A figure of /proc/PID/status, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(name)
