"""No secret in any sandbox of the real CLIs, and nothing of one left behind."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from polydev.sim import Simulator
from polydev.sim.control import credential_of
from tests.e2e.conftest import House, NewGateway, Subscription, secrets_of
from tests.e2e.events import all_events, follow, submit
from tests.e2e.gateway import MARKER, Gateway
from tests.e2e.processes import (
    alive,
    all_gone,
    command_line,
    in_namespace_of_their_own,
    mounts,
    readable_bytes,
    unix_sockets,
)

pytestmark = [pytest.mark.anyio, pytest.mark.real]

LONG = f"{MARKER}: count to 3000"


@contextlib.asynccontextmanager
async def _in_flight(subscription: Subscription, *, deltas: int = 1, **more: Any):
    """A run whose answer is on its way: its id, and a client."""
    subscription.turn(pace_seconds=0.5)
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=LONG, **more)
    async with contextlib.aclosing(follow(client, run_id)) as live:
        async for event in live:
            deltas -= event["type"] == "text.delta"
            if not deltas:
                break
            assert event["type"] != "run.finished", event
    yield run_id, client


async def test_no_process_in_a_sandbox_has_a_secret(subscription: Subscription, house: House):
    gateway = house.gateway
    async with _in_flight(subscription, system=f"You are {MARKER}.") as (run_id, client):
        below = gateway.processes()
        inside = in_namespace_of_their_own(below)
        assert inside, "no process runs in a sandbox"
        secrets = {**secrets_of(house.sim), "the API key": subscription.person.key}
        looked_at = 0
        for pid in inside:
            for where, content in readable_bytes(pid):
                looked_at += 1
                for what, value in secrets.items():
                    assert value.encode() not in content, f"{what} in {where}"
        assert looked_at > 10, "hardly anything could be looked at"
        # Beside the sandbox: arguments and environments are what other users' tools may show.
        for pid in {pid for pid, _ in below} | {gateway.pid}:
            own = Path(f"/proc/{pid}")
            for name in ("environ", "cmdline"):
                with contextlib.suppress(FileNotFoundError):
                    content = (own / name).read_bytes()
                    for what, value in secrets.items():
                        assert value.encode() not in content, f"{what} in {command_line(pid)}"
        record = (await client.get(f"/v1/runs/{run_id}")).json()
        assert record["state"] == "running", "the run was over before everything was looked at"
        await client.delete(f"/v1/runs/{run_id}")


async def test_a_run_that_ended_leaves_nothing(subscription: Subscription, house: House):
    gateway = house.gateway
    before = gateway.processes()
    async with _in_flight(subscription) as (run_id, client):
        during = gateway.processes() - before
        assert in_namespace_of_their_own(during)
        assert len(list((gateway.data / "sandboxes").iterdir())) == 1
        await client.delete(f"/v1/runs/{run_id}")
    # The run's end is told only when its sandbox is gone.
    assert alive(during) == frozenset()
    assert list((gateway.data / "sandboxes").iterdir()) == []
    assert unix_sockets(gateway.data / "sandboxes") == []
    assert mounts(gateway.data) == []


async def test_a_killed_gateway_leaves_nothing_and_the_next_one_goes_on(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada = await gateway.person("ada")
    account = sim.world.create_account(provider)
    await gateway.connected(ada, provider, credential_of(sim.world, account, None).encode())
    first = sim.world.records.total
    subscription = Subscription(provider, ada, account, sim, first)
    # By the second one, half a second later, the first is on the disk.
    async with _in_flight(subscription, deltas=2) as (run_id, _):
        during = gateway.processes()
        assert in_namespace_of_their_own(during)
        await gateway.kill()
    await ada.close()
    await all_gone(during)
    assert unix_sockets(gateway.data) == []
    assert mounts(gateway.data) == []
    prompts = len(subscription.prompts())

    await gateway.start()
    assert list((gateway.data / "sandboxes").iterdir()) == []
    client = ada.http()
    record = (await client.get(f"/v1/runs/{run_id}")).json()
    assert (record["state"], record["reason"]) == ("failed", "gateway_stopped")
    events = await all_events(client, run_id)
    assert events[-1]["reason"] == "gateway_stopped"
    assert any(event["type"] == "text.delta" for event in events), "what was said is lost"
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert len(subscription.prompts()) == prompts, "the run was repeated"
    subscription.turn(pace_seconds=None)
    again = await all_events(
        client, await submit(client, model=provider, prompt=f"{MARKER}: calculate 3*67")
    )
    assert again[-1]["outcome"] == "succeeded"
    await ada.close()


@pytest.mark.providers("claude")
async def test_a_gateway_that_is_told_to_stop_ends_its_runs(
    sim: Simulator, programs: Path, provider: str, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(programs)
    ada = await gateway.person("ada")
    account = sim.world.create_account(provider)
    await gateway.connected(ada, provider, credential_of(sim.world, account, None).encode())
    subscription = Subscription(provider, ada, account, sim, sim.world.records.total)
    async with _in_flight(subscription) as (run_id, _):
        during = gateway.processes()
        assert await gateway.stop() == 0
    await ada.close()
    await all_gone(during)
    await gateway.start()
    record = (await ada.http().get(f"/v1/runs/{run_id}")).json()
    assert (record["state"], record["reason"]) == ("failed", "gateway_stopped")
    await ada.close()
