"""Answers of token endpoints that are not the credential of their connection yet.

Egress seals each in the spool before the CLI hears it. It stays there until it is written back,
so neither a full disk nor a killed gateway costs the login; where the spool's own disk is full,
it stays in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from polydev.egress.binding import Binding
from polydev.egress.spool import SUFFIX, SpooledAnswer, read_spool
from polydev.errors import VaultProblem
from polydev.models.accounts import Connection
from polydev.secret import Secret
from polydev.vault import Vault

log = structlog.get_logger()

SPOOL_KEY = ("spool", "answers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """An answer, and how to drop it once what it says is kept elsewhere."""

    answer: SpooledAnswer
    discard: Callable[[], None]


class Answers:
    def __init__(self, spool: Path, vault: Vault) -> None:
        self._spool = spool
        self._vault = vault
        self._held: dict[str, Kept] = {}

    @property
    def seal_key(self) -> Secret[bytes]:
        """What egress seals answers with."""
        return self._vault.derive(*SPOOL_KEY)

    def of(self, binding: Binding) -> Kept:
        """The one that was sealed for `binding`. Raises NotFound, VaultProblem."""
        return Kept(answer=binding.read_sealed(), discard=binding.discard_sealed)

    def hold(self, kept: Kept) -> None:
        """It could not be written back now."""
        self._held[kept.answer.connection_id] = kept

    def forget(self, connection_id: str) -> None:
        self._held.pop(connection_id, None)

    def waiting_for(self, connection: Connection) -> Kept | None:
        """The answer that this connection's credential should have become."""
        held = self._held.pop(connection.id, None)
        if held is not None and is_news(held.answer, connection):
            return held
        for kept in self.in_spool():
            if kept.answer.connection_id == connection.id and is_news(kept.answer, connection):
                return kept
        return None

    def in_spool(self) -> Iterator[Kept]:
        """All on the disk; one that cannot be read stays there, for it may be a login's only copy."""
        for path in sorted(self._spool.glob(f"*{SUFFIX}")):
            try:
                answer = self._read(path)
            except (VaultProblem, OSError) as error:
                log.error("a sealed answer cannot be read", problem=str(error))
                continue
            yield Kept(answer=answer, discard=partial(path.unlink, missing_ok=True))

    def _read(self, path: Path) -> SpooledAnswer:
        problem: VaultProblem | None = None
        for key in self._vault.derive_all(*SPOOL_KEY):
            try:
                return read_spool(path, key)
            except VaultProblem as error:
                problem = error
        assert problem is not None
        raise problem


def is_news(answer: SpooledAnswer, connection: Connection) -> bool:
    """Whether it came after what the connection's credential was made of."""
    return connection.refreshed_at is None or answer.at > connection.refreshed_at
