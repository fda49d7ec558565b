"""The rotation of the master key as the store sees it, with the real vault."""

import os

import pytest

from polydev.events import EndReason, Outcome, RunFinished
from polydev.models.accounts import Connection, ConnectionState, User
from polydev.models.seals import (
    SealPurpose,
    credential_context,
    events_context,
    proxy_context,
    request_context,
)
from polydev.secret import Secret
from polydev.store import VAULT_CHECK, EventBatch, SealedValue, Store
from polydev.vault import KeyRing, MasterKey, Vault
from tests.store.conftest import NOW, connection_of, run_on

pytestmark = pytest.mark.anyio

OLD, NEW = MasterKey(Secret(b"o" * 32)), MasterKey(Secret(b"n" * 32))


async def fill(store: Store, user: User, vault: Vault, count: int) -> None:
    await store.facts.keep(VAULT_CHECK, vault.check_value())
    for number in range(count):
        connection = connection_of(user)
        await store.connections.add(
            connection,
            vault.seal(f"credential {number}".encode(), credential_context(connection)),
            vault.seal(f"proxy {number}".encode(), proxy_context(connection)),
        )
        run = run_on(connection)
        await store.runs.add(run, vault.seal(b"request", request_context(run)))
        await store.runs.append_events(
            [
                EventBatch(
                    run_id=run.id,
                    first_number=first,
                    last_number=first + 1,
                    sealed=vault.seal(f"events {first}".encode(), events_context(run, first)),
                )
                for first in (1, 3)
            ]
        )


async def rotate(store: Store, vault: Vault, *, stop_after: int | None = None) -> int:
    """How many values it resealed; it gives up after `stop_after`, as when killed."""
    resealed = 0
    async for value in store.sealed.every():
        fresh = vault.reseal(value.sealed, value.context)
        if fresh is not None:
            assert await store.sealed.replace(value, fresh)
            resealed += 1
        if resealed == stop_after:
            break
    return resealed


async def opened(store: Store, vault: Vault) -> list[bytes]:
    return sorted(
        [vault.open(value.sealed, value.context).reveal() async for value in store.sealed.every()]
    )


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polydev.store.sealed._AT_ONCE", 3)
    monkeypatch.setattr("polydev.store.sealed._REQUESTS_AT_ONCE", 2)


@pytest.mark.usefixtures("small_batches")
async def test_every_value_is_given_once_with_the_context_it_was_sealed_for(
    store: Store, user: User
) -> None:
    vault = Vault(KeyRing(keys=(OLD,)))
    await fill(store, user, vault, 7)
    values = [value async for value in store.sealed.every()]
    assert len(values) == len({(value.context.purpose, value.key) for value in values}) == 36
    assert len(await opened(store, vault)) == 36
    assert values[-1].context.purpose is SealPurpose.CHECK


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("stop_after", [1, 4, 8, 11, 25])
async def test_a_rotation_that_was_interrupted_is_finished_by_the_next(
    store: Store, user: User, stop_after: int
) -> None:
    await fill(store, user, Vault(KeyRing(keys=(OLD,))), 5)
    both = Vault(KeyRing(keys=(NEW, OLD)))
    before = await opened(store, both)
    assert await rotate(store, both, stop_after=stop_after) == stop_after
    assert await opened(store, both) == before
    assert await rotate(store, both) == 26 - stop_after
    assert await rotate(store, both) == 0
    assert await opened(store, Vault(KeyRing(keys=(NEW,)))) == before


async def test_a_value_written_in_between_is_not_undone(
    store: Store, connection: Connection
) -> None:
    (value,) = [value async for value in store.sealed.every()]
    assert await store.connections.swap_credential(
        connection.id, 1, b"a newer credential", expires_at=None
    )
    assert not await store.sealed.replace(value, b"the older one, resealed")
    stored = await store.connections.credential(connection.id)
    assert stored is not None
    assert (stored.version, stored.sealed) == (2, b"a newer credential")


async def test_a_value_is_replaced_only_by_whoever_read_it_last(store: Store, user: User) -> None:
    await fill(store, user, Vault(KeyRing(keys=(OLD,))), 1)
    values = [value async for value in store.sealed.every()]
    assert {value.context.purpose for value in values} == set(SealPurpose)
    assert all([await store.sealed.replace(value, b"first") for value in values])
    assert not any([await store.sealed.replace(value, b"second") for value in values])
    assert {value.sealed async for value in store.sealed.every()} == {b"first"}


async def test_resealing_does_not_count_as_another_credential(
    store: Store, connection: Connection
) -> None:
    (value,) = [value async for value in store.sealed.every()]
    assert await store.sealed.replace(value, b"resealed")
    assert await store.connections.swap_credential(connection.id, 1, b"next", expires_at=None)


async def test_what_is_gone_meanwhile_is_not_brought_back(store: Store, user: User) -> None:
    await fill(store, user, Vault(KeyRing(keys=(OLD,))), 1)
    values: list[SealedValue] = [value async for value in store.sealed.every()]
    (connection,) = await store.connections.list()
    (run,) = await store.runs.unfinished()
    await store.runs.finish(
        run.id, RunFinished(outcome=Outcome.CANCELLED, reason=EndReason.CANCELLED), NOW
    )
    assert await store.runs.prune_texts(NOW.replace(year=NOW.year + 1)) == 1
    await store.connections.set_state(connection.id, ConnectionState.DISCONNECTED)
    replaced = [await store.sealed.replace(value, os.urandom(8)) for value in values[:-1]]
    assert not any(replaced)
    assert len([value async for value in store.sealed.every()]) == 1  # the check value
