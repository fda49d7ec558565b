"""What a CLI that means harm can reach from its sandbox, with Claude's own policy."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import House
from tests.e2e.events import all_events, submit, text_of

pytestmark = pytest.mark.anyio

FOREIGN_KEY = "sk-ant-api03-made-up-foreign-key-000"

REFUSED: dict[str, dict[str, Any]] = {
    "key creation": {"method": "POST", "path": "/api/oauth/claude_cli/create_api_key"},
    "token endpoint": {"method": "POST", "path": "/v1/oauth/token"},
    "token endpoint by its host": {
        "method": "POST",
        "path": "http://platform.claude.com/v1/oauth/token",
    },
    "token endpoint by its Host header": {
        "method": "POST",
        "path": "/v1/oauth/token",
        "host": "platform.claude.com",
    },
    "conversation history": {"path": "/api/organizations/made-up/chat_conversations"},
    "profile": {"path": "/api/oauth/profile"},
    "files": {"path": "/v1/files"},
    "batches": {"method": "POST", "path": "/v1/messages/batches"},
    "another method": {"method": "GET", "path": "/v1/messages"},
    "dot segments": {"method": "POST", "path": "/v1/messages/../oauth/token"},
    "encoded dot segments": {"method": "POST", "path": "/v1/messages/%2e%2e/oauth/token"},
    "another host": {"path": "http://example.com/v1/messages"},
    "metadata address": {"path": "http://169.254.169.254/latest/meta-data/"},
    "host's loopback": {"path": "http://127.0.0.1:8484/healthz"},
    "CONNECT to the metadata address": {"method": "CONNECT", "path": "169.254.169.254:443"},
    "CONNECT to the token endpoint": {"method": "CONNECT", "path": "platform.claude.com:443"},
    "CONNECT to the host's loopback": {"method": "CONNECT", "path": "127.0.0.1:443"},
}


async def _ask(house: House, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    person = await house.person("ada", "claude")
    client = person.http()
    prompt = json.dumps({"do": "ask", "requests": requests})
    events = await all_events(client, await submit(client, model="claude", prompt=prompt))
    await person.close()
    assert events[-1]["outcome"] == "succeeded", events[-1]
    answers: list[dict[str, Any]] = json.loads(text_of(events))
    return answers


async def test_everything_but_what_claude_needs_is_refused_and_logged(scripted_house: House):
    world = scripted_house.sim.world
    before = world.records.total
    logged = scripted_house.gateway.output.count("egress refused a request")
    requests = [{"over": "socket", **request} for request in REFUSED.values()]
    answers = await _ask(scripted_house, *requests)
    for what, answer in zip(REFUSED, answers, strict=True):
        assert answer.get("status") == 403, (what, answer)
    assert world.records.total == before, "something reached the provider"
    output = scripted_house.gateway.output
    assert output.count("egress refused a request") - logged == len(REFUSED)
    for path in ("create_api_key", "/v1/oauth/token", "chat_conversations"):
        assert path in output


async def test_nothing_is_reached_directly(scripted_house: House):
    gateway_port = int(scripted_house.gateway.url.rpartition(":")[2])
    addresses = [
        ("127.0.0.1", gateway_port),
        ("127.0.0.1", scripted_house.sim.port),
        ("169.254.169.254", 80),
        ("192.0.2.1", 443),
        ("1.1.1.1", 443),
    ]
    answers = await _ask(
        scripted_house,
        *({"over": "direct", "host": host, "port": port} for host, port in addresses),
    )
    for (host, port), answer in zip(addresses, answers, strict=True):
        assert "reached" not in answer, f"{host}:{port} was reached"


async def test_a_foreign_key_never_leaves_and_the_owners_token_is_set(scripted_house: House):
    world = scripted_house.sim.world
    before = world.records.total
    body = json.dumps(
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    )
    request = {
        "over": "socket",
        "method": "POST",
        "path": "/v1/messages",
        "body": body,
        "headers": {"x-api-key": FOREIGN_KEY, "content-type": "application/json"},
    }
    without_sentinel = {**request, "headers": {**request["headers"], "authorization": "Bearer x"}}  # type: ignore[dict-item]
    answers = await _ask(scripted_house, request, without_sentinel)
    for answer in answers:
        assert answer["status"] in (200, 401, 403), answer
    assert answers[1]["status"] == 403, "a request without the sandbox's own token was passed on"
    account = scripted_house.accounts["ada-claude"].name
    for record in world.records.all(after=before):
        assert "x-api-key" not in record.headers
        assert record.headers["authorization"].startswith(f"Bearer {account}/access#")
