"""The stand-in for an API of OpenAI's kind, asked through the vendor's own SDK."""

import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from polydev.sim import Account, Simulator

pytestmark = pytest.mark.anyio

MODEL = "qwen3-coder-plus"


@pytest.fixture
def account(sim: Simulator) -> Account:
    return sim.world.accounts["qwen-1"]


@pytest.fixture
async def sdk(
    sim: Simulator, trust: ssl.SSLContext, account: Account
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key=sim.world.give_api_key(account).value,
        base_url=f"https://localhost:{sim.port}/v1",
        http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
        max_retries=0,
    ) as client:
        yield client


def question(text: str, **others: Any) -> Any:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **others}


async def test_a_question_is_answered(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(**question("calculate 3*67"))
    assert answer.choices[0].message.content == "201"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


async def test_a_stream_holds_the_same_text(sdk: openai.AsyncOpenAI) -> None:
    asked = question("count to 20", stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in await sdk.chat.completions.create(**asked)]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == " ".join(str(number) for number in range(1, 21))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len([piece for piece in pieces if piece])


async def test_responses_stream_the_same_text(sdk: openai.AsyncOpenAI) -> None:
    stream: Any = await sdk.responses.create(
        model=MODEL, input=[{"role": "user", "content": "count to 20"}], stream=True
    )
    events = [event async for event in stream]
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == " ".join(str(number) for number in range(1, 21))
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens > 10


async def test_responses_see_turns_and_images(sdk: openai.AsyncOpenAI) -> None:
    reminder = {"type": "input_text", "text": "<system-reminder>\nNone.\n</system-reminder>"}
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    turns: Any = [
        {"role": "user", "content": [reminder, {"type": "input_text", "text": "I am Ada."}]},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, image]},
    ]
    stream: Any = await sdk.responses.create(
        model=MODEL, input=turns, instructions="terse", stream=True
    )
    events = [event async for event in stream]
    assert events[-1].response.output_text == (
        "You sent 3 words, beginning “What is it?”. Before that came 2 turns. I saw 1 image. "
        "The system prompt has 5 characters."
    )


async def test_responses_have_the_same_failures(
    sim: Simulator, sdk: openai.AsyncOpenAI, account: Account
) -> None:
    asked: Any = {"model": MODEL, "input": [{"role": "user", "content": "1+1"}], "stream": True}
    sim.world.turn(account, {"limit_reached": True})
    with pytest.raises(openai.RateLimitError) as limited:
        await sdk.responses.create(**asked)
    assert limited.value.code == "insufficient_quota"
    sim.world.turn(account, {"limit_reached": None})
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.create(**asked | {"stream": False})


async def test_turns_images_and_the_system_prompt_are_seen(sdk: openai.AsyncOpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    reminder = {"type": "text", "text": "<system-reminder>\nNone.\n</system-reminder>"}
    messages: Any = [
        {"role": "system", "content": "terse"},
        {"role": "user", "content": [reminder, {"type": "text", "text": "My name is Ada."}]},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
    ]
    answer = await sdk.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == (
        "You sent 3 words, beginning “What is it?”. Before that came 2 turns. I saw 1 image. "
        "The system prompt has 5 characters."
    )


async def test_functions_are_called_and_limits_obeyed(sdk: openai.AsyncOpenAI) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
    called = await sdk.chat.completions.create(
        **question(
            'call the tool weather {"city": "Bergen"}',
            tools=[{"type": "function", "function": function}],
        )
    )
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.tool_calls is not None
    call = called.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert call.function.arguments == '{"city": "Bergen"}'
    short = await sdk.chat.completions.create(**question("count to 50", max_tokens=3))
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("1 2 3", "length")


@pytest.mark.parametrize(
    ("knobs", "status", "code"),
    [
        ({"overloaded": True}, 503, None),
        ({"server_error": 500}, 500, None),
        ({"rate_limited": True}, 429, "rate_limit_exceeded"),
        ({"limit_reached": True}, 429, "insufficient_quota"),
        ({"tokens_rejected": True}, 401, "invalid_api_key"),
    ],
)
async def test_a_knob_makes_the_vendors_error(
    *,
    sim: Simulator,
    sdk: openai.AsyncOpenAI,
    account: Account,
    knobs: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    sim.world.turn(account, knobs)
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.chat.completions.create(**question("1+1"))
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert ("retry-after" in refused.value.response.headers) == ("rate_limited" in knobs)


async def test_bad_requests_are_refused_in_the_vendors_form(
    sim: Simulator, sdk: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(**question("1+1") | {"model": "made-up"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await sdk.chat.completions.create(model=MODEL, messages=[])
    nobody = await http.post("/v1/chat/completions", json=question("1+1"))
    assert nobody.status_code == 401


async def test_a_stream_is_cut_off(
    sim: Simulator, sdk: openai.AsyncOpenAI, account: Account
) -> None:
    sim.world.turn(account, {"cut_after_chunks": 4})
    received = []
    with pytest.raises(openai.APIConnectionError):
        async for chunk in await sdk.chat.completions.create(
            **question("count to 50", stream=True)
        ):
            received += [chunk.choices[0].delta.content]
    assert len([piece for piece in received if piece]) == 4


async def test_the_key_of_the_credential_file_works_on_the_vendors_hosts(
    sim: Simulator, http: httpx.AsyncClient
) -> None:
    name, _, key = sim.credential_path("qwen").read_text().strip().partition("=")
    assert name == "OPENAI_API_KEY"
    for host, path in (
        ("coding-intl.dashscope.aliyuncs.com", "/v1/chat/completions"),
        ("dashscope-intl.aliyuncs.com", "/compatible-mode/v1/chat/completions"),
    ):
        headers = {"host": host, "authorization": f"Bearer {key}"}
        answer = await http.post(path, json=question("6*7="), headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == "42"
