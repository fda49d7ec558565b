"""The stand-in for ChatGPT, asked through the vendor's own SDK, a WebSocket, and plain HTTP."""

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import zstandard
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polydev.sim import Account, Simulator

pytestmark = pytest.mark.anyio

RESPONSES = "/backend-api/codex/responses"


@pytest.fixture
def account(sim: Simulator) -> Account:
    return sim.world.accounts["codex-1"]


@pytest.fixture
def token(sim: Simulator, account: Account) -> str:
    return sim.world.log_in(account).access.value


@pytest.fixture
async def sdk(
    sim: Simulator, trust: ssl.SSLContext, token: str
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key=token,
        base_url=f"https://localhost:{sim.port}/backend-api/codex",
        http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
        max_retries=0,
    ) as client:
        yield client


def item(text: str, role: str = "user") -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def request(words: str, **others: Any) -> dict[str, Any]:
    return {"model": "gpt-6.1-sol", "input": [item(words)], "stream": True, **others}


async def events(sdk: openai.AsyncOpenAI, words: str, **others: Any) -> list[Any]:
    stream = await sdk.responses.create(**request(words, **others))
    return [event async for event in stream]


async def test_a_stream_is_a_response(sdk: openai.AsyncOpenAI) -> None:
    seen = await events(sdk, "count to 12")
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "1 2 3 4 5 6 7 8 9 10 11 12"
    assert seen[0].type == "response.created"
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "".join(deltas)
    assert seen[-1].response.usage.output_tokens == len(deltas)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


async def test_reasoning_a_schema_and_tools_have_their_items(sdk: openai.AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}}
    seen = await events(
        sdk,
        "think: what is 3*67",
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    )
    output = seen[-1].response.output
    assert [part.type for part in output] == ["reasoning", "message"]
    assert json.loads(seen[-1].response.output_text) == {"answer": 201}
    tools = [{"type": "function", "name": "weather", "parameters": {}, "strict": False}]
    seen = await events(sdk, 'call the tool weather {"city": "Bergen"}', tools=tools)
    call = seen[-1].response.output[0]
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "weather",
        {"city": "Bergen"},
    )


async def test_a_compressed_body_is_read_and_recorded(
    sim: Simulator, http: httpx.AsyncClient, token: str
) -> None:
    body = zstandard.compress(json.dumps(request("6*7")).encode())
    answer = await http.post(
        RESPONSES,
        content=body,
        headers={
            "host": "chatgpt.com",
            "authorization": f"Bearer {token}",
            "content-encoding": "zstd",
            "content-type": "application/json",
        },
    )
    assert '"delta":"42"' in answer.text
    (record,) = sim.world.records.all(path=RESPONSES)
    assert record.body["input"] == [item("6*7")]
    assert record.body_bytes == len(body)
    broken = await http.post(RESPONSES, content=b"no", headers={"content-encoding": "zstd"})
    assert broken.status_code == 400


async def test_windows_come_as_headers(
    http: httpx.AsyncClient, account: Account, token: str
) -> None:
    account.windows["primary"].used_fraction = 0.5
    answer = await http.post(
        RESPONSES, json=request("1+1"), headers={"authorization": f"Bearer {token}"}
    )
    assert float(answer.headers["x-codex-primary-used-percent"]) == pytest.approx(50.1)
    assert answer.headers["x-codex-primary-window-minutes"] == "300"
    assert int(answer.headers["x-codex-secondary-reset-at"]) == round(
        account.windows["secondary"].resets_at.timestamp()
    )


@pytest.mark.parametrize(
    ("knobs", "status", "code"),
    [
        ({"limit_reached": True}, 429, "usage_limit_reached"),
        ({"rate_limited": True}, 429, "rate_limit_exceeded"),
        ({"overloaded": True}, 503, "server_is_overloaded"),
        ({"server_error": 502}, 502, "server_error"),
    ],
)
async def test_a_knob_makes_the_same_error_on_both_transports(
    *,
    sim: Simulator,
    http: httpx.AsyncClient,
    account: Account,
    token: str,
    knobs: dict[str, Any],
    status: int,
    code: str,
) -> None:
    sim.world.turn(account, knobs)
    headers = {"authorization": f"Bearer {token}"}
    answer = await http.post(RESPONSES, json=request("1+1"), headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == code
    async with socket(sim, token) as ws:
        await ws.send(json.dumps({"type": "response.create", **request("1+1")}))
        event = json.loads(await ws.recv())
    assert (event["type"], event["status"], event["error"]["type"]) == ("error", status, code)


async def test_a_foreign_account_id_is_refused(
    sim: Simulator, http: httpx.AsyncClient, account: Account, token: str
) -> None:
    other = sim.world.create_account("codex")
    headers = {"authorization": f"Bearer {token}", "chatgpt-account-id": other.id}
    answer = await http.post(RESPONSES, json=request("1+1"), headers=headers)
    assert answer.status_code == 401
    headers["chatgpt-account-id"] = account.id
    answer = await http.post(RESPONSES, json=request("1+1"), headers=headers)
    assert answer.status_code == 200


def socket(sim: Simulator, token: str) -> connect:
    trust = ssl.create_default_context(cafile=str(sim.ca))
    return connect(
        f"wss://chatgpt.com{RESPONSES}",
        host="127.0.0.1",
        port=sim.port,
        ssl=trust,
        proxy=None,
        additional_headers={"authorization": f"Bearer {token}"},
    )


async def respond(ws: ClientConnection, body: dict[str, Any]) -> list[dict[str, Any]]:
    await ws.send(json.dumps({"type": "response.create", **body}))
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["type"] not in ("response.completed", "error"):
        seen.append(json.loads(await ws.recv()))
    return seen


async def test_a_socket_warms_up_and_keeps_the_conversation(sim: Simulator, token: str) -> None:
    async with socket(sim, token) as ws:
        warm = await respond(ws, request("hello there", generate=False))
        assert not [event for event in warm if "delta" in event]
        second = await respond(
            ws,
            {
                "model": "gpt-6.1-sol",
                "input": [item("say something")],
                "previous_response_id": warm[-1]["response"]["id"],
            },
        )
        assert second[0]["type"] == "codex.rate_limits"
        text = "".join(event["delta"] for event in second if "delta" in event)
        assert "Before that came 1 turn." in text
        third = await respond(
            ws,
            {
                "model": "gpt-6.1-sol",
                "input": [item("say more")],
                "previous_response_id": second[-1]["response"]["id"],
            },
        )
        text = "".join(event["delta"] for event in third if "delta" in event)
        assert "Before that came 3 turns." in text
        lost = await respond(ws, {"input": [], "previous_response_id": "resp_unknown"})
        assert lost[-1]["error"]["code"] == "previous_response_not_found"
    frames = sim.world.records.all(method="FRAME")
    assert len(frames) == 4
    assert frames[0].body["generate"] is False
    assert frames[0].host == "chatgpt.com"
    assert frames[0].account == "codex-1"


async def test_a_socket_needs_a_good_token(sim: Simulator, account: Account, token: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(sim, "made-up-token-of-nobody"):
            pass
    assert refused.value.response.status_code == 401
    async with socket(sim, token) as ws:
        await respond(ws, request("1+1"))
        sim.world.revoke(account)
        with pytest.raises(ConnectionClosed):
            await respond(ws, request("1+1"))


async def test_a_socket_is_cut_off_or_refused(sim: Simulator, account: Account, token: str) -> None:
    sim.world.turn(account, {"cut_after_chunks": 3})
    async with socket(sim, token) as ws:
        with pytest.raises(ConnectionClosed):
            await respond(ws, request("count to 30"))
    sim.world.turn(account, {"websocket_refused": True})
    with pytest.raises(InvalidStatus) as refused:
        async with socket(sim, token):
            pass
    assert refused.value.response.status_code == 426


async def test_a_refresh_rotates_over_http_and_reuse_is_refused(
    sim: Simulator, http: httpx.AsyncClient, account: Account
) -> None:
    first = sim.world.log_in(account)
    body = {"grant_type": "refresh_token", "refresh_token": first.refresh.value}
    headers = {"host": "auth.openai.com"}
    renewed = (await http.post("/oauth/token", json=body, headers=headers)).json()
    assert renewed["access_token"].count(".") == renewed["id_token"].count(".") == 2
    again = await http.post("/oauth/token", json=body, headers=headers)
    assert (again.status_code, again.json()["error"]["code"]) == (401, "refresh_token_reused")
    dead = await http.get(
        "/backend-api/wham/usage",
        headers={"authorization": f"Bearer {renewed['access_token']}", "host": "chatgpt.com"},
    )
    assert dead.status_code == 401


async def test_account_and_usage_are_told(
    http: httpx.AsyncClient, account: Account, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}", "host": "chatgpt.com"}
    check = (await http.get("/backend-api/wham/accounts/check", headers=headers)).json()
    assert check["accounts"][0]["id"] == account.id
    account.windows["primary"].used_fraction = 0.3
    usage = (await http.get("/backend-api/wham/usage", headers=headers)).json()
    assert usage["rate_limit"]["primary_window"]["used_percent"] == 30
