"""A run's events as a native client reads them."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx


async def submit(client: httpx.AsyncClient, **fields: Any) -> str:
    """The id of a new run."""
    answer = await client.post("/v1/runs", json=fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def follow(
    client: httpx.AsyncClient, run_id: str, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """The events by SSE, each with its `id` line checked against its number."""
    async with client.stream(
        "GET", f"/v1/runs/{run_id}/events", headers=dict(headers or {})
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        number = None
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                number = int(line.removeprefix("id: "))
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert event["number"] == number
                yield event


async def all_events(
    client: httpx.AsyncClient, run_id: str, headers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    return [event async for event in follow(client, run_id, headers)]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text.delta")
