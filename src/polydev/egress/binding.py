"""The gateway's view of one sandbox's way out."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import structlog

from polydev.egress.spool import SUFFIX, SpooledAnswer, open_answer, read_spool
from polydev.errors import EgressProblem, NotFound
from polydev.models.egress import Exchange
from polydev.secret import Secret

_KEPT_EXCHANGES = 256

log = structlog.get_logger()

OnExchange = Callable[[Exchange], None]


class Binding:
    """One sandbox's way out, for one connection. Use as an async context manager, or close it.

    exchanges: the latest requests, refused ones included.
    sealed: set once an answer of a sealed rule is kept; `read_sealed` opens it.
    """

    def __init__(
        self,
        unbind: Callable[[str], Awaitable[None]],
        spool: Path,
        *,
        id: str,
        connection_id: str,
        seal_key: Secret[bytes] | None,
        on_exchange: OnExchange | None,
    ) -> None:
        self.id = id
        self.connection_id = connection_id
        self.exchanges: deque[Exchange] = deque(maxlen=_KEPT_EXCHANGES)
        self.sealed = asyncio.Event()
        self.spool_path = spool / f"{id}{SUFFIX}"
        self._unbind = unbind
        self._seal_key = seal_key
        self._on_exchange = on_exchange
        self._unwritten: bytes | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes listeners and connections.

        Returns when sealed requests under way are kept too, so `sealed` is final afterwards.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await self._unbind(self.id)
        except EgressProblem as problem:
            # The process is gone, and every listener with it; what it sealed is on disk.
            log.warning("egress binding ended with its process", reason=problem.reason)
        if self.spool_path.exists():
            self.sealed.set()

    def read_sealed(self) -> SpooledAnswer:
        """The sealed answer. It stays in the spool until `discard_sealed`.

        Raises NotFound when there is none, VaultProblem when it does not open.
        """
        if self._seal_key is None:
            raise NotFound("This binding was made without a key, so nothing is sealed.")
        if self._unwritten is not None:
            return open_answer(self._unwritten, self._seal_key, binding_id=self.id)
        try:
            return read_spool(self.spool_path, self._seal_key)
        except FileNotFoundError as error:
            raise NotFound("No answer of a token endpoint is sealed for this binding.") from error

    def discard_sealed(self) -> None:
        """Removes the sealed answer, once what it says is kept elsewhere."""
        self.spool_path.unlink(missing_ok=True)
        self._unwritten = None
        self.sealed.clear()

    def saw(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        if self._on_exchange:
            self._on_exchange(exchange)

    def was_sealed(self, unwritten: bytes | None) -> None:
        self._unwritten = unwritten
        self.sealed.set()


def process_gone() -> EgressProblem:
    return EgressProblem(
        "The egress process is gone; nothing in flight through it came to an end.",
        remedy="The gateway ends by it. Try again once it runs; the installed service starts it.",
        reason="gone",
    )
