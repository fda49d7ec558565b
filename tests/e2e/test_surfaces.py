"""What the vendors' own SDKs get from the real CLIs, and what of their requests goes upstream."""

import pytest

from tests.e2e.conftest import Subscription
from tests.e2e.gateway import MARKER

pytestmark = [pytest.mark.anyio, pytest.mark.real]

QUESTION = f"{MARKER}: calculate 3*67 and respond with just the number"


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
