"""A connection with an outbound proxy leaves by it alone: its login, its refreshes, its runs.

The provider is out of reach here but for a proxy, so whatever is answered went through one.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from polydev.sim import Account, Simulator
from polydev.sim.control import credential_of
from polydev.sim.person import Person as AtThePages
from tests.e2e.conftest import NewGateway
from tests.e2e.events import all_events, submit
from tests.e2e.gateway import MARKER, Gateway, Person
from tests.e2e.test_logins import Login, approve, hand_back, pages
from tests.egress.proxying import HANGS, REFUSES, LittleProxy

pytestmark = [pytest.mark.anyio, pytest.mark.real]

__all__ = ["pages"]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"
NOWHERE = ("nowhere.provider.test", 443)
LOGIN = ("made-up-user", "made-up-password")


class World:
    """A gateway that reaches the simulator by proxies only."""

    def __init__(self, gateway: Gateway, sim: Simulator, directory: Path) -> None:
        self.gateway, self.sim, self.directory = gateway, sim, directory

    async def connect(self, person: Person, proxy: str | None) -> tuple[dict[str, Any], Account]:
        """By the command, with the address on its standard input; the record."""
        account = self.sim.world.create_account("claude")
        file = self.directory / f"{account.name}.json"
        file.write_text(credential_of(self.sim.world, account, None))
        said = await self.gateway.command(
            *("connect", "claude", "--user", person.name, "--from", str(file), "--take"),
            *(("--proxy", "-") if proxy else ()),
            stdin=f"{proxy}\n" if proxy else "",
        )
        assert said.code == 0, said
        found = re.search(r"\((con_\w+)\)", said.output)
        assert found, said
        return await self.gateway.connection(found[1]), account


def little(sim: Simulator, **fields: Any) -> LittleProxy:
    host, _, port = sim.redirect.rpartition(":")
    kind = fields.pop("kind", "http")
    return LittleProxy(kind, target=(host, int(port)), **fields)


@pytest.fixture
async def decoy(sim: Simulator) -> AsyncIterator[LittleProxy]:
    async with little(sim) as proxy:
        yield proxy


@pytest.fixture
def new_world(new_gateway: NewGateway, sim: Simulator, programs: Path, tmp_path: Path) -> Any:
    async def make(**settings: str) -> World:
        redirect = "{}:{}".format(*NOWHERE)
        gateway = await new_gateway(programs, POLYDEV_EGRESS__REDIRECT=redirect, **settings)
        return World(gateway, sim, tmp_path)

    return make


async def ask(person: Person, provider: str = "claude") -> dict[str, Any]:
    """How a run ended."""
    client = person.http()
    events = await all_events(client, await submit(client, model=provider, prompt=QUESTION))
    return events[-1]


async def answered(person: Person, provider: str = "claude") -> None:
    end = await ask(person, provider)
    assert end["outcome"] == "succeeded", end


async def test_connecting_refreshing_and_running_leave_by_the_one_proxy(
    sim: Simulator, decoy: LittleProxy, new_world: Any
):
    world = await new_world(POLYDEV_EGRESS__PROXY=decoy.address)
    async with little(sim, kind="socks5", login=LOGIN) as proxy:
        ada = await world.gateway.person("ada")
        record, account = await world.connect(ada, proxy.address)
        assert record["proxy"] == f"socks5://127.0.0.1:{proxy.port}"
        assert len(proxy.asked) == 1
        await answered(ada)
        sim.world.expire_tokens(account)
        assert (await ask(ada))["reason"] == "needs_login"
        before = len(proxy.asked)
        await answered(ada)
        assert account.counters["refreshes"] == 1
        assert len(proxy.asked) > before
        assert set(proxy.asked) == {NOWHERE}
        assert set(proxy.logins) == {LOGIN}
        assert decoy.asked == []
        listed = await world.gateway.command("connections")
        assert record["proxy"] in listed.output
        for secret in LOGIN:
            assert secret not in listed.output + world.gateway.output
            assert secret not in (await world.gateway.owner("GET", "/owner/connections")).text
        # Another one from now on, and after a restart.
        said = await world.gateway.command("proxy", record["id"], decoy.address)
        assert said.code == 0, said
        before = len(proxy.asked)
        await answered(ada)
        await world.gateway.stop()
        await world.gateway.start()
        await answered(ada)
        assert len(proxy.asked) == before
        assert len(decoy.asked) >= 2
    await ada.close()


async def test_a_login_leaves_by_the_proxy_and_so_does_what_renews_it(
    sim: Simulator, new_world: Any, pages: AtThePages
):
    world = await new_world()
    async with little(sim, login=LOGIN) as proxy:
        ada = await world.gateway.person("ada")
        body = {"user": ada.name, "provider": "claude", "method": "paste_code"}
        for given in ({"proxy": proxy.address}, {}):
            answer = await world.gateway.owner("POST", "/owner/logins", {**body, **given})
            assert answer.status_code == 201, answer.text
            login = Login(world.gateway, ada.name, answer.json())
            before = len(proxy.asked)
            seen = await approve(pages, login, "proxied@claude.example")
            await hand_back(pages, login, seen)
            record = await login.until("connected")
            assert len(proxy.asked) > before
            connection = await world.gateway.connection(record["connection_id"])
            assert connection["proxy"] == f"http://127.0.0.1:{proxy.port}"
            assert LOGIN[1] not in await login.log()
            await answered(ada)
        assert set(proxy.asked) == {NOWHERE}
    await ada.close()


async def test_a_dead_proxy_is_named_wherever_it_is_met(
    sim: Simulator, new_world: Any, pages: AtThePages
):
    world = await new_world()
    async with little(sim) as proxy:
        ada = await world.gateway.person("ada")
        record, account = await world.connect(ada, proxy.address)
    asked = sim.world.records.total
    end = await ask(ada)
    assert end["reason"] == "proxy_failed", end
    assert "the outbound proxy cannot be reached" in end["message"]
    messages: Any = [{"role": "user", "content": QUESTION}]
    with pytest.raises(openai.APIStatusError) as chat:
        await ada.openai().chat.completions.create(model="claude", messages=messages)
    assert (chat.value.status_code, chat.value.code) == (502, "proxy_failed")
    with pytest.raises(anthropic.APIStatusError) as message:
        await ada.anthropic().messages.create(model="claude", messages=messages, max_tokens=99)
    assert message.value.status_code == 502
    assert "the outbound proxy" in message.value.message
    checked = (await world.gateway.owner("POST", f"/owner/connections/{record['id']}/check")).json()
    assert not checked["ok"]
    assert "polydev proxy" in checked["message"]
    # A refresh.
    async with proxy:
        sim.world.expire_tokens(account)
        assert (await ask(ada))["reason"] == "needs_login"
    asked = sim.world.records.total
    end = await ask(ada)
    assert end["reason"] == "proxy_failed", end
    assert "did not answer a refresh: the outbound proxy" in end["message"]
    assert account.counters["refreshes"] == 0
    assert sim.world.records.total == asked
    # Logins.
    for provider, method in (("claude", "paste_code"), ("codex", "device_code")):
        body = {"user": ada.name, "provider": provider, "method": method, "proxy": proxy.address}
        answer = await world.gateway.owner("POST", "/owner/logins", body)
        login = Login(world.gateway, ada.name, answer.json())
        if method == "paste_code":
            seen = await approve(pages, login, "dead@claude.example")
            await hand_back(pages, login, seen)
        failed = await login.until("failed")
        assert failed["reason"] == "proxy_failed", (failed, await login.log())
        assert "the outbound proxy cannot be reached" in failed["message"]
    # It is there again: nothing was lost.
    async with proxy:
        await answered(ada)
    await ada.close()


@pytest.mark.providers("codex", "gemini", "qwen")
async def test_every_cli_meets_a_dead_proxy_by_name(sim: Simulator, new_world: Any, provider: str):
    async with little(sim) as proxy:
        world = await new_world(POLYDEV_EGRESS__PROXY=proxy.address)
        ada = await world.gateway.person("ada")
        account = sim.world.create_account(provider)
        credential = credential_of(sim.world, account, None).encode()
        record = await world.gateway.connected(ada, provider, credential)
        assert record["proxy"] == proxy.address
        await answered(ada, provider)
        assert set(proxy.asked) == {NOWHERE}
    async with asyncio.timeout(60):
        end = await ask(ada, provider)
    assert end["reason"] == "proxy_failed", end
    await ada.close()


@pytest.mark.parametrize("does", [REFUSES, HANGS])
async def test_a_proxy_that_does_not_connect_ends_the_run_by_name(
    sim: Simulator, new_world: Any, does: str
):
    world = await new_world()
    async with little(sim) as proxy:
        ada = await world.gateway.person("ada")
        await world.connect(ada, proxy.address)
        proxy.does = does
        # What is kept alive would still carry it.
        await world.gateway.stop()
        await world.gateway.start()
        asked = sim.world.records.total
        async with asyncio.timeout(50):
            end = await ask(ada)
        assert end["reason"] == "proxy_failed", end
        assert sim.world.records.total == asked
    await ada.close()


@contextlib.asynccontextmanager
async def neighbours(sim: Simulator) -> AsyncIterator[tuple[LittleProxy, LittleProxy]]:
    """Two proxies on ports that follow one another."""
    for _ in range(50):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            try:
                first, second = [
                    await stack.enter_async_context(little(sim, login=LOGIN, port=port + one))
                    for one in (0, 1)
                ]
            except OSError:
                continue
            yield first, second
            return
    raise AssertionError("no two ports that follow one another are free")


async def test_connections_get_a_port_each_of_a_range_and_keep_it(sim: Simulator, new_world: Any):
    async with neighbours(sim) as (first, second):
        address = f"{first.address}-{second.port}"
        world = await new_world(POLYDEV_EGRESS__PROXY=address)
        ada, bob = [await world.gateway.person(name) for name in ("ada", "bob")]
        ports = {}
        for person in (ada, bob):
            record, _ = await world.connect(person, None)
            ports[person.name] = record["proxy"]
        assert ports == {
            "ada": f"http://127.0.0.1:{first.port}",
            "bob": f"http://127.0.0.1:{second.port}",
        }
        assert (len(first.asked), len(second.asked)) == (1, 1)
        eve = await world.gateway.person("eve")
        account = sim.world.create_account("claude")
        credential = credential_of(sim.world, account, None).encode()
        refused = await world.gateway.connect(eve, "claude", credential)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (
            502,
            "proxy_ports_taken",
        )
        await world.gateway.stop()
        await world.gateway.start()
        for person, proxy, other in ((bob, second, first), (ada, first, second)):
            before = len(proxy.asked), len(other.asked)
            await answered(person)
            assert len(proxy.asked) > before[0]
            assert len(other.asked) == before[1]
        for person in (ada, bob, eve):
            await person.close()


async def test_a_mistake_in_an_address_is_said_without_it(sim: Simulator, new_world: Any):
    world = await new_world()
    async with little(sim) as proxy:
        ada = await world.gateway.person("ada")
        record, _ = await world.connect(ada, proxy.address)
        wrong = "ftp://made-up-user:made-up-password@h:1"
        said = await world.gateway.command("proxy", record["id"], "-", stdin=wrong)
        assert said.code == 1
        assert "cannot be used" in said.errors
        assert LOGIN[1] not in said.errors + said.output + world.gateway.output
        await answered(ada)
    await ada.close()
