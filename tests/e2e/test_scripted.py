"""CLIs that misbehave, machines that refuse, and starts that cannot be."""

import asyncio
import base64
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from polydev.sim import Simulator
from polydev.sim.control import credential_of
from tests.e2e import scripted
from tests.e2e.conftest import House, NewGateway
from tests.e2e.events import all_events, follow, submit, text_of
from tests.e2e.gateway import MARKER, Failed, Gateway, simulated
from tests.e2e.processes import alive, command_line

pytestmark = pytest.mark.anyio


async def _run(house: House, **command: Any) -> list[dict[str, Any]]:
    person = await house.person("ada", "claude")
    client = person.http()
    run_id = await submit(client, model="claude", prompt=json.dumps(command))
    events = await all_events(client, run_id)
    await person.close()
    return events


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"do": "die", "code": 7}, "exit code 7"),
        ({"do": "die", "code": 0}, "before it answered"),
        ({"do": "garbage"}, "not one of its messages"),
        ({"do": "huge_line", "bytes": 100 * 2**20}, "line"),
    ],
    ids=["dies", "ends", "garbage", "100 MB line"],
)
async def test_a_cli_that_fails_fails_its_run_and_leaves_nothing(
    scripted_house: House, command: dict[str, Any], words: str
):
    gateway = scripted_house.gateway
    before = gateway.processes()
    events = await _run(scripted_house, **command)
    assert events[-1]["outcome"] == "failed"
    assert events[-1]["reason"] == "cli_failed"
    assert words in events[-1]["message"]
    assert alive(gateway.processes() - before) == frozenset()
    assert list((gateway.data / "sandboxes").iterdir()) == []


async def test_a_failed_cli_is_a_bad_gateway_on_both_surfaces(scripted_house: House):
    person = await scripted_house.person("ada", "claude")
    client = person.http()
    message = {"role": "user", "content": json.dumps({"do": "die"})}
    for path in ("/v1/chat/completions", "/v1/messages"):
        answer = await client.post(
            path, json={"model": "claude", "max_tokens": 9, "messages": [message]}
        )
        assert answer.status_code == 502
        assert answer.json()["error"]["reason"] == "cli_failed"
    await person.close()


@pytest.mark.parametrize("what", ["hang", "ignore_sigterm"])
async def test_a_cli_that_hangs_is_stopped_when_its_time_is_up(scripted_house: House, what: str):
    gateway = scripted_house.gateway
    person = await scripted_house.person("ada", "claude")
    client = person.http()
    before = gateway.processes()
    run_id = await submit(
        client, model="claude", prompt=json.dumps({"do": what}), timeout_seconds=1
    )
    async with asyncio.timeout(15):
        events = await all_events(client, run_id)
    assert (events[-1]["outcome"], events[-1]["reason"]) == ("failed", "timed_out")
    assert "1 s" in events[-1]["message"]
    assert alive(gateway.processes() - before) == frozenset()
    answer = await client.get(f"/v1/runs/{run_id}")
    assert answer.json()["state"] == "failed"
    await person.close()


async def test_a_silent_cli_is_stopped(
    scripted_programs: Path, sim: Simulator, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(scripted_programs, POLYDEV_RUNS__SILENCE_SECONDS="1")
    ada = await gateway.person("ada")
    account = sim.world.create_account("claude")
    await gateway.connected(ada, "claude", credential_of(sim.world, account, None).encode())
    client = ada.http()
    run_id = await submit(client, model="claude", prompt=json.dumps({"do": "hang"}))
    events = await all_events(client, run_id)
    assert events[-1]["reason"] == "cli_failed"
    assert "said nothing for 1 s" in events[-1]["message"]
    # One that speaks now and then is not silent.
    drip = {"do": "drip", "pieces": ["a", "b", "c", "d"], "seconds": 0.5}
    run_id = await submit(client, model="claude", prompt=json.dumps(drip))
    events = await all_events(client, run_id)
    assert events[-1]["outcome"] == "succeeded"
    assert text_of(events) == "abcd"
    await ada.close()


async def test_a_cli_that_ignores_sigterm_is_gone_after_a_cancel(scripted_house: House):
    gateway = scripted_house.gateway
    person = await scripted_house.person("ada", "claude")
    client = person.http()
    before = gateway.processes()
    run_id = await submit(client, model="claude", prompt=json.dumps({"do": "ignore_sigterm"}))
    async for event in follow(client, run_id):
        if event["type"] == "text.delta":
            break
    async with asyncio.timeout(10):
        assert (await client.delete(f"/v1/runs/{run_id}")).json()["state"] == "cancelled"
    assert alive(gateway.processes() - before) == frozenset()
    await person.close()


async def test_stop_is_found_across_the_pieces_of_a_stream(scripted_house: House):
    person = await scripted_house.person("ada", "claude")
    drip = {"do": "drip", "pieces": ["abST", "O", "ST", "OP", "never"], "seconds": 0.02}
    answer = await person.http().post(
        "/v1/messages",
        json={
            "model": "claude",
            "max_tokens": 100,
            "stop_sequences": ["STOP"],
            "messages": [{"role": "user", "content": json.dumps(drip)}],
        },
    )
    body = answer.json()
    assert body["content"] == [{"type": "text", "text": "abSTO"}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "STOP")
    await person.close()


async def test_half_a_character_from_a_cli_harms_nothing(scripted_house: House):
    events = await _run(scripted_house, do="say", text="a\ud83db")
    assert events[-1]["outcome"] == "succeeded"
    assert text_of(events) == "a?b"


async def test_a_missing_cli_says_how_to_install_it(
    sim: Simulator, tmp_path: Path, new_gateway: NewGateway
):
    programs = scripted.install(tmp_path / "programs")
    gateway: Gateway = await new_gateway(programs)
    ada = await gateway.person("ada")
    account = sim.world.create_account("claude")
    credential = credential_of(sim.world, account, None)
    await gateway.connected(ada, "claude", credential.encode())
    shutil.rmtree(programs / "node_modules")
    client = ada.http()
    message = {"role": "user", "content": MARKER}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/runs"):
        body = {"model": "claude", "max_tokens": 9, "messages": [message]}
        answer = await client.post(path, json=body)
        assert answer.status_code == 503, answer.text
        error = answer.json()["error"]
        assert error["reason"] == "program_missing"
        assert "polydev doctor --fix" in json.dumps(error)
    await ada.close()


async def _refused_start(data: Path, settings: dict[str, str]) -> str:
    gateway = Gateway(data, settings)
    with pytest.raises(Failed) as failed:
        await gateway.start()
    assert failed.value.code == 1, failed.value.output
    assert "Traceback" not in failed.value.output
    assert len(failed.value.output.splitlines()) < 12, failed.value.output
    return failed.value.output


async def test_a_taken_port_is_one_clear_error(
    sim: Simulator, scripted_programs: Path, tmp_path: Path
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        output = await _refused_start(
            tmp_path / "data",
            {
                **simulated(sim),
                "POLYDEV_PROGRAMS": str(scripted_programs),
                "POLYDEV_SERVER__PORT": str(port),
            },
        )
    assert str(port) in output
    assert "POLYDEV_SERVER__PORT" in output


async def test_a_second_gateway_on_a_data_directory_is_one_clear_error(scripted_house: House):
    gateway = scripted_house.gateway
    output = await _refused_start_beside(gateway)
    assert "Another polydev" in output
    # The first one goes on.
    events = await _run(scripted_house, do="say", text="still here")
    assert text_of(events) == "still here"


async def _refused_start_beside(gateway: Gateway) -> str:
    second = Gateway(gateway.data, gateway.settings)
    # Its own words apart from those of the first.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "polydev", "up"),
        env=second.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(40):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in output
    return output.decode()


async def test_a_wrong_master_key_is_one_clear_error(
    scripted_programs: Path, sim: Simulator, new_gateway: NewGateway
):
    key = base64.b64encode(os.urandom(32)).decode()
    other = base64.b64encode(os.urandom(32)).decode()
    gateway: Gateway = await new_gateway(scripted_programs, POLYDEV_MASTER_KEY=key)
    await gateway.stop()
    for wrong in (other, "nonsense"):
        output = await _refused_start(
            gateway.data, {**gateway.settings, "POLYDEV_MASTER_KEY": wrong}
        )
        assert "key" in output.lower()
        assert wrong not in output
        assert key not in output
    await gateway.start()


async def test_a_damaged_database_or_setting_is_one_clear_error(
    scripted_programs: Path, sim: Simulator, tmp_path: Path
):
    settings = {**simulated(sim), "POLYDEV_PROGRAMS": str(scripted_programs)}
    data = tmp_path / "damaged"
    data.mkdir()
    (data / "polydev.db").write_bytes(b"this is no database" * 100)
    assert "database" in await _refused_start(data, settings)
    assert "runs.concurrent" in await _refused_start(
        tmp_path / "d2", {**settings, "POLYDEV_RUNS__CONCURRENT": "none"}
    )


async def test_a_gateway_whose_egress_dies_ends_with_an_error(
    scripted_programs: Path, sim: Simulator, new_gateway: NewGateway
):
    gateway: Gateway = await new_gateway(scripted_programs)
    (egress,) = [pid for pid, _ in gateway.processes() if "polydev.egress" in command_line(pid)]
    os.kill(egress, 9)
    assert await gateway.ended() == 1
    assert "egress" in gateway.output
