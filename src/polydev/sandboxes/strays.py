"""Processes of a sandbox that got away, known by a variable that only they were started with.

Descendants inherit it; one that removes it from its environment is not found. Where there is no
/proc, none is.
"""

import os
import select
import signal
import time
from pathlib import Path

_MOST_ROUNDS = 50
_EMPTY_ROUNDS = 5
_ROUND_SECONDS = 1.0


def kill_strays(name: str, value: Path) -> int:
    """Kills them until there are none, and waits for their end; how many were killed.

    Blocks, for some milliseconds as a rule; bounded also when they fork faster than they are
    killed. A process is held by its descriptor, so that its id cannot come to mean another.
    """
    killed = empty_rounds = 0
    for _ in range(_MOST_ROUNDS):
        held = _strays(name.encode() + b"=" + os.fsencode(value))
        if not held:
            # One that forks and ends while it is looked for is missed now and then.
            empty_rounds += 1
            if empty_rounds == (_EMPTY_ROUNDS if killed else 1):
                break
            continue
        empty_rounds = 0
        try:
            for descriptor in held:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            killed += len(held)
            _wait(held)
        except ProcessLookupError:
            continue
        finally:
            for descriptor in held:
                os.close(descriptor)
    return killed


def _strays(mark: bytes) -> list[int]:
    held: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        if _has(entry, mark):
            try:
                descriptor = os.pidfd_open(int(entry.name))
            except ProcessLookupError:
                continue
            if _has(entry, mark):
                held.append(descriptor)
            else:
                os.close(descriptor)
    return held


def _has(entry: Path, mark: bytes) -> bool:
    try:
        return mark in entry.joinpath("environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or belongs to someone else
        return False


def _wait(held: list[int]) -> None:
    waiting = select.poll()
    for descriptor in held:
        waiting.register(descriptor, select.POLLIN)
    left = len(held)
    until = time.monotonic() + _ROUND_SECONDS
    while left and (rest := until - time.monotonic()) > 0:
        for descriptor, _ in waiting.poll(rest * 1000):
            waiting.unregister(descriptor)
            left -= 1
