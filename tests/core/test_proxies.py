"""Who leaves by which proxy: chosen once, kept, never shared while a port is free."""

import asyncio
import uuid
from dataclasses import replace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from polydev.core.proxies import Proxies, Route
from polydev.egress.client import Egress
from polydev.errors import InvalidRequest, NoConnection, NotFound, ProxyProblem
from polydev.models.accounts import Connection, ConnectionState, User
from polydev.models.ids import new_id
from polydev.models.proxies import Proxy
from polydev.secret import Secret
from polydev.store import Store
from polydev.vault import Vault

pytestmark = pytest.mark.anyio

RANGE = "http://made-up-user:made-up-password@proxy.test:7001-7003"
ALL = {f"http://proxy.test:{port}" for port in (7001, 7002, 7003)}


class Told:
    """What egress was told."""

    def __init__(self) -> None:
        self.proxies: list[tuple[str, Proxy | None]] = []

    async def set_proxy(self, connection_id: str, proxy: Proxy | None) -> None:
        self.proxies.append((connection_id, proxy))


@pytest.fixture
async def user(store: Store) -> User:
    return await store.users.add("grace")


@pytest.fixture
def house(store: Store, vault: Vault, user: User) -> "House":
    return House(store, vault, user)


class House:
    def __init__(self, store: Store, vault: Vault, user: User) -> None:
        self.store, self.vault, self.user = store, vault, user
        self.told = Told()

    def proxies(self, setting: str = "") -> Proxies:
        """As a gateway that was just started."""
        secret = SecretStr(setting) if setting else None
        return Proxies(self.store, self.vault, cast("Egress", self.told), secret)

    async def new(
        self,
        proxies: Proxies,
        said: str | None = None,
        login: Route | None = None,
        earlier: Connection | None = None,
    ) -> Connection:
        connection = Connection(
            id=new_id("con"),
            user_id=self.user.id,
            provider="claude",
            state=ConnectionState.ACTIVE,
            ownership=cast("Any", "take"),
            identity=str(uuid.uuid4()),
            created_at=self.user.created_at,
        )
        words = None if said is None else Secret(said)
        async with proxies.for_new(connection, words, login, earlier) as route:
            return await self.store.connections.add(
                replace(connection, proxy=route.shown()),
                b"sealed",
                proxies.sealed(connection, route),
            )

    async def left_by(self, proxies: Proxies, connection: Connection) -> str | None:
        proxy = await proxies.of(connection.id)
        return proxy.shown() if proxy else None


@pytest.mark.parametrize("by_setting", [True, False])
async def test_each_connection_gets_a_port_of_a_range_and_keeps_it(house: House, by_setting: bool):
    proxies = house.proxies(RANGE if by_setting else "")
    said = None if by_setting else RANGE
    made = await asyncio.gather(*(house.new(proxies, said) for _ in range(3)))
    assert {one.proxy for one in made} == ALL
    with pytest.raises(ProxyProblem) as caught:
        await house.new(proxies, said)
    assert caught.value.reason == "proxy_ports_taken"
    assert "made-up" not in str(caught.value)
    anew = house.proxies(RANGE if by_setting else "")
    for one in made:
        assert await house.left_by(anew, one) == one.proxy
        proxy = await anew.of(one.id)
        assert proxy is not None
        assert proxy.password.reveal() == "made-up-password"
    await house.store.connections.set_state(made[1].id, ConnectionState.DISCONNECTED)
    assert (await house.new(anew, said)).proxy == made[1].proxy
    with pytest.raises(NoConnection):
        await house.proxies().of(made[1].id)


async def test_one_address_is_for_all_who_name_it(house: House):
    proxies = house.proxies("socks5://proxy.test:1")
    assert {(await house.new(proxies)).proxy for _ in range(3)} == {"socks5://proxy.test:1"}


async def test_connections_from_before_the_setting_follow_it(house: House):
    old = [await house.new(house.proxies()) for _ in range(2)]
    direct = await house.new(house.proxies(), "none")
    assert [one.proxy for one in (*old, direct)] == [None] * 3
    proxies = house.proxies(RANGE)
    first, second = [await house.left_by(proxies, one) for one in old]
    assert first != second
    assert {first, second} <= ALL
    assert await house.left_by(proxies, direct) is None
    stored = await house.store.connections.get(old[0].id)
    assert stored is not None
    assert stored.proxy == first
    assert (
        await house.left_by(house.proxies("http://other.test:5"), old[0]) == "http://other.test:5"
    )
    assert await house.left_by(house.proxies(), old[0]) is None


async def test_a_range_of_the_setting_that_is_used_up_is_no_direct_connection(house: House):
    old = await house.new(house.proxies())
    proxies = house.proxies(RANGE)
    for _ in range(3):
        await house.new(proxies)
    for _ in range(2):
        with pytest.raises(ProxyProblem):
            await proxies.of(old.id)


async def test_a_login_holds_its_port_until_it_is_over(house: House):
    proxies = house.proxies(RANGE)
    routes = [await proxies.for_login(f"l{n}", house.user.id, "claude", None) for n in range(3)]
    assert {route.shown() for route in routes} == ALL
    with pytest.raises(ProxyProblem):
        await house.new(proxies)
    proxies.release("l1")
    assert (await house.new(proxies)).proxy == routes[1].shown()
    assert (await house.new(proxies, login=routes[0])).proxy == routes[0].shown()


async def test_a_login_leaves_by_what_it_probably_renews(house: House):
    proxies = house.proxies()
    old = await house.new(proxies, "http://u:p@own.test:1")
    assert (await _login(proxies, house)).shown() == "http://own.test:1"  # never directly
    with_setting = house.proxies(RANGE)
    route = await _login(with_setting, house)
    assert route.shown() in ALL  # another account's, as far as anybody knows
    await house.store.connections.set_state(old.id, ConnectionState.NEEDS_LOGIN, "over")
    route = await _login(with_setting, house)
    assert (route.shown(), route.own) == ("http://own.test:1", True)
    from_a_file = await house.new(proxies)
    assert from_a_file.proxy == "http://own.test:1"
    assert (await _login(with_setting, house, "none")).proxy is None


async def _login(proxies: Proxies, house: House, said: str | None = None) -> Route:
    words = None if said is None else Secret(said)
    route = await proxies.for_login("l", house.user.id, "claude", words)
    proxies.release("l")
    return route


async def test_a_renewal_keeps_the_address_unless_another_is_said(house: House):
    proxies = house.proxies(RANGE)
    old = await house.new(proxies, "http://u:p@own.test:1")
    login = await proxies.for_login("l", house.user.id, "claude", None)
    kept = await house.new(proxies, None, login, old)
    assert kept.proxy == "http://own.test:1"
    proxy = await house.proxies().of(kept.id)
    assert proxy is not None
    assert proxy.password.reveal() == "p"
    said = await proxies.for_login("m", house.user.id, "claude", Secret("socks5://new.test:2"))
    renewed = await house.new(proxies, "socks5://new.test:2", said, old)
    assert renewed.proxy == "socks5://new.test:2"
    follower = await house.new(proxies)
    again = await house.new(proxies, earlier=follower)
    assert again.proxy == follower.proxy
    assert await house.store.connections.own_proxy(again.id) is None


async def test_a_change_is_kept_and_told_to_egress(house: House):
    proxies = house.proxies(RANGE)
    connection = await house.new(proxies)
    changed = await proxies.change(connection.id, Secret("https://u:p@own.test:1"))
    assert changed.proxy == "https://own.test:1"
    assert await house.left_by(house.proxies(RANGE), connection) == "https://own.test:1"
    await proxies.change(connection.id, Secret(" None "))
    assert await proxies.of(connection.id) is None
    assert await house.proxies(RANGE).of(connection.id) is None
    told = [(proxy.shown() if proxy else None) for _, proxy in house.told.proxies]
    assert told == ["https://own.test:1", None]
    await proxies.change(connection.id, Secret("http://range.test:1-9"))
    kept = await proxies.change(connection.id, Secret("http://range.test:1-9"))
    assert kept.proxy == "http://range.test:1"


@pytest.mark.parametrize("said", ["", "made-up-secret", "ftp://u:made-up-secret@h:1"])
async def test_what_is_no_address_changes_nothing_and_is_not_repeated(house: House, said: str):
    proxies = house.proxies("http://proxy.test:1")
    connection = await house.new(proxies)
    with pytest.raises(InvalidRequest) as caught:
        await proxies.change(connection.id, Secret(said))
    assert "made-up-secret" not in str(caught.value)
    assert await house.left_by(proxies, connection) == "http://proxy.test:1"
    with pytest.raises(NotFound):
        await proxies.change("con_unknown", Secret("none"))
