"""What a caller is told when the provider fails, is limited, or refuses the login."""

import asyncio
import contextlib
import datetime as dt
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.conftest import House, Subscription
from tests.e2e.events import all_events, follow, submit
from tests.e2e.gateway import MARKER, Person

pytestmark = [pytest.mark.anyio, pytest.mark.real]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"


async def _openai_error(person: Person, model: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await person.openai().chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}]
        )
    return caught.value


async def _anthropic_error(person: Person, model: str) -> anthropic.APIStatusError:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await person.anthropic().messages.create(
            model=model, max_tokens=100, messages=[{"role": "user", "content": QUESTION}]
        )
    return caught.value


async def test_a_limit_that_is_reached_says_when_it_opens(subscription: Subscription):
    subscription.turn(limit_reached=True, limit_resets_in_seconds=3000)
    error = await _openai_error(subscription.person, subscription.provider)
    assert isinstance(error, openai.RateLimitError)
    assert error.code == "window_exhausted"
    body: Any = error.body
    resets_at = dt.datetime.fromisoformat(body["retry_at"])
    assert 2800 < (resets_at - dt.datetime.now(dt.UTC)).total_seconds() < 3100
    assert 2800 < int(error.response.headers["retry-after"]) <= 3100
    assert error.response.headers["x-should-retry"] == "false"
    assert len(subscription.prompts()) == 1

    other = await _anthropic_error(subscription.person, subscription.provider)
    assert isinstance(other, anthropic.RateLimitError)
    fields: Any = other.body
    assert fields["type"] == "error"
    assert fields["error"]["type"] == "rate_limit_error"
    assert fields["error"]["reason"] == "window_exhausted"
    assert 2800 < int(other.response.headers["retry-after"]) <= 3100


@pytest.mark.providers("claude")
async def test_a_connection_that_is_limited_stays_active(subscription: Subscription, house: House):
    subscription.turn(limit_reached=True)
    await _openai_error(subscription.person, subscription.provider)
    subscription.turn(limit_reached=None)
    answer = await subscription.person.openai().chat.completions.create(
        model=subscription.provider, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"


async def test_a_short_rate_limit_is_no_exhausted_window(subscription: Subscription):
    subscription.turn(rate_limited=True, retry_after_seconds=7)
    error = await _openai_error(subscription.person, subscription.provider)
    assert error.status_code == 429
    assert error.code == "provider_rate_limited"
    assert 1 <= int(error.response.headers["retry-after"]) <= 10
    assert len(subscription.prompts()) == 1


async def test_an_overloaded_provider_is_told_apart_from_a_limit(subscription: Subscription):
    subscription.turn(overloaded=True)
    error = await _openai_error(subscription.person, subscription.provider)
    assert (error.status_code, error.code) in {
        (429, "provider_rate_limited"),
        (502, "provider_error"),
    }
    assert len(subscription.prompts()) == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_an_outage_is_a_bad_gateway_and_asked_once(subscription: Subscription, status: int):
    subscription.turn(server_error=status)
    error = await _openai_error(subscription.person, subscription.provider)
    assert (error.status_code, error.code) == (502, "provider_error")
    assert error.type == "server_error"
    assert len(subscription.prompts()) == 1
    other = await _anthropic_error(subscription.person, subscription.provider)
    assert other.status_code == 502
    fields: Any = other.body
    assert fields["error"]["type"] == "api_error"
    assert len(subscription.prompts()) == 2


async def test_a_stream_that_is_cut_off_fails_and_is_asked_once(subscription: Subscription):
    subscription.turn(cut_after_chunks=3, pace_seconds=0.05)
    texts = []
    stream = await subscription.person.openai().chat.completions.create(
        model=subscription.provider,
        messages=[{"role": "user", "content": f"{MARKER}: count to 40"}],
        stream=True,
    )
    with pytest.raises(openai.APIError) as caught:
        async for chunk in stream:
            texts += [c.delta.content for c in chunk.choices if c.delta.content]
    assert caught.value.code == "provider_error"
    assert "".join(texts).startswith("1 2")
    assert len(subscription.prompts()) == 1


async def test_a_failure_before_the_first_word_has_its_own_status_in_a_stream_too(
    subscription: Subscription,
):
    subscription.turn(server_error=500)
    with pytest.raises(openai.APIStatusError) as caught:
        await subscription.person.openai().chat.completions.create(
            model=subscription.provider,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
        )
    assert caught.value.status_code == 502
    with pytest.raises(anthropic.APIStatusError) as refused:
        async with subscription.person.anthropic().messages.stream(
            model=subscription.provider,
            max_tokens=100,
            messages=[{"role": "user", "content": QUESTION}],
        ) as stream:
            await stream.get_final_message()
    assert refused.value.status_code == 502


async def test_a_dead_login_is_told_apart_and_remembered(house: House, provider: str):
    person = await house.person("mallory", provider)
    account = house.accounts[f"mallory-{provider}"]
    house.sim.world.revoke(account)
    first = await _openai_error(person, provider)
    assert (first.status_code, first.code) == (403, "needs_login")
    assert "broke off" not in first.message
    assert isinstance(first, openai.PermissionDeniedError)
    second = await _anthropic_error(person, provider)
    assert second.status_code == 403
    fields: Any = second.body
    assert fields["error"]["type"] == "permission_error"
    assert fields["error"]["reason"] == "needs_login"
    assert "polydev connect" in fields["error"]["message"] or "Log in" in fields["error"]["message"]
    # It is connected anew, and works.
    account.overrides.clear()
    del house.accounts[f"mallory-{provider}"]
    await house.person("mallory", provider)
    answer = await person.openai().chat.completions.create(
        model=provider, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"
    await person.close()


@pytest.mark.providers("qwen")
async def test_a_key_that_is_refused_needs_a_login(house: House, provider: str):
    person = await house.person("mallory", provider)
    house.sim.world.revoke(house.accounts[f"mallory-{provider}"])
    assert (await _openai_error(person, provider)).code == "needs_login"
    async with asyncio.timeout(10):
        while True:
            connections = (await house.gateway.owner("GET", "/owner/connections")).json()
            found = next(c for c in connections if c["user"] == person.name)
            if found["state"] == "needs_login":
                break
            await asyncio.sleep(0.02)
    assert "refused this key" in found["reason"]
    assert "refused this key" in (await _openai_error(person, provider)).message
    await person.close()


@pytest.mark.providers("claude", "codex")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_goes_away_cancels_its_run(
    subscription: Subscription, stream: bool, begun: bool
):
    subscription.turn(**({"pace_seconds": 0.3} if begun else {"first_byte_seconds": 30}))
    client = subscription.person.http()
    body = {
        "model": subscription.provider,
        "messages": [{"role": "user", "content": f"{MARKER}: count to 3000"}],
        "stream": stream,
    }
    prompts = len(subscription.prompts())

    async def ask() -> None:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                pass

    asking = asyncio.create_task(ask())
    await subscription.sim.world.records.arrived(
        lambda _: len(subscription.prompts()) > prompts, within=30
    )
    (run, *_) = (await client.get("/v1/runs", params={"limit": 1})).json()
    assert run["state"] == "running"
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(5):
        events = await all_events(subscription.person.http(), run["id"])
    assert events[-1]["reason"] == "cancelled"


@pytest.mark.providers("codex")
async def test_a_native_run_goes_on_without_its_client(subscription: Subscription):
    subscription.turn(pace_seconds=0.02)
    client = subscription.person.http()
    run_id = await submit(client, model=subscription.provider, prompt=f"{MARKER}: count to 40")
    async with contextlib.aclosing(follow(client, run_id)) as live:
        async for event in live:
            if event["type"] == "text.delta":
                break
    await subscription.person.close()
    events = await all_events(subscription.person.http(), run_id)
    assert events[-1]["outcome"] == "succeeded"
