"""Runs on the native surface: followed, resumed, cancelled, kept apart."""

import asyncio
import contextlib
import json

import pytest
import websockets
from websockets.asyncio.client import connect as websocket

from tests.e2e.conftest import House, Subscription
from tests.e2e.events import all_events, follow, submit, text_of
from tests.e2e.gateway import MARKER, Person

pytestmark = [pytest.mark.anyio, pytest.mark.real]
# For what no provider has a part in: the one whose CLI starts soonest.
ANY_PROVIDER = pytest.mark.providers("codex")

COUNTED = " ".join(str(number) for number in range(1, 41))
COUNTING = f"{MARKER}: count to 40"


def _events_url(person: Person, run_id: str) -> str:
    return f"{person.gateway.url.replace('http', 'ws')}/v1/runs/{run_id}/events"


async def test_events_are_numbered_without_gaps_and_tell_the_whole_run(subscription: Subscription):
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=COUNTING)
    events = await all_events(client, run_id)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "run.started"
    assert kinds[-1] == "run.finished"
    assert "usage.reported" in kinds
    assert text_of(events) == COUNTED
    assert events[-1]["outcome"] == "succeeded"
    record = (await client.get(f"/v1/runs/{run_id}")).json()
    assert record["state"] == "succeeded"
    assert record["reason"] == "stop"
    assert record["usage"]["output_tokens"] > 0
    assert record["created_at"] <= record["started_at"] <= record["first_token_at"]
    assert record["first_token_at"] <= record["finished_at"]


@ANY_PROVIDER
async def test_events_resume_after_the_run_where_the_reader_left(subscription: Subscription):
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=COUNTING)
    live = await all_events(client, run_id)
    for position in (1, len(live) // 2, len(live) - 1):
        resumed = await all_events(client, run_id, {"last-event-id": str(position)})
        assert resumed == live[position:]
    assert await all_events(client, run_id, {"last-event-id": str(len(live))}) == []


@ANY_PROVIDER
async def test_events_resume_while_the_run_goes_on(subscription: Subscription):
    subscription.turn(pace_seconds=0.02)
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=COUNTING)
    seen = []
    async with contextlib.aclosing(follow(client, run_id)) as live:
        async for event in live:
            seen.append(event)
            if event["type"] == "text.delta":
                break  # this reader leaves in the middle
    assert (await client.get(f"/v1/runs/{run_id}")).json()["state"] == "running"
    rest = await all_events(client, run_id, {"last-event-id": str(seen[-1]["number"])})
    assert text_of(seen + rest) == COUNTED
    assert [event["number"] for event in seen + rest] == list(range(1, len(seen + rest) + 1))


@ANY_PROVIDER
async def test_a_websocket_carries_the_same_events(subscription: Subscription):
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=COUNTING)
    headers = {"authorization": f"Bearer {subscription.person.key}"}
    url = _events_url(subscription.person, run_id)
    async with websocket(url, additional_headers=headers) as socket:
        messages = [json.loads(message) async for message in socket]
        assert socket.close_code == 1000
    assert messages == await all_events(client, run_id)
    async with websocket(f"{url}?after=2", additional_headers=headers) as socket:
        assert [json.loads(message) async for message in socket] == messages[2:]


@ANY_PROVIDER
async def test_a_websocket_without_a_good_key_is_refused(subscription: Subscription):
    run_id = await submit(subscription.person.http(), model=subscription.provider, prompt=COUNTING)
    url = _events_url(subscription.person, run_id)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websocket(url)
    assert refused.value.response.status_code == 401
    body = json.loads(refused.value.response.body or b"{}")
    assert body["error"]["code"] == "invalid_api_key"


async def test_delete_cancels_a_run_upstream_too(subscription: Subscription):
    subscription.turn(pace_seconds=0.2)
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=f"{MARKER}: count to 3000")
    async with contextlib.aclosing(follow(client, run_id)) as live:
        async for event in live:
            if event["type"] == "text.delta":
                break
    abandoned = subscription.account.counters["abandoned"]
    answer = await client.delete(f"/v1/runs/{run_id}")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["reason"]) == ("cancelled", "cancelled")
    again = await client.delete(f"/v1/runs/{run_id}")
    assert again.json()["state"] == "cancelled"
    events = await all_events(client, run_id)
    assert events[-1]["type"] == "run.finished"
    assert events[-1]["outcome"] == "cancelled"
    async with asyncio.timeout(10):
        while subscription.account.counters["abandoned"] == abandoned:
            await asyncio.sleep(0.02)


@ANY_PROVIDER
async def test_what_was_asked_can_be_read_back(subscription: Subscription):
    client = subscription.person.http()
    body = {
        "model": subscription.provider,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": f"{MARKER}: say one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "count to 2"},
        ],
    }
    run_id = await submit(client, **body)
    prompt = (await client.get(f"/v1/runs/{run_id}/prompt")).json()
    assert prompt["system"] == body["system"]
    assert [
        {"role": turn["role"], "content": turn["parts"][0]["text"]} for turn in prompt["turns"]
    ] == body["messages"]
    await all_events(client, run_id)


@pytest.mark.providers("claude", "codex")
async def test_windows_are_remembered_with_their_connection(
    subscription: Subscription, house: House
):
    client = subscription.person.http()
    events = await all_events(
        client, await submit(client, model=subscription.provider, prompt=COUNTING)
    )
    seen = {event["kind"] for event in events if event["type"] == "window.observed"}
    assert seen
    async with asyncio.timeout(10):
        stored: set[str] = set()
        while not seen <= stored:
            connections = (await house.gateway.owner("GET", "/owner/connections")).json()
            stored = {
                window["kind"]
                for connection in connections
                if connection["user"] == subscription.person.name
                for window in connection["windows"]
            }
            await asyncio.sleep(0.02)


@ANY_PROVIDER
async def test_another_persons_run_does_not_exist(subscription: Subscription, house: House):
    run_id = await submit(subscription.person.http(), model=subscription.provider, prompt=COUNTING)
    other = await house.person("eve")
    client = other.http()
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/prompt")):
        answer = await client.request(method, f"/v1/runs/{run_id}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert (await client.get("/v1/runs")).json() == []
    answer = await client.post("/v1/runs", json={"model": subscription.provider, "prompt": MARKER})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_connection")
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websocket(
            _events_url(subscription.person, run_id),
            additional_headers={"authorization": f"Bearer {other.key}"},
        )
    assert refused.value.response.status_code == 404
    await other.close()
    # What another one tried changed nothing.
    events = await all_events(subscription.person.http(), run_id)
    assert events[-1]["outcome"] == "succeeded"


@ANY_PROVIDER
async def test_another_persons_connection_cannot_be_named(subscription: Subscription, house: House):
    connections = (await house.gateway.owner("GET", "/owner/connections")).json()
    theirs = next(c["id"] for c in connections if c["user"] == subscription.person.name)
    other = await house.person("eve")
    answer = await other.http().post(
        "/v1/runs",
        json={"model": subscription.provider, "prompt": MARKER, "connection": theirs},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_connection")
    await other.close()


@ANY_PROVIDER
async def test_latest_runs_come_first(subscription: Subscription):
    client = subscription.person.http()
    ids = []
    for _ in range(2):
        ids.append(await submit(client, model=subscription.provider, prompt=COUNTING))
        await all_events(client, ids[-1])
    listed = (await client.get("/v1/runs", params={"limit": 2})).json()
    assert [run["id"] for run in listed] == ids[::-1]
    assert [(run["state"], run["message"]) for run in listed] == [("succeeded", "")] * 2
