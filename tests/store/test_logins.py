import datetime as dt
from dataclasses import replace

import pytest

from polydev.errors import NotFound
from polydev.models.accounts import User
from polydev.models.ids import new_id
from polydev.models.logins import Login, LoginLine, LoginMethod, LoginState, LoginTrouble
from polydev.store import Store
from tests.store.conftest import NOW

pytestmark = pytest.mark.anyio

LOG = (LoginLine(at=NOW, text="a code was given"),)


@pytest.fixture
async def login(store: Store, user: User) -> Login:
    login = Login(
        id=new_id("lgn"),
        user_id=user.id,
        provider="codex",
        method=LoginMethod.DEVICE_CODE,
        state=LoginState.REQUESTED,
        created_at=NOW,
        expires_at=NOW + dt.timedelta(minutes=10),
        changed_at=NOW,
        command="codex login --device-auth",
    )
    await store.logins.add(login)
    return login


async def test_a_login_comes_back_as_it_was_added(store: Store, login: Login) -> None:
    assert await store.logins.get(login.id) == login
    assert await store.logins.log(login.id) == ()
    assert await store.logins.get("lgn_none") is None
    with pytest.raises(NotFound):
        await store.logins.log("lgn_none")


async def test_link_and_code_are_never_stored(store: Store, login: Login) -> None:
    starting = replace(login, state=LoginState.STARTING, link="https://x", user_code="ABCD")
    assert await store.logins.move(starting, LOG)
    assert await store.logins.get(login.id) == replace(starting, link="", user_code="")
    assert await store.logins.log(login.id) == LOG


async def test_it_ends_once_and_skips_no_state(store: Store, login: Login) -> None:
    assert not await store.logins.move(replace(login, state=LoginState.CONNECTED), ())
    failed = replace(
        login,
        state=LoginState.FAILED,
        reason=LoginTrouble.DENIED,
        message="no",
        finished_at=NOW,
    )
    assert await store.logins.move(failed, LOG)
    assert not await store.logins.move(replace(login, state=LoginState.CANCELLED), ())
    assert await store.logins.get(login.id) == failed


async def test_own_logins_newest_first_and_what_was_left(
    store: Store, user: User, login: Login
) -> None:
    bob = await store.users.add("bob")
    await store.logins.add(replace(login, id=new_id("lgn"), user_id=bob.id))
    newer = replace(login, id="lgn_zzzzzzzzzzzzzzzzzzzzzzzzzz")
    await store.logins.add(newer)
    await store.logins.move(replace(newer, state=LoginState.CANCELLED), ())
    assert [one.id for one in await store.logins.of_user(user.id)] == [newer.id, login.id]
    unfinished = await store.logins.unfinished()
    assert login.id in {one.id for one in unfinished}
    assert newer.id not in {one.id for one in unfinished}
