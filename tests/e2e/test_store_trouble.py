"""A database that cannot be written: clear errors, nothing lost, and on it goes afterwards."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from polydev.api.app import network_app
from polydev.config import EgressSettings, load_settings
from polydev.core.connecting import NewConnection
from polydev.errors import StoreProblem
from polydev.events import EndReason, RunFinished, TextDelta
from polydev.gateway import Gateway, running_gateway
from polydev.models.accounts import Connection, Ownership
from polydev.models.runs import RunState
from polydev.providers.registry import provider_named
from polydev.secret import Secret
from polydev.sim import Account, Simulator
from polydev.sim.control import credential_of
from polydev.store import Store
from tests.full_disk import FullDisk, ReadOnly

pytestmark = pytest.mark.anyio


@dataclass
class Inside:
    """A gateway in this process, with one connection."""

    gateway: Gateway
    store: Store
    client: httpx.AsyncClient
    account: Account
    connection: Connection


@contextlib.asynccontextmanager
async def _inside(
    sim: Simulator, programs: Path, data: Path, provider: str
) -> AsyncIterator[Inside]:
    settings = load_settings(
        data=data,
        programs=programs,
        egress=EgressSettings(redirect=sim.redirect, upstream_ca=sim.ca),
    )
    async with running_gateway(settings) as gateway:
        services = gateway.services
        user = await services.accounts.user_named(None)
        _, key = await services.accounts.create_key(user, "test")
        account = sim.world.create_account(provider)
        connection, _ = await services.connecting.connect(
            NewConnection(
                user=user,
                provider=provider,
                files={
                    str(provider_named(provider).credential_file): Secret(
                        credential_of(sim.world, account, None).encode()
                    )
                },
                ownership=Ownership.TAKE,
                source=None,
            )
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(network_app(services, 2**20)),
            base_url="http://polydev",
            headers={"x-api-key": key.reveal()},
        ) as client:
            yield Inside(gateway, services.runs._store, client, account, connection)


async def test_a_full_disk_refuses_new_runs_and_loses_none(
    sim: Simulator, scripted_programs: Path, tmp_path: Path
):
    async with _inside(sim, scripted_programs, tmp_path / "data", "claude") as inside:
        client, runs = inside.client, inside.gateway.services.runs
        disk = FullDisk(inside.store)
        pieces = ["x" * 3000] * 20
        drip = json.dumps({"do": "drip", "pieces": pieces, "seconds": 0.02})
        answer = await client.post("/v1/runs", json={"model": "claude", "prompt": drip})
        run_id = answer.json()["id"]
        active = runs._active[run_id]
        disk.full = True

        refused = await client.post(
            "/v1/chat/completions",
            json={"model": "claude", "messages": [{"role": "user", "content": "y" * 30_000}]},
        )
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["reason"] == "disk_full"
        assert "Free space" in refused.json()["error"]["message"]

        # The run's readers notice nothing.
        async with asyncio.timeout(20):
            seen = [record async for record in active.log.follow()]
        assert isinstance(seen[-1].event, RunFinished)
        assert seen[-1].event.reason is EndReason.STOP
        text = "".join(r.event.text for r in seen if isinstance(r.event, TextDelta))
        assert text == "".join(pieces)
        async with asyncio.timeout(10):
            while (ready := await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.02)
        assert "full" in ready.json()["problems"][0]

        disk.full = False
        async with asyncio.timeout(20):
            while run_id in runs._active:
                await asyncio.sleep(0.02)
        assert (await client.get("/readyz")).status_code == 200
        stored = await inside.store.runs.get(run_id)
        assert stored is not None
        assert stored.state is RunState.SUCCEEDED
        caller = await inside.gateway.services.accounts.caller(client.headers["x-api-key"])
        assert [r async for r in await runs.events(caller, run_id, 0)] == seen


@pytest.mark.real
@pytest.mark.providers("claude")
async def test_a_refresh_that_cannot_be_written_back_is_applied_later(
    sim: Simulator, programs: Path, tmp_path: Path, provider: str
):
    async with _inside(sim, programs, tmp_path / "data", provider) as inside:
        keeper = inside.gateway.services.runs._keeper
        database = ReadOnly(inside.store)
        old = await keeper.fresh(inside.connection)
        sim.world.expire_tokens(inside.account)
        await keeper.refused(inside.connection, old)
        sim.world.turn(inside.account, {"refresh_delay_seconds": 1})
        before = sim.world.records.total
        refreshing = asyncio.create_task(keeper.fresh(inside.connection))
        await sim.world.records.arrived(
            lambda _: any(
                record.method == "POST" for record in sim.world.records.all(after=before)
            ),
            within=30,
        )
        database.on = True
        with pytest.raises(StoreProblem):
            await refreshing
        with pytest.raises(StoreProblem):  # it must not ask the provider again
            await keeper.fresh(inside.connection)
        assert inside.account.counters["refreshes"] == 1
        database.on = False
        renewed = await keeper.fresh(inside.connection)
        assert renewed.access_token != old.access_token
        assert inside.account.counters["refreshes"] == 1
        assert inside.account.counters["refreshes_refused"] == 0
        assert list((tmp_path / "data" / "spool").iterdir()) == []
        stored = await inside.store.connections.get(inside.connection.id)
        assert stored is not None
        assert stored.credential_version == 2


@pytest.mark.real
@pytest.mark.providers("claude")
async def test_what_another_gateway_refreshes_is_waited_for_and_not_refreshed_twice(
    sim: Simulator, programs: Path, tmp_path: Path, provider: str
):
    async with _inside(sim, programs, tmp_path / "data", provider) as inside:
        keeper, leases = inside.gateway.services.runs._keeper, inside.store.leases
        old = await keeper.fresh(inside.connection)
        sim.world.expire_tokens(inside.account)
        await keeper.refused(inside.connection, old)
        elsewhere = await leases.take(f"refresh {inside.connection.id}", "another gateway", 60)
        assert elsewhere is not None
        waiting = asyncio.create_task(keeper.fresh(inside.connection))
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
        assert inside.account.counters["refreshes"] == 0

        # The other gateway writes its renewed login back.
        pair = sim.world.log_in(inside.account)
        renewed = sim.world.vendors[provider].credential(inside.account, pair)
        file = str(provider_named(provider).credential_file)
        credential = provider_named(provider).read_credential({file: Secret(renewed.encode())})
        connection = await inside.store.connections.get(inside.connection.id)
        assert connection is not None
        credentials = keeper._credentials
        assert await credentials.replace(connection, connection.credential_version, credential)
        async with asyncio.timeout(20):
            assert (await waiting).access_token == credential.access_token
        assert inside.account.counters["refreshes"] == 0
