"""Replaces the master key: a new one seals everything, then the old one is dropped.

May be interrupted anywhere, by a kill or a full disk, and begun again: until everything is sealed
with the new key both are kept, and whoever starts polydev in between has both. The caller holds
the data directory's lock. Fails with VaultProblem and StoreProblem; nothing is lost then.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog

from polydev.config import Settings
from polydev.core.answers import SPOOL_KEY
from polydev.core.opened_vault import opened_vault
from polydev.egress.spool import SUFFIX, reseal_spool
from polydev.errors import StoreProblem, VaultProblem
from polydev.store import SealedValue, Store
from polydev.vault import KeyRing, Vault, add_key, drop_old_keys

log = structlog.get_logger()

# Only another gateway on the same PostgreSQL makes a second pass find anything.
_PASSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """continued: whether an interrupted one was finished; no newer key was made then."""

    keyring: KeyRing
    resealed: int
    continued: bool


async def rotate(settings: Settings, store: Store, spool: Path) -> Rotation:
    vault = await opened_vault(settings, store)
    continued = vault.keyring.rotating
    if not continued:
        vault.use(add_key(vault.keyring))
    resealed = await _reseal_all(store, vault)
    resealed += await asyncio.to_thread(_reseal_spool, spool, vault)
    keyring = vault.keyring
    if keyring.file is not None:
        keyring = drop_old_keys(keyring)
    log.info("the master key was rotated", key=keyring.first.id.hex(), resealed=resealed)
    return Rotation(keyring=keyring, resealed=resealed, continued=continued)


async def _reseal_all(store: Store, vault: Vault) -> int:
    total = 0
    for _ in range(_PASSES):
        found = 0
        async for value in store.sealed.every():
            fresh = _resealed(vault, value)
            if fresh is not None:
                found += 1
                total += await store.sealed.replace(value, fresh)
        if found == 0:
            return total
    raise StoreProblem(
        "Values sealed with the old key keep coming: another gateway writes to this database.",
        remedy="Stop it, or start it with both keys, the new one first; then rotate again.",
        reason="not_alone",
    )


def _resealed(vault: Vault, value: SealedValue) -> bytes | None:
    try:
        return vault.reseal(value.sealed, value.context)
    except VaultProblem as error:
        where = " ".join(
            part for part in (value.context.purpose.value, *map(str, value.key)) if part
        )
        raise VaultProblem(
            f"The rotation stopped at a value that does not open ({where}): {error.message}",
            remedy=f"{error.remedy} Both keys are kept until then.",
            reason=error.reason,
        ) from error


def _reseal_spool(spool: Path, vault: Vault) -> int:
    keys = vault.derive_all(*SPOOL_KEY)
    try:
        return sum(reseal_spool(path, keys) for path in sorted(spool.glob(f"*{SUFFIX}")))
    except OSError as error:
        raise VaultProblem(
            f"{spool} cannot be resealed: {error.strerror}.",
            remedy="Make room or give this account access, then rotate again.",
            reason="spool_unusable",
        ) from error
