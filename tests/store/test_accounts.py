import datetime as dt

import pytest

from polydev.errors import Conflict, NotFound
from polydev.models.accounts import ApiKey, User, UserState
from polydev.store import Store

pytestmark = pytest.mark.anyio


async def add_key(store: Store, user: User, hash: str = "ab" * 32) -> ApiKey:
    return await store.keys.add(
        user_id=user.id,
        name="laptop",
        prefix="polydev_made",
        hash=hash,
        requests_per_minute=120,
        concurrent_runs=16,
    )


async def test_a_user_is_found_by_id_and_by_name(store: Store) -> None:
    ada = await store.users.add("ada")
    await store.users.add("bob")
    assert await store.users.get(ada.id) == ada
    assert await store.users.by_name("ada") == ada
    assert await store.users.by_name("Ada") is None
    assert [user.name for user in await store.users.list()] == ["ada", "bob"]
    assert ada.created_at.tzinfo == dt.UTC


async def test_a_name_is_taken_once(store: Store, user: User) -> None:
    with pytest.raises(Conflict, match="'ada'"):
        await store.users.add("ada")
    assert await store.users.list() == (user,)


async def test_a_disabled_user_can_be_made_active_again(store: Store, user: User) -> None:
    disabled = await store.users.set_state(user.id, UserState.DISABLED)
    assert disabled.state is UserState.DISABLED
    assert await store.users.get(user.id) == disabled
    assert await store.users.set_state(user.id, UserState.ACTIVE) == user
    with pytest.raises(NotFound):
        await store.users.set_state("usr_none", UserState.DISABLED)


async def test_a_key_is_found_by_its_hash_with_its_owner(store: Store, user: User) -> None:
    key = await add_key(store, user)
    assert await store.keys.by_hash("ab" * 32) == (key, user)
    assert await store.keys.by_hash("cd" * 32) is None
    assert await store.keys.get(key.id) == key


async def test_keys_are_listed_of_one_user_or_all(store: Store, user: User) -> None:
    bob = await store.users.add("bob")
    first, second = await add_key(store, user), await add_key(store, bob, "cd" * 32)
    assert await store.keys.list(user.id) == (first,)
    assert set(await store.keys.list()) == {first, second}


async def test_a_revoked_key_keeps_the_time_of_its_first_revocation(
    store: Store, user: User
) -> None:
    key = await add_key(store, user)
    revoked = await store.keys.revoke(key.id)
    assert revoked.revoked_at is not None
    assert await store.keys.revoke(key.id) == revoked
    assert await store.keys.by_hash("ab" * 32) == (revoked, user)
    with pytest.raises(NotFound):
        await store.keys.revoke("key_none")


async def test_a_key_needs_a_user_that_exists(store: Store, user: User) -> None:
    stranger = User(id="usr_none", name="none", state=UserState.ACTIVE, created_at=user.created_at)
    with pytest.raises(NotFound):
        await add_key(store, stranger)


async def test_a_hash_is_stored_once(store: Store, user: User) -> None:
    await add_key(store, user)
    with pytest.raises(Conflict):
        await add_key(store, user)
