"""What the vendors' own SDKs get from the real CLIs, and what of their requests goes upstream."""

import base64
import json
import struct
import zlib

import pytest

from polydev.providers.registry import PROVIDERS
from polydev.sim.records import Record
from tests.e2e.conftest import House, Subscription
from tests.e2e.gateway import MARKER

pytestmark = [pytest.mark.anyio, pytest.mark.real]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"
COUNTING = f"{MARKER}: count to 30"


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xc0\x20\x60" * 8) * 8)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _said(record: Record) -> list[tuple[str, str]]:
    """The turns of an upstream request, as (role, text), in whichever vendor's form."""
    body = record.body
    entries = body.get("messages") or body.get("input") or []
    if not entries:
        entries = (body.get("request") or body).get("contents") or []
    found = []
    for entry in entries:
        role = {"model": "assistant"}.get(entry.get("role", ""), entry.get("role", ""))
        content = entry.get("content", entry.get("parts", []))
        if isinstance(content, str):
            content = [{"text": content}]
        text = "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
        found.append((role, text))
    return found


async def test_openai_sdk_gets_an_answer_with_usage(subscription: Subscription):
    answer = await subscription.person.openai().chat.completions.create(
        model=subscription.provider, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == subscription.provider
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert len(subscription.prompts()) == 1


@pytest.mark.providers(*PROVIDERS)
async def test_openai_sdk_streams_deltas_and_usage(subscription: Subscription):
    subscription.turn(pace_seconds=0.01)
    stream = await subscription.person.openai().chat.completions.create(
        model=subscription.provider,
        messages=[{"role": "user", "content": COUNTING}],
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, finish, usage = [], None, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            if choice.delta.content:
                texts.append(choice.delta.content)
    assert "".join(texts) == " ".join(str(number) for number in range(1, 31))
    assert len(texts) > 3, "it came in one piece"
    assert finish == "stop"
    assert usage is not None
    assert usage.completion_tokens > 0


@pytest.mark.providers(*PROVIDERS)
async def test_anthropic_sdk_gets_a_message_with_usage(subscription: Subscription):
    message = await subscription.person.anthropic().messages.create(
        model=subscription.provider,
        max_tokens=1000,
        messages=[{"role": "user", "content": QUESTION}],
    )
    assert [block.text for block in message.content if block.type == "text"] == ["201"]
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


async def test_anthropic_sdk_streams(subscription: Subscription):
    subscription.turn(pace_seconds=0.01)
    texts = []
    async with subscription.person.anthropic().messages.stream(
        model=subscription.provider,
        max_tokens=1000,
        messages=[{"role": "user", "content": COUNTING}],
    ) as stream:
        async for text in stream.text_stream:
            texts.append(text)
        final = await stream.get_final_message()
    assert "".join(texts) == " ".join(str(number) for number in range(1, 31))
    assert len(texts) > 3, "it came in one piece"
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


@pytest.mark.providers("claude")
@pytest.mark.parametrize(
    "model", [*PROVIDERS["claude"].catalogue.names, "claude/claude-sonnet-4-5"]
)
async def test_claude_does_not_think_unless_asked_to(subscription: Subscription, model: str):
    await subscription.person.anthropic().messages.create(
        model=model, max_tokens=100, messages=[{"role": "user", "content": MARKER}]
    )
    (prompt,) = subscription.prompts()
    assert isinstance(prompt.body, dict)
    assert prompt.body.get("thinking", {"type": "disabled"}) == {"type": "disabled"}


@pytest.mark.providers(*PROVIDERS)
async def test_message_list_and_system_prompt_reach_the_provider_as_turns(
    subscription: Subscription,
):
    system = f"You are {MARKER}, a made-up assistant."
    if not PROVIDERS[subscription.provider].takes_history:
        pytest.skip("this CLI takes no earlier turns")
    answer = await subscription.person.openai().chat.completions.create(
        model=subscription.provider,
        messages=[
            {"role": "system", "content": system},
            {"role": "user", "content": f"{MARKER} first question"},
            {"role": "assistant", "content": f"{MARKER} first answer"},
            {"role": "user", "content": f"{MARKER} second question"},
            {"role": "assistant", "content": f"{MARKER} second answer"},
            {"role": "user", "content": f"{MARKER} third question"},
        ],
    )
    (prompt,) = subscription.prompts()
    turns = [(role, text) for role, text in _said(prompt) if MARKER in text and system not in text]
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    for (_, text), words in zip(
        turns,
        ("first question", "first answer", "second question", "second answer", "third question"),
        strict=True,
    ):
        assert words in text
        assert text.count(MARKER) == 1, "turns were joined into one text"
    assert json.dumps(prompt.body).count(system) == 1
    assert "third question" in (answer.choices[0].message.content or "")


@pytest.mark.providers(*PROVIDERS)
async def test_an_image_reaches_the_provider(subscription: Subscription):
    if not PROVIDERS[subscription.provider].takes_images:
        pytest.skip("this CLI takes no images")
    data = base64.b64encode(_png()).decode()
    answer = await subscription.person.openai().chat.completions.create(
        model=subscription.provider,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": f"{MARKER} what is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                ],
            }
        ],
    )
    assert "I saw 1 image" in (answer.choices[0].message.content or "")


async def test_an_image_in_anthropics_form_reaches_the_provider(subscription: Subscription):
    if not PROVIDERS[subscription.provider].takes_images:
        pytest.skip("this CLI takes no images")
    data = base64.b64encode(_png()).decode()
    message = await subscription.person.anthropic().messages.create(
        model=subscription.provider,
        max_tokens=1000,
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": data},
                    },
                    {"type": "text", "text": f"{MARKER} what is this?"},
                ],
            }
        ],
    )
    assert "I saw 1 image" in "".join(b.text for b in message.content if b.type == "text")


async def test_a_stop_sequence_ends_the_answer_and_the_run(subscription: Subscription):
    subscription.turn(pace_seconds=0.02)
    message = await subscription.person.anthropic().messages.create(
        model=subscription.provider,
        max_tokens=100_000,
        messages=[{"role": "user", "content": f"{MARKER}: count to 3000"}],
        stop_sequences=[" 12 "],
    )
    assert [block.text for block in message.content if block.type == "text"] == [
        " ".join(str(number) for number in range(1, 12))
    ]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " 12 ")


async def test_max_tokens_ends_the_answer(subscription: Subscription):
    subscription.turn(pace_seconds=0.005)
    answer = await subscription.person.openai().chat.completions.create(
        model=subscription.provider,
        messages=[{"role": "user", "content": f"{MARKER}: count to 3000"}],
        max_tokens=10,
    )
    assert answer.choices[0].finish_reason == "length"
    text = answer.choices[0].message.content or ""
    assert text.startswith("1 2 3")
    assert len(text) <= 40


async def test_parameters_that_no_cli_honours_are_named_or_refused(subscription: Subscription):
    client = subscription.person.http()
    body = {
        "model": subscription.provider,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.2,
        "seed": 3,
        "n": 1,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["polydev-ignored"] == "seed, temperature"
    asked = len(subscription.prompts())
    strict = await client.post("/v1/chat/completions", json=body, headers={"polydev-strict": "1"})
    assert strict.status_code == 400
    assert strict.json()["error"]["code"] == "unsupported_parameter"
    assert "seed, temperature" in strict.json()["error"]["message"]
    assert len(subscription.prompts()) == asked


async def test_a_vendors_plain_model_name_works(subscription: Subscription):
    name = PROVIDERS[subscription.provider].catalogue.names[-1]
    answer = await subscription.person.openai().chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "201"


async def test_both_sdks_list_the_models(house: House):
    person = await house.person("lister")
    openai_names = [model.id async for model in person.openai().models.list()]
    anthropic_names = [model.id async for model in person.anthropic().models.list()]
    assert openai_names == anthropic_names
    for provider in PROVIDERS.values():
        assert f"{provider.name}/{provider.catalogue.default}" in openai_names
    one = await person.openai().models.retrieve(openai_names[0])
    assert one.id == openai_names[0]
    await person.close()
