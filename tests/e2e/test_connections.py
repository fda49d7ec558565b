"""What callers learn of their connections by the API."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from polydev.sim import Simulator
from tests.e2e.conftest import House
from tests.e2e.events import all_events, submit
from tests.e2e.gateway import Person

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def changes(person: Person) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    async with person.http().stream("GET", "/v1/connections/events") as stream:
        assert stream.status_code == 200
        name = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


@pytest.mark.providers("claude")
async def test_a_caller_sees_own_connections_and_hears_of_a_needed_login(
    house: House, sim: Simulator, provider: str
):
    person = await house.person("listener", provider)
    stranger = await house.person("stranger")
    account = house.accounts[f"listener-{provider}"]
    (record,) = (await person.http().get("/v1/connections")).json()
    assert (record["provider"], record["state"]) == (provider, "active")
    assert "source" in record
    assert (await stranger.http().get("/v1/connections")).json() == []
    heard = changes(person)
    async with asyncio.timeout(60):
        assert await anext(heard) == ("connection.seen", record)
        sim.world.turn(account, {"tokens_rejected": True, "refresh_denied": True})
        for _ in range(2):  # the first says that it must be renewed, the second that it cannot be
            client = person.http()
            run_id = await submit(client, model=provider, prompt="Say hello.")
            (*_, end) = await all_events(client, run_id)
            assert end["reason"] == "needs_login"
        async for name, changed in heard:
            if name == "connection.needs_login":
                assert changed["id"] == record["id"]
                assert changed["reason"]
                break
    await heard.aclose()
    sim.world.turn(account, {"tokens_rejected": None, "refresh_denied": None})
