"""Cleaning up that a cancellation may interrupt the caller of, but not the cleaning up itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: "Coroutine[Any, Any, T] | asyncio.Task[T]") -> T:
    """Waits until `work` is done, also when the caller is cancelled meanwhile.

    The cancellation is raised afterwards. `work` bounds its own waits; only cancelling its task
    itself (a loop that shuts down) ends it early.
    """
    task = work if isinstance(work, asyncio.Task) else asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()
