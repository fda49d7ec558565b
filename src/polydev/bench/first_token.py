"""Request → first token: through the gateway, and by the bare one-shot CLI, in turn."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from polydev.bench.bare import PROMPT, Bare, bare_cli
from polydev.bench.figures import Figure, median_error_ms, median_ms, spread
from polydev.bench.stage import Stage
from polydev.core.programs import Programs
from polydev.errors import RunFailed

_LIMIT_MS = 30.0


async def first_token(
    provider: str, stage: Stage, programs: Programs, home: Path, runs: int
) -> AsyncIterator[Figure]:
    bare = bare_cli(provider, stage, programs, home)
    if bare is None:
        return
    alone: list[float] = []
    through: list[float] = []
    async with stage.client() as client:
        for number in range(runs + 1):
            pair = await _bare_seconds(bare, home), await gateway_seconds(client, provider)
            if number:  # the first pair warms the caches of the file system
                alone.append(pair[0])
                through.append(pair[1])
    # Pair by pair: what slows the machine for a while slows both of a pair.
    differences = [after - before for before, after in zip(alone, through, strict=True)]
    yield Figure(
        name=f"{provider}: first token, gateway less bare CLI",
        value=median_ms(differences),
        error=median_error_ms(differences),
        unit="ms",
        limit=_LIMIT_MS,
        detail=f"gateway {spread(through)}; bare {spread(alone)}; "
        f"ratio {median_ms(through) / median_ms(alone):.2f}",
    )


async def gateway_seconds(client: httpx.AsyncClient, provider: str) -> float:
    """From sending a streaming request to the first text. Raises RunFailed without one."""
    body = {"model": provider, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    started = time.perf_counter()
    first: float | None = None
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and first is None:
                choices = json.loads(line[6:]).get("choices")
                if choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - started
    if first is None:
        raise RunFailed(f"{provider} gave no text (status {answer.status_code}).")
    return first


async def _bare_seconds(bare: Bare, home: Path) -> float:
    started = time.perf_counter()
    first: float | None = None
    process = await asyncio.create_subprocess_exec(
        *bare.argv,
        env=bare.environment,
        cwd=home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=2**22,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if first is None and bare.mark in line:
            first = time.perf_counter() - started
    await process.wait()
    if first is None:
        raise RunFailed(f"{bare.argv[0]} gave no text (exit code {process.returncode}).")
    return first
