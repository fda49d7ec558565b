"""Starting, stopping, dispatching by host, and the control API."""

import asyncio
import gzip
import json
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from polydev.errors import SetupProblem
from polydev.sim import Simulator

pytestmark = pytest.mark.anyio


async def test_it_leaves_an_authority_and_credentials(sim: Simulator) -> None:
    assert b"BEGIN CERTIFICATE" in sim.ca.read_bytes()
    claude = sim.credential_path("claude")
    assert claude == sim.directory / "claude" / ".credentials.json"
    assert stat.S_IMODE(claude.stat().st_mode) == 0o600
    oauth = json.loads(claude.read_text())["claudeAiOauth"]
    assert sim.world.label(oauth["accessToken"]) == "claude-1/access#1"
    codex = json.loads((sim.directory / "codex" / "auth.json").read_text())
    assert codex["tokens"]["account_id"] == sim.world.accounts["codex-1"].id


async def test_it_starts_again_in_the_same_directory(tmp_path: Path) -> None:
    async with Simulator(tmp_path) as first:
        ca, port = first.ca.read_bytes(), first.port
    async with Simulator(tmp_path, port=port) as second:
        assert second.port == port
        assert second.ca.read_bytes() == ca


async def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SetupProblem, match="cannot listen"):
            async with Simulator(tmp_path, port=taken.getsockname()[1]):
                pass


@pytest.mark.slow
async def test_it_stops_in_time_while_a_stream_is_open(
    sim: Simulator, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    sim.world.turn(None, {"pace_seconds": 60})
    token = sim.world.log_in(sim.world.accounts["claude-1"]).access.value
    body = {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": "count to 9"}],
    }
    headers = {"authorization": f"Bearer {token}", "anthropic-beta": "oauth-2025-04-20"}
    clock = asyncio.get_running_loop().time
    async with http.stream("POST", "/v1/messages", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        started = clock()
        await sim.__aexit__(None, None, None)
        assert clock() - started < 6.5
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", sim.port)


async def test_hosts_are_told_apart(sim: Simulator, http: httpx.AsyncClient) -> None:
    async def status(host: str, path: str) -> int:
        return (await http.get(path, headers={"host": host})).status_code

    assert await status("api.anthropic.com", "/api/hello") == 200
    assert await status("chatgpt.com", "/api/hello") == 404
    assert await status("chatgpt.com:443", "/backend-api/wham/usage") == 401
    assert await status("api.anthropic.com", "/backend-api/wham/usage") == 404
    assert await status("localhost", "/api/hello") == 200
    unknown = await http.get("/no/such", headers={"host": "api.anthropic.com"})
    assert unknown.json()["error"]["type"] == "not_found_error"
    assert sim.world.records.all(path="/no/such")[0].host == "api.anthropic.com"


async def control(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    answer = await http.request(method, f"/_sim{path}", json=body if body is not None else {})
    answer.raise_for_status()
    return answer.json()


async def test_an_account_is_made_and_steered_while_it_runs(http: httpx.AsyncClient) -> None:
    made = await control(
        http, "POST", "/accounts", {"provider": "claude", "name": "ada", "lifetime_seconds": 60}
    )
    token = json.loads(made["credential"])["claudeAiOauth"]["accessToken"]
    headers = {"authorization": f"Bearer {token}", "anthropic-beta": "oauth-2025-04-20"}
    body = {"model": "m", "messages": [{"role": "user", "content": "3*67"}]}

    async def ask() -> int:
        return (await http.post("/v1/messages", json=body, headers=headers)).status_code

    assert await ask() == 200
    await control(http, "PUT", "/accounts/ada/knobs", {"overloaded": True})
    assert await ask() == 529
    await control(http, "PUT", "/accounts/ada/knobs", {"overloaded": None})
    await control(
        http,
        "PUT",
        "/accounts/ada/windows",
        {"seven_day": {"used_fraction": 1, "resets_in_seconds": 60}},
    )
    assert await ask() == 429
    await control(http, "PUT", "/accounts/ada/windows", {"seven_day": {"used_fraction": 0}})
    await control(http, "PUT", "/knobs", {"server_error": 500})
    assert await ask() == 500
    await control(http, "PUT", "/knobs", {"server_error": None})
    await control(http, "POST", "/accounts/ada/expire")
    assert await ask() == 401
    again = await control(http, "POST", "/accounts/ada/login")
    token = json.loads(again["credential"])["claudeAiOauth"]["accessToken"]
    headers["authorization"] = f"Bearer {token}"
    assert await ask() == 200
    await control(http, "POST", "/accounts/ada/revoke")
    assert await ask() == 403

    counters = await control(http, "GET", "/counters")
    assert counters["accounts"]["ada"]["prompts"] == 2
    asked = await control(http, "GET", "/requests?account=ada&path=/v1/messages")
    assert len(asked["requests"]) == 7
    assert asked["requests"][0]["body"]["messages"] == body["messages"]
    assert token not in json.dumps(asked)
    last = asked["requests"][-1]["number"]
    assert (await control(http, "GET", f"/requests?after={last}"))["requests"] == []
    await control(http, "DELETE", "/requests")
    assert (await control(http, "GET", "/requests"))["requests"] == []


async def test_bad_steering_is_refused(http: httpx.AsyncClient) -> None:
    cases: list[tuple[str, str, Any, int]] = [
        ("POST", "/accounts", {"provider": "nobody"}, 400),
        ("POST", "/accounts", {"provider": "claude", "name": "claude-1"}, 409),
        ("POST", "/accounts", {"provider": "claude", "name": "../x"}, 400),
        ("POST", "/accounts", {}, 400),
        ("POST", "/accounts", [], 400),
        ("GET", "/accounts/nobody", {}, 404),
        ("PUT", "/accounts/claude-1/knobs", {"no_such_knob": 1}, 400),
        ("PUT", "/accounts/claude-1/knobs", {"pace_seconds": -1}, 400),
        ("PUT", "/accounts/claude-1/windows", {"no_such": {}}, 400),
        ("PUT", "/accounts/claude-1/windows", {"five_hour": 3}, 400),
        ("GET", "/requests?after=x", {}, 400),
        ("GET", "/no/such", {}, 404),
    ]
    for method, path, body, status in cases:
        answer = await http.request(method, f"/_sim{path}", json=body)
        assert answer.status_code == status, (method, path, body)
        assert answer.json()["error"]["message"]


async def test_bodies_are_decompressed_and_nonsense_is_refused(
    sim: Simulator, http: httpx.AsyncClient
) -> None:
    body = gzip.compress(b'{"hello": "there"}')
    await http.post("/gzipped", content=body, headers={"content-encoding": "gzip"})
    (record,) = sim.world.records.all(path="/gzipped")
    assert record.body == {"hello": "there"}
    assert record.body_bytes == len(body)
    for encoding in ("gzip", "zstd", "made-up"):
        answer = await http.post("/x", content=b"no", headers={"content-encoding": encoding})
        assert answer.status_code == 400


async def test_a_test_can_wait_for_a_request(sim: Simulator, http: httpx.AsyncClient) -> None:
    waiting = asyncio.create_task(
        sim.world.records.arrived(lambda seen: any(one.path == "/awaited" for one in seen), 5)
    )
    await http.get("/awaited")
    await waiting
    with pytest.raises(TimeoutError):
        await sim.world.records.arrived(lambda seen: False, 0.05)
