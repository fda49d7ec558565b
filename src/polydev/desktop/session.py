"""A desktop from outside: what it said so far, and what it is told.

Its program prints one line per fact (see files/session). `Desktop` reads them in a task of its
own, from `async with` until the end. A wait for a fact is bounded, in there and here, and raises
SandboxUnavailable with the fact's name in its reason: `desktop_browser_late`, `desktop_ended`.
"""

import asyncio
import re
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

from polydev.errors import PolydevError, SandboxUnavailable
from polydev.models.desktops import Window
from polydev.proc import Process

_FACT_SECONDS = 60.0  # each is bounded in there too, and more tightly
_SAYS_SECONDS = 5.0


class Fact(StrEnum):
    """What is observed of a desktop, in the order in which it comes about."""

    DISPLAY = "display"  # the X server runs
    MANAGER = "manager"  # windows are managed
    TERMINAL = "terminal"  # its window is there
    BROWSER = "browser"  # its window is there
    COMMAND = "command"  # it runs in the terminal, which has the keyboard


_FACTS = frozenset(Fact)
_EXIT_CODE = re.compile(r"[0-9]{1,3}")


class Desktop:
    """What a desktop says and is told.

    on_fact: called with each line that says what came about. on_end: called with the exit code
    each time that the command in the terminal ended.
    """

    def __init__(self, process: Process) -> None:
        self.on_fact: Callable[[str], None] = lambda _: None
        self.on_end: Callable[[int], None] = lambda _: None
        self._process = process
        self._facts: set[str] = set()
        self._trouble: PolydevError | None = None
        self._changed = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def until(self, fact: Fact) -> None:
        """Waits for it. Raises SandboxUnavailable when it does not come about."""
        try:
            async with asyncio.timeout(_FACT_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._trouble or fact in self._facts)
        except TimeoutError:
            raise self._failure(f"desktop_{fact}_late", f"its {fact} did not come up") from None
        if fact not in self._facts:
            assert self._trouble is not None
            raise self._trouble

    async def failed(self) -> PolydevError:
        """Waits until something of it fails, and says what."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._trouble)
        assert self._trouble is not None
        return self._trouble

    @property
    def facts(self) -> frozenset[str]:
        """What came about so far."""
        return frozenset(self._facts)

    @property
    def usable(self) -> bool:
        return self._trouble is None

    async def open(self) -> None:
        """Has the command start in the terminal, once it is written where it is looked for."""
        await self._process.send([b"open"])

    async def raise_window(self, window: Window) -> None:
        """Has it brought to the front with the keyboard; one that was closed is opened again."""
        await self._process.send([f"raise {window}".encode()], timeout_seconds=_SAYS_SECONDS)

    async def _read(self) -> None:
        try:
            async for line in self._process.lines():
                await self._hear(line.decode(errors="replace"))
        except PolydevError as error:
            await self._fail(error)
        else:
            await self._fail(self._failure("desktop_ended", "it ended by itself"))

    async def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "ready" if rest in _FACTS:
                async with self._changed:
                    self._facts.add(rest)
                    self._changed.notify_all()
                self.on_fact(line)
            case "raised" | "visited":
                self.on_fact(line)
            case "late" if rest in _FACTS:
                await self._fail(self._failure(f"desktop_{rest}_late", f"its {rest} is not there"))
            case "ended" if _EXIT_CODE.fullmatch(rest):
                self.on_end(int(rest))

    async def _fail(self, trouble: PolydevError) -> None:
        async with self._changed:
            self._trouble = self._trouble or trouble
            self._changed.notify_all()

    def _failure(self, reason: str, what: str) -> SandboxUnavailable:
        words = self._process.stderr_tail().strip()[-300:]
        return SandboxUnavailable(
            f"The desktop did not work: {what}. {words}".strip(),
            remedy="Run `polydev doctor desktop`; it says what a desktop needs. On a busy machine, "
            "try again.",
            reason=reason,
        )
