"""The stand-in for Anthropic, asked through the vendor's own SDK and over plain HTTP."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from polydev.sim import Account, Simulator

pytestmark = pytest.mark.anyio

BETA = {"anthropic-beta": "oauth-2025-04-20"}


@pytest.fixture
def account(sim: Simulator) -> Account:
    return sim.world.accounts["claude-1"]


@pytest.fixture
def token(sim: Simulator, account: Account) -> str:
    return sim.world.log_in(account).access.value


@pytest.fixture
async def sdk(
    sim: Simulator, trust: ssl.SSLContext, token: str
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        auth_token=token,
        base_url=f"https://localhost:{sim.port}",
        http_client=anthropic.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
        max_retries=0,
        default_headers=BETA,
    ) as client:
        yield client


def question(text: str, **others: Any) -> Any:
    return {
        "model": "claude-sonnet-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
        **others,
    }


async def test_a_message_is_answered(sdk: anthropic.AsyncAnthropic) -> None:
    message = await sdk.messages.create(**question("calculate 3*67"))
    assert message.content[0].type == "text"
    assert message.content[0].text == "201"
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


async def test_a_stream_holds_the_same_text(sdk: anthropic.AsyncAnthropic) -> None:
    async with sdk.messages.stream(**question("count to 20")) as stream:
        pieces = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(pieces) == " ".join(str(number) for number in range(1, 21))
    assert len(pieces) > 10
    assert final.usage.output_tokens == len(pieces)


async def test_reasoning_and_tools_have_their_blocks(sdk: anthropic.AsyncAnthropic) -> None:
    tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {}}}}]
    asked = question(
        'think, then call the tool weather {"city": "Bergen"}',
        tools=tools,
        thinking={"type": "adaptive"},
    )
    async with sdk.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "tool_use"]
    assert final.content[1].type == "tool_use"
    assert final.content[1].input == {"city": "Bergen"}
    assert final.stop_reason == "tool_use"


async def test_max_tokens_ends_the_answer(sdk: anthropic.AsyncAnthropic) -> None:
    message = await sdk.messages.create(**question("count to 50", max_tokens=3))
    assert message.stop_reason == "max_tokens"
    assert message.content[0].type == "text"
    assert message.content[0].text == "1 2 3"


async def test_every_answer_carries_the_windows(
    sdk: anthropic.AsyncAnthropic, account: Account
) -> None:
    answer = await sdk.messages.with_raw_response.create(**question("1+1"))
    prefix = "anthropic-ratelimit-unified"
    assert answer.headers[f"{prefix}-status"] == "allowed"
    assert answer.headers[f"{prefix}-5h-utilization"] == "0.001"
    reset = round(account.windows["five_hour"].resets_at.timestamp())
    assert answer.headers[f"{prefix}-5h-reset"] == str(reset)
    assert answer.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("knobs", "status", "kind"),
    [
        ({"overloaded": True}, 529, "overloaded_error"),
        ({"server_error": 500}, 500, "api_error"),
        ({"server_error": 503}, 503, "api_error"),
        ({"rate_limited": True}, 429, "rate_limit_error"),
        ({"limit_reached": True}, 429, "rate_limit_error"),
        ({"tokens_rejected": True}, 403, "permission_error"),
    ],
)
async def test_a_knob_makes_the_vendors_error(
    *,
    sim: Simulator,
    sdk: anthropic.AsyncAnthropic,
    account: Account,
    knobs: dict[str, Any],
    status: int,
    kind: str,
) -> None:
    sim.world.turn(account, knobs)
    with pytest.raises(anthropic.APIStatusError) as refused:
        await sdk.messages.create(**question("1+1"))
    assert refused.value.status_code == status
    assert json.loads(refused.value.response.text)["error"]["type"] == kind
    sim.world.turn(account, dict.fromkeys(knobs))


async def test_a_limit_and_a_short_rate_are_told_apart(
    sim: Simulator, sdk: anthropic.AsyncAnthropic, account: Account
) -> None:
    sim.world.turn(account, {"rate_limited": True, "retry_after_seconds": 7})
    with pytest.raises(anthropic.RateLimitError) as short:
        await sdk.messages.create(**question("1+1"))
    assert short.value.response.headers["retry-after"] == "7"
    assert "anthropic-ratelimit-unified-status" not in short.value.response.headers
    sim.world.turn(account, {"rate_limited": None, "limit_reached": True})
    with pytest.raises(anthropic.RateLimitError) as limit:
        await sdk.messages.create(**question("1+1"))
    headers = limit.value.response.headers
    assert headers["anthropic-ratelimit-unified-status"] == "rejected"
    assert headers["anthropic-ratelimit-unified-representative-claim"] == "five_hour"
    assert 3500 < int(headers["retry-after"]) <= 3600


async def test_an_expired_token_is_refused_and_a_bearer_needs_its_beta(
    sim: Simulator, http: httpx.AsyncClient, account: Account, token: str
) -> None:
    ask = {"json": question("1+1"), "headers": {"authorization": f"Bearer {token}"}}
    without_beta = await http.post("/v1/messages", **ask)
    assert without_beta.status_code == 401
    sim.world.expire_tokens(account)
    ask["headers"] |= BETA
    expired = await http.post("/v1/messages", **ask)
    assert expired.status_code == 401
    assert "expired" in expired.json()["error"]["message"]


async def test_an_api_key_works(sim: Simulator, http: httpx.AsyncClient, account: Account) -> None:
    key = sim.world.give_api_key(account).value
    answer = await http.post("/v1/messages", json=question("1+1"), headers={"x-api-key": key})
    assert answer.json()["content"][0]["text"] == "2"


async def test_a_refresh_rotates_over_http_and_reuse_is_refused(
    sim: Simulator, http: httpx.AsyncClient, account: Account
) -> None:
    first = sim.world.log_in(account)
    body = {"grant_type": "refresh_token", "refresh_token": first.refresh.value}
    headers = {"host": "platform.claude.com"}
    renewed = await http.post("/v1/oauth/token", json=body, headers=headers)
    assert renewed.status_code == 200
    assert renewed.json()["refresh_token"] != first.refresh.value
    assert renewed.json()["expires_in"] == 8 * 3600
    again = await http.post("/v1/oauth/token", json=body, headers=headers)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert account.counters["refreshes"] == 1
    recorded = sim.world.records.all(host="platform.claude.com")
    assert recorded[0].body["refresh_token"] == first.refresh.label


async def test_a_stream_is_cut_off(
    sim: Simulator, http: httpx.AsyncClient, account: Account, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}", **BETA}
    lines: list[str] = []

    async def ask() -> None:
        lines.clear()
        body = question("count to 50", stream=True)
        async with http.stream("POST", "/v1/messages", json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)

    sim.world.turn(account, {"cut_after_chunks": 4})
    with pytest.raises(httpx.RemoteProtocolError):
        await ask()
    assert lines.count("event: content_block_delta") == 4
    sim.world.turn(account, {"cut_after_chunks": 50})
    await ask()
    assert lines.count("event: message_stop") == 1


async def test_a_client_that_goes_away_is_noticed(
    sim: Simulator, sdk: anthropic.AsyncAnthropic, account: Account
) -> None:
    sim.world.turn(account, {"pace_seconds": 0.05})
    async with sdk.messages.stream(**question("count to 2000")) as stream:
        async for _ in stream.text_stream:
            break
    async with asyncio.timeout(5):
        while not account.counters["abandoned"]:
            await asyncio.sleep(0.01)


async def test_the_pace_is_kept(
    sim: Simulator, sdk: anthropic.AsyncAnthropic, account: Account
) -> None:
    sim.world.turn(account, {"pace_seconds": 0.05, "first_byte_seconds": 0.1})
    clock = asyncio.get_running_loop().time
    started = clock()
    async with sdk.messages.stream(**question("count to 6")) as stream:
        await stream.get_final_message()
    assert clock() - started > 0.1 + 5 * 0.05


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "x"}', b'{"messages": [1]}'])
async def test_a_bad_body_is_the_vendors_error(
    http: httpx.AsyncClient, token: str, body: bytes
) -> None:
    headers = {"authorization": f"Bearer {token}", **BETA}
    answer = await http.post("/v1/messages", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_account_and_usage_are_told(
    sim: Simulator, http: httpx.AsyncClient, account: Account, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    profile = (await http.get("/api/oauth/profile", headers=headers)).json()
    assert profile["account"]["email"] == account.email
    account.windows["five_hour"].used_fraction = 0.42
    usage = (await http.get("/api/oauth/usage", headers=headers)).json()
    assert usage["five_hour"]["utilization"] == 42.0
    assert (await http.get("/api/oauth/profile")).status_code == 401
