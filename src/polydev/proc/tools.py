"""Asks a program of the host something short and takes its answer.

Raises ProgramMissing, and RunFailed with reason `tool_late` when it has not ended in time; the
program is gone in either case.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polydev.errors import ProgramMissing, RunFailed
from polydev.proc.environment import host_environment
from polydev.proc.process import Process


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolAnswer:
    code: int
    lines: tuple[str, ...]
    stderr: str


def require_program(shown: str, path: Path | None) -> None:
    """Raises ProgramMissing, naming what is `shown`, unless `path` can be executed."""
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        raise ProgramMissing(
            f"{shown} is not installed, or may not be executed.",
            remedy="Run `polydev doctor --fix`.",
        )


async def run_tool(argv: Sequence[str], *, timeout_seconds: float = 10.0) -> ToolAnswer:
    """Its exit code, output lines and the tail of its error output; its stdin is empty."""
    process = await Process.start(argv, environment=host_environment(), line_limit_bytes=2**16)
    try:
        async with asyncio.timeout(timeout_seconds):
            process.close_stdin()
            lines = tuple([line.decode(errors="replace") async for line in process.lines()])
            code = await process.wait()
    except TimeoutError:
        raise RunFailed(
            f"{process.program} did not end within {timeout_seconds:g} seconds.",
            remedy="Run it by hand to see what it waits for.",
            reason="tool_late",
        ) from None
    finally:
        await process.stop(grace_seconds=0)
    return ToolAnswer(code=code, lines=lines, stderr=process.stderr_tail())
