"""Credentials are refreshed once, survive any kill, and are never replaced by worse ones."""

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from polydev.sim import Account, Simulator
from polydev.sim.control import credential_of
from polydev.sim.records import Record
from tests.e2e.conftest import House, NewGateway, Subscription
from tests.e2e.events import all_events, submit
from tests.e2e.gateway import MARKER, Gateway, Person
from tests.e2e.processes import all_gone

pytestmark = [pytest.mark.anyio, pytest.mark.real]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"
# By this a gateway refreshes every login as soon as it starts.
AT_ONCE = {"POLYDEV_KEEPER__AHEAD_SECONDS": "1e6", "POLYDEV_KEEPER__CHECK_SECONDS": "3600"}


def is_refresh(record: Record) -> bool:
    return (
        record.method == "POST"
        and isinstance(record.body, dict)
        and record.body.get("grant_type") == "refresh_token"
    )


async def _refresh_arrived(sim: Simulator, after: int) -> None:
    await sim.world.records.arrived(
        lambda _: any(map(is_refresh, sim.world.records.all(after=after))), within=30
    )


async def _until(fact: Any, within: float = 20) -> None:
    """Waits until `fact()` (which may be asynchronous) holds."""
    async with asyncio.timeout(within):
        while not (await result if asyncio.iscoroutine(result := fact()) else result):
            await asyncio.sleep(0.02)


async def _ask(person: Person, provider: str) -> dict[str, Any]:
    """How a run ended."""
    client = person.http()
    events = await all_events(client, await submit(client, model=provider, prompt=QUESTION))
    return events[-1]


async def _answered(person: Person, provider: str) -> None:
    answer = await person.openai().chat.completions.create(
        model=provider, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"


def _rotation(sim: Simulator, account: Account, refreshes: int) -> None:
    """That the login was refreshed so often, and never with a token that was used before."""
    assert account.counters["refreshes_refused"] == 0, account.counters
    assert account.counters["refreshes"] == refreshes, account.counters


def _token_used(sim: Simulator, account: Account) -> str:
    """The label of the access token that the last prompt carried."""
    records = [r for r in sim.world.records.all(account=account.name) if r.method == "POST"]
    for name in ("authorization", "x-goog-api-key", "x-api-key"):
        if name in records[-1].headers:
            return records[-1].headers[name].removeprefix("Bearer ")
    raise AssertionError("the last prompt carried no token")


async def _at_once(person: Person, provider: str, count: int) -> list[str]:
    """The ends of so many runs asked for at the same time."""
    client = person.http()
    client.timeout = 500  # the last of them wait long for their turn
    ids = await asyncio.gather(
        *(submit(client, model=provider, prompt=QUESTION) for _ in range(count))
    )
    async with asyncio.timeout(500):
        ended = await asyncio.gather(*(all_events(client, run_id) for run_id in ids))
    return [events[-1]["outcome"] for events in ended]


async def test_many_runs_on_a_token_that_is_over_refresh_it_once(subscription: Subscription):
    sim, account = subscription.sim, subscription.account
    refreshes = account.counters["refreshes"]
    sim.world.expire_tokens(account)
    end = await _ask(subscription.person, subscription.provider)
    assert end["reason"] == "needs_login"  # nobody could know; from now on polydev does
    outcomes = await _at_once(subscription.person, subscription.provider, 6)
    assert outcomes == ["succeeded"] * 6
    _rotation(sim, account, refreshes + 1)


@pytest.mark.slow
@pytest.mark.providers("codex")  # whose CLI starts soonest
async def test_200_runs_on_a_token_that_has_just_expired_refresh_it_once(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs, POLYDEV_KEEPER__AHEAD_SECONDS="0")
    ada = await gateway.person("ada")
    account = sim.world.create_account(provider)
    # polydev counts a token as over a minute before its end.
    credential = credential_of(sim.world, account, 68)
    record = await gateway.connected(ada, provider, credential.encode())
    expires_at = dt.datetime.fromisoformat(record["expires_at"])
    assert account.counters["refreshes"] == 0
    await _until(lambda: dt.datetime.now(dt.UTC) > expires_at - dt.timedelta(seconds=60))
    sim.world.expire_tokens(account)
    outcomes = await _at_once(ada, provider, 200)
    assert outcomes == ["succeeded"] * 200
    _rotation(sim, account, 1)
    await ada.close()


@pytest.mark.providers("codex")
async def test_a_caller_who_leaves_in_the_middle_of_a_refresh_costs_nothing(
    subscription: Subscription,
):
    sim, account, provider = subscription.sim, subscription.account, subscription.provider
    refreshes = account.counters["refreshes"]
    sim.world.expire_tokens(account)
    await _ask(subscription.person, provider)
    subscription.turn(refresh_delay_seconds=1)
    before = sim.world.records.total
    client = subscription.person.http()
    run_id = await submit(client, model=provider, prompt=QUESTION)
    await _refresh_arrived(sim, before)
    await client.delete(f"/v1/runs/{run_id}")
    await _answered(subscription.person, provider)
    _rotation(sim, account, refreshes + 1)


async def _connected(gateway: Gateway, sim: Simulator, provider: str) -> tuple[Person, Account]:
    ada = await gateway.person("ada")
    account = sim.world.create_account(provider)
    await gateway.connected(ada, provider, credential_of(sim.world, account, None).encode())
    return ada, account


@contextlib.asynccontextmanager
async def _refreshing(gateway: Gateway, sim: Simulator):
    """The gateway, started anew, has just sent a refresh that is not answered yet."""
    settings = gateway.settings
    await gateway.stop()
    before = sim.world.records.total
    gateway.settings = {**settings, **AT_ONCE}
    await gateway.start()
    await _refresh_arrived(sim, before)
    yield
    gateway.settings = settings


@pytest.mark.slow
@pytest.mark.providers("claude")
async def test_a_kill_before_the_refresh_is_answered_costs_nothing(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada, account = await _connected(gateway, sim, provider)
    (record,) = (await gateway.owner("GET", "/owner/connections")).json()
    # Longer than a start takes: the next gateway comes while the old refresh is under way.
    sim.world.turn(account, {"refresh_delay_seconds": 10})
    async with _refreshing(gateway, sim):
        of_the_old_one = gateway.processes()
        await gateway.kill()
        sim.world.turn(account, {"refresh_delay_seconds": None})
        await gateway.start()

        async def written_back() -> bool:
            return (await gateway.connection(record["id"]))["refreshed_at"] is not None

        await _until(written_back)
        await all_gone(of_the_old_one, within=20)
    await _answered(ada, provider)
    assert account.counters["refreshes_refused"] == 0
    await ada.close()


@pytest.mark.providers("claude")
async def test_a_kill_after_the_answer_is_sealed_costs_nothing(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway, tmp_path: Path
):
    gateway: Gateway = await new_gateway(programs)
    ada, account = await _connected(gateway, sim, provider)
    sim.world.turn(account, {"refresh_delay_seconds": 0.5})
    spool = gateway.data / "spool"
    async with _refreshing(gateway, sim):
        os.kill(gateway.pid, signal.SIGSTOP)  # so that it cannot take the answer
        await _until(lambda: list(spool.glob("*.sealed")))
        (sealed,) = spool.glob("*.sealed")
        copy = tmp_path / sealed.name
        shutil.copy(sealed, copy)
        await gateway.kill()
    await gateway.start()
    assert list(spool.glob("*.sealed")) == []
    await _answered(ada, provider)
    _rotation(sim, account, 1)

    # As if the kill had come between writing the answer back and dropping it.
    await gateway.stop()
    shutil.copy(copy, sealed)
    await gateway.start()
    assert list(spool.glob("*.sealed")) == []
    await _answered(ada, provider)
    _rotation(sim, account, 1)
    sim.world.expire_tokens(account)
    await _ask(ada, provider)
    await _answered(ada, provider)
    _rotation(sim, account, 2)
    await ada.close()


@pytest.mark.providers("claude")
async def test_a_kill_after_the_refresh_is_written_back_costs_nothing(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada, account = await _connected(gateway, sim, provider)
    (record,) = (await gateway.owner("GET", "/owner/connections")).json()
    async with _refreshing(gateway, sim):

        async def written_back() -> bool:
            return (await gateway.connection(record["id"]))["refreshed_at"] is not None

        await _until(written_back)
        await gateway.kill()
    await gateway.start()
    await _answered(ada, provider)
    _rotation(sim, account, 1)
    await ada.close()


async def test_a_refused_refresh_means_a_login_and_says_why(house: House, provider: str):
    person = await house.person("trudy", provider)
    account = house.accounts.pop(f"trudy-{provider}")
    house.sim.world.turn(account, {"refresh_denied": True})
    house.sim.world.expire_tokens(account)
    assert (await _ask(person, provider))["reason"] == "needs_login"
    assert (await _ask(person, provider))["reason"] == "needs_login"
    records = (await house.gateway.owner("GET", "/owner/connections")).json()
    record = next(record for record in records if record["user"] == person.name)
    assert record["state"] == "needs_login"
    assert "refused to renew" in record["reason"]
    refused = account.counters["refreshes_refused"]
    assert refused == 1
    answer = await person.http().post("/v1/runs", json={"model": provider, "prompt": QUESTION})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "needs_login")
    assert "refused to renew" in answer.json()["error"]["message"]
    assert account.counters["refreshes_refused"] == refused, "it was asked again"
    await person.close()


async def test_an_outage_during_a_refresh_leaves_the_connection_active(
    programs: Path, provider: str, new_gateway: NewGateway, tmp_path: Path
):
    other = Simulator(tmp_path / "other", accounts=False)
    async with other:
        gateway: Gateway = await new_gateway(
            programs,
            POLYDEV_EGRESS__REDIRECT=other.redirect,
            POLYDEV_EGRESS__UPSTREAM_CA=str(other.ca),
        )
        ada, account = await _connected(gateway, other, provider)
        other.world.expire_tokens(account)
        await _ask(ada, provider)
    end = await _ask(ada, provider)
    assert end["reason"] == "provider_error", end
    assert "refresh" in end["message"] or "reached" in end["message"]
    (record,) = (await gateway.owner("GET", "/owner/connections")).json()
    assert record["state"] == "active"
    async with other:
        await _answered(ada, provider)
        _rotation(other, account, 1)
        await ada.close()


@pytest.mark.providers("claude")
async def test_it_is_refreshed_also_while_its_window_is_exhausted(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada, account = await _connected(gateway, sim, provider)
    sim.world.turn(account, {"limit_reached": True})
    assert (await _ask(ada, provider))["reason"] == "window_exhausted"
    async with _refreshing(gateway, sim):
        (record,) = (await gateway.owner("GET", "/owner/connections")).json()

        async def written_back() -> bool:
            return (await gateway.connection(record["id"]))["refreshed_at"] is not None

        await _until(written_back)
    _rotation(sim, account, 1)
    await ada.close()


@pytest.mark.providers("claude", "codex")
async def test_a_followed_login_is_used_as_its_cli_renews_it(
    house: House, provider: str, tmp_path: Path
):
    sim = house.sim
    vendor = sim.world.vendors[provider]
    account = sim.world.create_account(provider)
    person = await house.gateway.person(f"follower-{provider}")
    file = tmp_path / "credential"
    file.write_text(credential_of(sim.world, account, 4 * 3600))
    await house.gateway.connected(person, provider, file.read_bytes(), follow=file)

    # The CLI renews its login, and the old token dies.
    pair = sim.world.log_in(account)
    renewed = vendor.credential(account, pair)
    file.write_text(renewed)
    await _answered(person, provider)
    assert _token_used(sim, account) == pair.access.label

    # Emptied, half-written, older or gone: what is held stays good.
    older = credential_of(sim.world, account, 3600)
    for content in ("", "{}", renewed[: len(renewed) // 2], older):
        file.write_text(content)
        await _answered(person, provider)
        assert _token_used(sim, account) == pair.access.label, content[:20]
    file.unlink()
    await _answered(person, provider)
    assert _token_used(sim, account) == pair.access.label
    assert account.counters["refreshes"] == 0, "a followed login was refreshed"
    await person.close()


@pytest.mark.providers("codex")
async def test_a_followed_login_that_is_over_waits_for_its_cli(
    house: House, provider: str, tmp_path: Path
):
    sim = house.sim
    account = sim.world.create_account(provider)
    person = await house.gateway.person(f"waiting-{provider}")
    file = tmp_path / "credential"
    file.write_text(credential_of(sim.world, account, 3600))
    await house.gateway.connected(person, provider, file.read_bytes(), follow=file)
    sim.world.expire_tokens(account)
    assert (await _ask(person, provider))["reason"] == "needs_login"
    end = await _ask(person, provider)
    assert end["reason"] == "needs_login"
    assert account.counters["refreshes"] == 0, "a followed login was refreshed"
    file.write_text(credential_of(sim.world, account, 2 * 3600))
    await _answered(person, provider)
    await person.close()


async def test_check_proves_a_connection(house: House, provider: str):
    person = await house.person("checker", provider)
    account = house.accounts[f"checker-{provider}"]
    records = (await house.gateway.owner("GET", "/owner/connections")).json()
    id = next(record["id"] for record in records if record["user"] == person.name)
    good = (await house.gateway.owner("POST", f"/owner/connections/{id}/check")).json()
    assert good["ok"]
    assert good["connection"]["state"] == "active"
    house.sim.world.revoke(account)
    bad = (await house.gateway.owner("POST", f"/owner/connections/{id}/check")).json()
    assert not bad["ok"]
    assert bad["connection"]["state"] == "needs_login"
    del house.accounts[f"checker-{provider}"]


async def test_a_dead_login_is_not_connected(house: House, provider: str):
    person = await house.person("dead")
    account = house.sim.world.create_account(provider)
    credential = credential_of(house.sim.world, account, None)
    house.sim.world.revoke(account)
    answer = await house.gateway.connect(person, provider, credential.encode())
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["code"] == "needs_login"
    records = (await house.gateway.owner("GET", "/owner/connections")).json()
    assert [record for record in records if record["user"] == person.name] == []
