"""What is asked for at the same time is written in one transaction.

On a busy machine the steps around a write (its turn, begin, commit) cost more than the write. Two
hundred runs that arrive at once wait for two or three transactions, not for two hundred.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from polydev.errors import StoreProblem

Row = TypeVar("Row")


class Together(Generic[Row]):
    """write: stores all rows or none. It is given those that came while it was at work."""

    def __init__(self, write: Callable[[Sequence[Row]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, row: Row) -> None:
        """Until the row is stored. Raises what `write` raised for it.

        A caller that is cancelled meanwhile may find the row stored all the same.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, stored))
        if self._task is None:
            self._task = asyncio.create_task(self._write_all())
        await stored

    async def _write_all(self) -> None:
        taken: list[tuple[Row, asyncio.Future[None]]] = []
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                taken = [one for one in taken if not one[1].cancelled()]
                if not await self._stored(taken):
                    for one in taken:  # to find the row that cannot be stored
                        await self._stored([one])
        finally:
            self._task = None
            for _, stored in taken + self._waiting:
                stored.cancel()  # does nothing to one that has its result
            self._waiting = []

    async def _stored(self, taken: Sequence[tuple[Row, asyncio.Future[None]]]) -> bool:
        """False: none of several rows could be stored, and nobody has been told."""
        problem: Exception | None = None
        try:
            if taken:
                await self._write([row for row, _ in taken])
        except Exception as error:
            if len(taken) > 1 and not isinstance(error, StoreProblem):
                return False
            problem = error
        for _, stored in taken:
            if stored.cancelled():
                continue
            if problem is None:
                stored.set_result(None)
            else:
                stored.set_exception(problem)
        return True
