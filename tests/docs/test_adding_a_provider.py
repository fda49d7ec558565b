"""The examples of docs/adding-a-provider.md are code that works."""

import json
import re
from typing import Any

import pytest

from polydev.errors import CredentialUnreadable
from polydev.models import egress
from polydev.models.egress import EgressMode, EgressPolicy, Purpose
from polydev.providers.acp import AcpProvider
from polydev.secret import Secret
from tests.docs.generate import written
from tests.providers.samples import PLACE, SENTINEL, order, prompt

PAGE = written("adding-a-provider.md")
KEY = "made-up-example-key"


def example(part: str, **names: Any) -> dict[str, Any]:
    """What the page's block that holds `part` defines, given these names."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (block,) = [code for code in blocks if part in code]
    exec(block, names)
    return names


@pytest.fixture(scope="module")
def provider() -> AcpProvider:
    return AcpProvider(example("EXAMPLE = Agent(")["EXAMPLE"])


def test_the_agent_is_started_with_a_sentinel_in_place_of_its_key(provider: AcpProvider) -> None:
    credential = provider.read_credential(
        {".example/.env": Secret(f"OTHER=1\nEXAMPLE_KEY={KEY}\n".encode())}
    )
    launch = provider.launch(order(provider, credential, Purpose.RUN))
    assert launch.argv[2:] == ("--acp", "-m", "example-large")
    assert launch.environment["EXAMPLE_KEY"] == SENTINEL.reveal()
    assert launch.environment["EXAMPLE_BASE_URL"] == f"{PLACE.egress_url}/v1"
    assert launch.environment["EXAMPLE_SYSTEM_FILE"] == f"{PLACE.home}/.example/system.md"
    assert launch.files[".example/system.md"].reveal() == b"You answer briefly."
    assert KEY not in str([launch.argv, launch.environment])
    assert not any(KEY.encode() in content.reveal() for content in launch.files.values())


def test_egress_admits_what_the_entry_lists(provider: AcpProvider) -> None:
    policy = provider.policy(Purpose.RUN, "api_key")
    assert policy.mode is EgressMode.INJECT
    assert [(rule.method, rule.host, rule.path) for rule in policy.rules] == [
        ("POST", "api.vendor.example", "/v1/chat/completions")
    ]


def test_a_command_of_the_agent_reaches_the_model_as_words(provider: AcpProvider) -> None:
    dialogue = provider.dialogue(prompt(provider, "/help me"))
    opened = json.dumps({"jsonrpc": "2.0", "id": "session s", "result": {"sessionId": "s"}})
    (line,) = dialogue.receive(opened.encode()).send
    (part,) = json.loads(line)["params"]["prompt"]
    assert part["text"] == "\N{WORD JOINER}/help me"


def test_a_file_without_a_key_is_refused(provider: AcpProvider) -> None:
    with pytest.raises(CredentialUnreadable):
        provider.read_credential({".example/.env": Secret(b"OTHER=1\n")})


def test_the_policy_of_the_page_is_one() -> None:
    policy = example("policy = EgressPolicy(", **vars(egress))["policy"]
    assert isinstance(policy, EgressPolicy)
    assert policy.plain_host == policy.rules[0].host
