import datetime as dt
import hashlib

import pytest
from sqlalchemy import select

from polydev.config import KeySettings
from polydev.core.accounts import Accounts
from polydev.core.notices import Notices
from polydev.core.sign_ins import LINK_SECONDS, SIGN_IN_DAYS, SignIns
from polydev.errors import NotSignedIn
from polydev.models.accounts import User
from polydev.models.notices import Topic
from polydev.secret import Secret
from polydev.store import Store
from polydev.store.tables import sign_ins as table

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now

    def later(self, **span: float) -> None:
        self.now += dt.timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sign_ins(store: Store, clock: Clock) -> SignIns:
    return SignIns(store, clock)


@pytest.fixture
async def user(store: Store) -> User:
    return await store.users.add("ada")


async def hashes(store: Store) -> list[str]:
    async with store.database.read() as connection:
        return [row.hash for row in await connection.execute(select(table))]


async def test_a_link_signs_in_once(sign_ins: SignIns, user: User):
    link = sign_ins.open_link(user)
    token = await sign_ins.redeem(link)
    assert await sign_ins.who(token) == user
    with pytest.raises(NotSignedIn, match="used already"):
        await sign_ins.redeem(link)


async def test_a_late_link_signs_nobody_in(sign_ins: SignIns, user: User, clock: Clock):
    link = sign_ins.open_link(user)
    clock.later(seconds=LINK_SECONDS)
    with pytest.raises(NotSignedIn, match="polydev open"):
        await sign_ins.redeem(link)


async def test_only_the_hash_is_kept(sign_ins: SignIns, user: User, store: Store):
    token = await sign_ins.redeem(sign_ins.open_link(user))
    assert await hashes(store) == [hashlib.sha256(token.reveal().encode()).hexdigest()]
    assert len(token.reveal()) >= 43  # 256 bits in base 64
    assert token.reveal() not in repr(sign_ins.__dict__)


async def test_a_sign_in_ends_by_itself_and_its_row_goes(
    sign_ins: SignIns, user: User, clock: Clock, store: Store
):
    token = await sign_ins.redeem(sign_ins.open_link(user))
    clock.later(days=SIGN_IN_DAYS)
    with pytest.raises(NotSignedIn):
        await sign_ins.who(token)
    await sign_ins.redeem(sign_ins.open_link(user))
    assert len(await hashes(store)) == 1


@pytest.mark.parametrize("token", ["", "made up"])
async def test_a_stranger_is_nobody(sign_ins: SignIns, token: str):
    with pytest.raises(NotSignedIn):
        await sign_ins.who(Secret(token))


async def test_signing_out_ends_one_browser_only(sign_ins: SignIns, user: User):
    here = await sign_ins.redeem(sign_ins.open_link(user))
    there = await sign_ins.redeem(sign_ins.open_link(user))
    await sign_ins.sign_out(here)
    with pytest.raises(NotSignedIn):
        await sign_ins.who(here)
    assert await sign_ins.who(there) == user


async def test_a_disabled_user_is_signed_out_everywhere(
    sign_ins: SignIns, user: User, store: Store
):
    token = await sign_ins.redeem(sign_ins.open_link(user))
    link = sign_ins.open_link(user)
    accounts, ended = Accounts(store, KeySettings()), []

    async def end(user_id: str) -> None:
        ended.append(user_id)

    accounts.when_disabled(end)
    await accounts.disable_user("ada")
    assert ended == [user.id]
    assert await hashes(store) == []
    for attempt in (sign_ins.who(token), sign_ins.redeem(link)):
        with pytest.raises(NotSignedIn):
            await attempt


async def test_of_too_many_links_the_oldest_goes(sign_ins: SignIns, user: User):
    links = [sign_ins.open_link(user) for _ in range(257)]
    with pytest.raises(NotSignedIn):
        await sign_ins.redeem(links[0])
    assert await sign_ins.redeem(links[1])


async def test_signing_out_is_noticed(store: Store, user: User):
    notices = Notices()
    store.sign_ins._publish = notices.publish
    sign_ins = SignIns(store)
    token = await sign_ins.redeem(sign_ins.open_link(user))
    with notices.listen(user.id) as listener:
        await sign_ins.sign_out(token)
        assert await listener.changed() == frozenset({Topic.SIGN_INS})
