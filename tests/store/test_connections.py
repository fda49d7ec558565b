import asyncio
import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from polydev.config import StoreSettings
from polydev.errors import Conflict, NotFound
from polydev.events import WindowObserved
from polydev.models.accounts import (
    CONNECTION_TRANSITIONS,
    Connection,
    ConnectionState,
    User,
)
from polydev.store import SealedCredential, Store
from tests.store.conftest import NOW, connection_of

pytestmark = pytest.mark.anyio


async def test_a_connection_comes_back_as_it_was_added(store: Store, user: User) -> None:
    given = replace(connection_of(user), source="/home/ada/.claude/credentials.json")
    added = await store.connections.add(given, b"sealed")
    assert added == replace(given, credential_version=1)
    assert await store.connections.get(given.id) == added
    assert await store.connections.get("con_none") is None
    assert await store.connections.credential(given.id) == SealedCredential(
        connection_id=given.id, version=1, sealed=b"sealed"
    )


async def test_connections_are_listed_by_owner_and_provider(store: Store, user: User) -> None:
    bob = await store.users.add("bob")
    claude = await store.connections.add(connection_of(user), b"1")
    codex = await store.connections.add(connection_of(user, "codex"), b"2")
    other = await store.connections.add(connection_of(bob), b"3")
    assert set(await store.connections.of_user(user.id)) == {claude, codex}
    assert await store.connections.of_user(user.id, "codex") == (codex,)
    assert await store.connections.of_user(bob.id) == (other,)
    assert set(await store.connections.list()) == {claude, codex, other}


@pytest.mark.parametrize("present", ConnectionState)
@pytest.mark.parametrize("wanted", ConnectionState)
async def test_states_change_only_as_the_table_says(
    store: Store, user: User, present: ConnectionState, wanted: ConnectionState
) -> None:
    added = await store.connections.add(replace(connection_of(user), state=present), b"sealed")
    if wanted is present or wanted in CONNECTION_TRANSITIONS[present]:
        changed = await store.connections.set_state(added.id, wanted, "because")
        assert (changed.state, changed.reason) == (wanted, "because")
    else:
        with pytest.raises(Conflict, match=f"is {present.value} and cannot become"):
            await store.connections.set_state(added.id, wanted)
        changed = added
    assert await store.connections.get(added.id) == changed


async def test_no_state_for_a_connection_that_does_not_exist(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.connections.set_state("con_none", ConnectionState.ACTIVE)


async def test_disconnecting_removes_the_credential_for_good(
    store: Store, connection: Connection
) -> None:
    await store.connections.set_state(connection.id, ConnectionState.DISCONNECTED)
    assert await store.connections.credential(connection.id) is None
    assert not await store.connections.swap_credential(connection.id, 1, b"late", expires_at=None)
    assert await store.connections.credential(connection.id) is None


async def test_a_swap_replaces_credential_and_facts_together(
    store: Store, connection: Connection
) -> None:
    later = NOW + dt.timedelta(hours=16)
    assert await store.connections.swap_credential(
        connection.id, 1, b"sealed 2", expires_at=later, refreshed_at=NOW, plan="max"
    )
    assert await store.connections.get(connection.id) == replace(
        connection, credential_version=2, expires_at=later, refreshed_at=NOW, plan="max"
    )
    stored = await store.connections.credential(connection.id)
    assert stored is not None
    assert (stored.version, stored.sealed) == (2, b"sealed 2")


async def test_a_swap_against_an_older_version_changes_nothing(
    store: Store, connection: Connection
) -> None:
    assert await store.connections.swap_credential(connection.id, 1, b"2", expires_at=NOW)
    present = await store.connections.get(connection.id)
    assert not await store.connections.swap_credential(connection.id, 1, b"3", expires_at=None)
    assert await store.connections.get(connection.id) == present
    stored = await store.connections.credential(connection.id)
    assert stored is not None
    assert stored.sealed == b"2"


async def test_an_empty_credential_is_never_stored(store: Store, connection: Connection) -> None:
    with pytest.raises(ValueError, match="empty"):
        await store.connections.swap_credential(connection.id, 1, b"", expires_at=None)
    assert await store.connections.get(connection.id) == connection


async def test_of_many_swaps_at_once_exactly_one_wins(
    store: Store, connection: Connection, settings: StoreSettings, tmp_path: Path
) -> None:
    # Another process would look like this.
    async with Store.open(settings, tmp_path, exclusive=False) as second:
        results = await asyncio.gather(
            *(
                opened.connections.swap_credential(
                    connection.id, 1, f"sealed by {number}".encode(), expires_at=None
                )
                for number, opened in enumerate([store, second] * 10)
            )
        )
    assert sum(results) == 1
    stored = await store.connections.credential(connection.id)
    assert stored == SealedCredential(
        connection_id=connection.id,
        version=2,
        sealed=f"sealed by {results.index(True)}".encode(),
    )


async def test_facts_not_given_stay_as_they_are(store: Store, connection: Connection) -> None:
    updated = await store.connections.update_facts(connection.id, plan="pro", checked_at=NOW)
    assert updated == replace(connection, plan="pro", checked_at=NOW)
    assert await store.connections.update_facts(connection.id) == updated
    with pytest.raises(NotFound):
        await store.connections.update_facts("con_none", plan="pro")


def observed(used: float, resets_at: dt.datetime | None = None) -> WindowObserved:
    return WindowObserved(
        kind="five_hour", used_fraction=used, resets_at=resets_at, source="header"
    )


async def test_the_newest_observation_of_a_window_stays(
    store: Store, connection: Connection
) -> None:
    windows = store.windows
    minute = dt.timedelta(minutes=1)
    assert await windows.observe(connection.id, observed(0.2, NOW), NOW)
    assert await windows.observe(connection.id, observed(0.4, NOW), NOW + minute)
    assert not await windows.observe(connection.id, observed(0.3), NOW)
    (window,) = await windows.of_connection(connection.id)
    assert (window.used_fraction, window.resets_at, window.observed_at) == (0.4, NOW, NOW + minute)


async def test_windows_are_kept_by_kind_and_connection(
    store: Store, user: User, connection: Connection
) -> None:
    other = await store.connections.add(connection_of(user), b"sealed")
    await store.windows.observe(connection.id, observed(0.2), NOW)
    await store.windows.observe(connection.id, replace(observed(0.3), kind="seven_day"), NOW)
    await store.windows.observe(other.id, observed(0.9), NOW)
    found = await store.windows.of_connection(connection.id)
    assert [(window.kind, window.used_fraction) for window in found] == [
        ("five_hour", 0.2),
        ("seven_day", 0.3),
    ]


async def test_a_proxy_is_kept_changed_and_gone_with_its_connection(
    store: Store, user: User, connection: Connection
) -> None:
    assert (connection.proxy, await store.connections.own_proxy(connection.id)) == (None, None)
    changed = await store.connections.set_proxy(connection.id, "http://h:1", b"sealed proxy")
    assert changed.proxy == "http://h:1"
    assert await store.connections.get(connection.id) == changed
    assert await store.connections.own_proxy(connection.id) == b"sealed proxy"
    ended = await store.connections.set_state(connection.id, ConnectionState.DISCONNECTED)
    assert ended.proxy == "http://h:1"
    assert await store.connections.own_proxy(connection.id) is None
    other = await store.connections.add(
        replace(connection_of(user), proxy="http://h:2"), b"sealed", b"another"
    )
    assert other.proxy == "http://h:2"
    assert await store.connections.own_proxy(other.id) == b"another"
    with pytest.raises(NotFound):
        await store.connections.set_proxy("con_unknown", None, None)
