"""Bad requests, bad keys, full queues: each one clear error, in its surface's own format."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from polydev.sim.control import credential_of
from tests.e2e.conftest import House, NewGateway
from tests.e2e.events import all_events, submit
from tests.e2e.gateway import MARKER, Gateway, Person

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RUNS = "/v1/runs"
USER = {"role": "user", "content": MARKER}
HANG = json.dumps({"do": "hang"})


def _valid(path: str) -> dict[str, Any]:
    if path == RUNS:
        return {"model": "claude", "prompt": MARKER}
    return {"model": "claude", "messages": [USER], "max_tokens": 10}


def _error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after a look at its form."""
    body: dict[str, Any] = answer.json()
    error: dict[str, Any] = body["error"]
    assert error["message"]
    assert error["reason"]
    path = answer.request.url.path
    if path.startswith(MESSAGES):
        assert body["type"] == "error"
        assert error["type"].endswith(("_error", "request_too_large"))
    elif path.startswith("/v1/chat"):
        assert set(error) >= {"message", "type", "param", "code"}
    else:
        assert set(error) >= {"code", "message", "remedy"}
    return error


@pytest.fixture
async def client(scripted_house: House):
    person = await scripted_house.person("ada", "claude")
    yield person.http()
    await person.close()


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RUNS])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model": "claude", "messages": [',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"null",
        b"[]",
        b'"text"',
        b'{"model": NaN}',
    ],
    ids=range(12),
)
async def test_malformed_json(client: httpx.AsyncClient, path: str, content: bytes):
    answer = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    _error(answer)


WRONG: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {},
        {"model": 3},
        {"model": ""},
        {"model": "claude\0"},
        {"model": "claude-\ud800"},
        {"model": "claude-with a blank"},
        {"model": "x" * 5000},
        {"messages": None},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [3]},
        {"messages": [{"role": "wizard", "content": MARKER}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": [{"type": MARKER, "text": "x"}]}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": "  \n"}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "system", "content": MARKER}]},
        {"messages": [USER, {"role": "assistant", "content": MARKER}]},
        {"messages": [{"role": "user", "content": f"{MARKER} \ud83d"}]},
        {"messages": [{"role": "system", "content": f"{MARKER} \ud83d"}, USER]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:text/html;base64,aGk="}}
                    ],
                }
            ]
        },
        {"max_tokens": 0},
        {"max_tokens": -5},
        {"max_tokens": "many"},
        {"max_tokens": 1e400},
        {"stream": "perhaps"},
        {"stop": 4},
        {"stop": ["x"] * 100},
        {"stop": "x" * 100_000},
        {"stream_options": "all"},
    ],
    MESSAGES: [
        {},
        {"max_tokens": None},
        {"max_tokens": 0},
        {"system": 5},
        {"system": [{"type": "image"}]},
        {"messages": [{"role": "system", "content": MARKER}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"stop_sequences": "x"},
        {"messages": [{"role": "assistant", "content": MARKER}]},
    ],
    RUNS: [
        {},
        {"prompt": None},
        {"prompt": ""},
        {"prompt": MARKER, "messages": [USER]},
        {"prompt": 3},
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": "soon"},
        {MARKER: 1},
        {"\ud800": 1},
        {"stop": [3]},
        {"system": None},
    ],
}


@pytest.mark.parametrize(
    ("path", "change"),
    [(path, change) for path, changes in WRONG.items() for change in changes],
    ids=[f"{path}-{index}" for path, changes in WRONG.items() for index in range(len(changes))],
)
async def test_wrong_types_and_values(client: httpx.AsyncClient, path: str, change: dict[str, Any]):
    body = {**_valid(path), **change} if change else {}
    answer = await client.post(
        path, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error = _error(answer)
    if MARKER not in change:
        assert MARKER not in json.dumps(error), "an error repeats what was sent"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RUNS])
@pytest.mark.parametrize("model", ["nope", "nope/gpt", "claude/nope", "/", "claude//", "gpt"])
async def test_unknown_model_or_provider(client: httpx.AsyncClient, path: str, model: str):
    answer = await client.post(path, json={**_valid(path), "model": model})
    assert answer.status_code == 404
    assert "model" in _error(answer)["message"]


async def test_unknown_paths_and_methods(client: httpx.AsyncClient):
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", CHAT, 405),
        ("DELETE", MESSAGES, 405),
        ("GET", "/owner/users", 404),
        ("POST", "/owner/keys", 404),
        ("GET", "/v1/runs/run_unknown", 404),
        ("DELETE", "/v1/runs/%00%ff", 404),
        ("GET", "/v1/runs/run_unknown/events", 404),
        ("GET", "/v1/models/unknown", 404),
        ("GET", "/v1/runs?limit=0", 400),
        ("GET", "/v1/runs?limit=x", 400),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.json()["error"]["message"]


async def test_a_huge_timeout_is_only_the_longest(client: httpx.AsyncClient):
    for seconds in ("1e300", "1e12", "Infinity"):
        answer = await client.post(
            RUNS,
            content=f'{{"model": "claude", "prompt": "{MARKER}", "timeout_seconds": {seconds}}}',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 202, answer.text
        events = await all_events(client, answer.json()["id"])
        assert events[-1]["outcome"] == "succeeded", events[-1]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_no_key_an_unknown_key_and_a_revoked_key(scripted_house: House, path: str):
    gateway = scripted_house.gateway
    person = await scripted_house.person("ada", "claude")
    revoked = await gateway.key(person.name)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        answer = await client.get("/v1/models", headers={"x-api-key": revoked})
        assert answer.status_code == 200
        keys = (await gateway.owner("GET", "/owner/keys", user=person.name)).json()
        record = next(key for key in keys if revoked.startswith(key["prefix"]))
        await gateway.owner("POST", f"/owner/keys/{record['id']}/revoke")
        headers: dict[str, str]
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Basic abc"},
            {"authorization": "Bearer polydev_madeup"},
            {"x-api-key": "polydev_madeup"},
            {"x-api-key": ""},
            {"authorization": f"Bearer {revoked}"},
            {"x-api-key": revoked},
        ):
            answer = await client.post(path, json=_valid(path), headers=headers)
            assert answer.status_code == 401, headers
            assert answer.headers["www-authenticate"] == "Bearer"
            error = _error(answer)
            assert error["type"] == "authentication_error"
            assert revoked not in answer.text
    assert "revoked" in error["message"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RUNS])
async def test_a_missing_key_is_told_before_the_body_is_read(scripted_house: House, path: str):
    async with asyncio.timeout(30):
        url = httpx.URL(scripted_house.gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n{{"
        writer.write(head.encode())
        assert b" 401 " in await reader.readline()
        writer.close()


async def test_a_disabled_users_key_is_refused_at_once(scripted_house: House):
    gateway = scripted_house.gateway
    person = await gateway.person("leaver")
    client = person.http()
    assert (await client.get("/v1/models")).status_code == 200
    await gateway.owner("POST", "/owner/users/leaver/disable")
    answer = await client.post(CHAT, json=_valid(CHAT))
    assert answer.status_code == 403
    assert "disabled" in _error(answer)["message"]
    await person.close()


async def test_the_rate_limit_of_a_key(scripted_house: House):
    person = await scripted_house.gateway.person("hasty", requests_per_minute=3)
    client = person.http()
    for _ in range(3):
        assert (await client.get("/v1/models")).status_code == 200
    for path in (CHAT, MESSAGES, RUNS):
        answer = await client.post(path, json=_valid(path))
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-should-retry"] == "false"
        assert "3 times a minute" in _error(answer)["message"]
    await person.close()


async def test_the_concurrency_limit_of_a_key(scripted_house: House):
    gateway = scripted_house.gateway
    person = await scripted_house.person("ada", "claude")
    narrow = Person(gateway, person.name, await gateway.key(person.name, concurrent_runs=1))
    client = narrow.http()
    run_id = await submit(client, model="claude", prompt=HANG)
    answer = await client.post(CHAT, json=_valid(CHAT))
    assert answer.status_code == 429
    assert "1 runs at once" in _error(answer)["message"]
    await client.delete(f"/v1/runs/{run_id}")
    assert (await client.post(CHAT, json=_valid(CHAT))).status_code == 200
    await narrow.close()


async def test_an_enormous_prompt_and_a_body_over_the_limit(
    scripted_programs: Any, new_gateway: NewGateway, sim: Any
):
    gateway: Gateway = await new_gateway(
        scripted_programs,
        POLYDEV_RUNS__PROMPT_LIMIT_BYTES="1000",
        POLYDEV_SERVER__BODY_LIMIT_BYTES="100000",
    )
    ada = await gateway.person("ada")
    client = ada.http()
    text = MARKER * 100
    for path, body in (
        (CHAT, {"model": "claude", "messages": [{"role": "user", "content": text}]}),
        (CHAT, {"model": "claude", "messages": [{"role": "system", "content": text}, USER]}),
        (MESSAGES, {"model": "claude", "max_tokens": 1, "messages": [USER], "system": text}),
        (RUNS, {"model": "claude", "prompt": text}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 413, answer.text
        assert "1000" in _error(answer)["message"]
    for path in (CHAT, MESSAGES, RUNS):
        answer = await client.post(path, content=b'{"model": "' + b"x" * 200_000)
        assert answer.status_code == 413, answer.text
        assert "100000" in _error(answer)["message"]

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 10_000

        answer = await client.post(path, content=endless())
        assert answer.status_code == 413
    await ada.close()


async def test_a_full_queue(scripted_programs: Any, new_gateway: NewGateway, sim: Any):
    gateway: Gateway = await new_gateway(
        scripted_programs, POLYDEV_RUNS__CONCURRENT="1", POLYDEV_RUNS__QUEUE="2"
    )
    ada = await gateway.person("ada")
    account = sim.world.create_account("claude")
    await gateway.connected(ada, "claude", credential_of(sim.world, account, None).encode())
    client = ada.http()
    answers = await asyncio.gather(
        *(client.post(RUNS, json={"model": "claude", "prompt": HANG}) for _ in range(8))
    )
    admitted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert (len(admitted), len(refused)) == (3, 5)
    assert _error(refused[0])["code"] == "queue_full"
    assert int(refused[0].headers["retry-after"]) >= 1
    metrics = (await client.get("/metrics")).text
    assert "polydev_runs_queued 2.0" in metrics
    assert "polydev_runs_running 1.0" in metrics
    # One that waits can be cancelled, and gives its place to another.
    records = (await client.get(RUNS)).json()
    waiting = next(record["id"] for record in records if record["state"] == "queued")
    cancelled = (await client.delete(f"{RUNS}/{waiting}")).json()
    assert cancelled["state"] == "cancelled"
    admitted.append(await submit(client, model="claude", prompt=MARKER))
    assert (await client.post(RUNS, json={"model": "claude", "prompt": HANG})).status_code == 503
    for run_id in admitted[:-1]:
        await client.delete(f"{RUNS}/{run_id}")
    events = await all_events(client, admitted[-1])
    assert events[-1]["outcome"] == "succeeded"
    assert "polydev_runs_queued 0.0" in (await client.get("/metrics")).text
    await ada.close()


async def test_health_needs_no_key(scripted_house: House):
    async with httpx.AsyncClient(base_url=scripted_house.gateway.url) as client:
        assert (await client.get("/healthz")).text == "ok\n"
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "problems": []})
        assert "polydev_runs_total" in (await client.get("/metrics")).text
        assert (await client.get("/openapi.json")).status_code == 200
