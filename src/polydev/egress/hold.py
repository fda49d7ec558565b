"""Who may still put an answer into a spool.

An egress process outlives a killed gateway for as long as it takes to finish a sealed request,
and holds the spool meanwhile. The next gateway waits for that: refreshed before the answer is
there, a login would be asked for twice with one refresh token, which providers answer by revoking
it.
"""

import asyncio
import fcntl
import os
from pathlib import Path

_LOOK_AGAIN_SECONDS = 0.05


def hold(spool: Path) -> int:
    """A descriptor that holds `spool` until it is closed, or its process ends. Raises OSError."""
    descriptor = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


async def let_go(spool: Path, seconds: float) -> bool:
    """Waits until nobody holds `spool`; False when somebody still does after so long."""
    descriptor = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # A lock's end can only be waited for by a thread that nothing can stop.
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                else:
                    return True
    except TimeoutError:
        return False
    finally:
        os.close(descriptor)
