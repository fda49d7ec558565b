"""`python -m polydev.egress FD`: started by the gateway, with its end of the channel as FD.

Ctrl-C and a service manager's TERM reach every process of the group; this one leaves the decision
to the gateway and ends when the channel closes.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from typing import Any

import uvloop

from polydev.egress.process import run_process

_PR_SET_DUMPABLE = 4


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _harden()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))


async def _serve(descriptor: int) -> None:
    asyncio.get_running_loop().set_exception_handler(_say_failure)
    await run_process(socket.socket(fileno=descriptor))


def _harden() -> None:
    """Keeps tokens out of core dumps, and this memory from processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _say_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """By its kind alone: messages may quote headers."""
    error = context.get("exception")
    kind = type(error).__name__ if error else "error"
    with contextlib.suppress(OSError):
        os.write(2, f"polydev egress: {kind} in the event loop\n".encode())


if __name__ == "__main__":
    main()
