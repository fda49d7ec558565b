"""The process behind egress: how it starts, ends, and what it holds."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from polydev.config import EgressSettings
from polydev.egress.channel import Channel, Message
from polydev.errors import EgressProblem
from polydev.models.egress import EgressMode, Rule
from polydev.secret import Secret
from tests.egress.conftest import HOST, World, listener, policy, process_in

pytestmark = pytest.mark.anyio


async def test_it_leaves_no_process(tmp_path: Path) -> None:
    async with process_in(tmp_path) as egress:
        pid = egress.pid
        assert egress.authority_pem.read_bytes().startswith(b"-----BEGIN CERTIFICATE")
        assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(EgressProblem):
        await egress.forget("c1")


async def test_the_authority_stays_over_starts(tmp_path: Path) -> None:
    async with process_in(tmp_path) as egress:
        first = egress.authority_pem.read_bytes()
    async with process_in(tmp_path) as egress:
        assert egress.authority_pem.read_bytes() == first


async def test_secrets_of_the_gateways_environment_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYDEV_MASTER_KEY", "made-up-master-key")
    monkeypatch.setenv("PYTHONPATH", "/made-up")
    async with process_in(tmp_path) as egress:
        environment = Path(f"/proc/{egress.pid}/environ").read_bytes()
        arguments = Path(f"/proc/{egress.pid}/cmdline").read_bytes()
    assert b"made-up" not in environment + arguments


async def test_it_starts_lean(tmp_path: Path) -> None:
    async with process_in(tmp_path) as egress:
        maps = Path(f"/proc/{egress.pid}/maps").read_text()
    assert "sqlalchemy" not in maps
    code = (
        "import sys, polydev.egress.__main__;"
        "print([n for n in ('sqlalchemy','fastapi','uvicorn','pydantic_settings') "
        "if n in sys.modules])"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert (await child.communicate())[0] == b"[]\n"


@pytest.mark.parametrize("content", [None, "nonsense"])
async def test_an_authority_that_cannot_be_read_is_told(
    tmp_path: Path, content: str | None
) -> None:
    pem = tmp_path / "upstream.pem"
    if content:
        pem.write_text(content)
    with pytest.raises(EgressProblem, match="upstream_ca"):
        async with process_in(tmp_path, EgressSettings(upstream_ca=pem)):
            pass


async def test_a_damaged_authority_is_told(tmp_path: Path) -> None:
    (tmp_path / "authority").mkdir()
    for name in ("ca.pem", "ca.key"):
        (tmp_path / "authority" / name).write_text("nonsense")
    with pytest.raises(EgressProblem):
        async with process_in(tmp_path):
            pass


async def test_its_death_is_told_to_all_who_wait(own_world: World) -> None:
    egress = own_world.egress
    place = await own_world.place("unix")
    os.kill(egress.pid, signal.SIGSTOP)  # so that a request is surely waiting
    waiting = asyncio.create_task(egress.forget("c1"))
    await asyncio.sleep(0)
    os.kill(egress.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        with pytest.raises(EgressProblem):
            await waiting
        await egress.exited.wait()
    with pytest.raises(EgressProblem):
        await own_world.place("unix")
    await place.binding.close()


async def test_a_policy_that_is_none_is_refused(world: World) -> None:
    rules = (Rule(method="GET", host=HOST, path="/("),)
    listening = listener()
    with pytest.raises(EgressProblem):
        await world.egress.bind(
            connection_id="c1",
            policy=policy(EgressMode.INJECT, rules=rules),
            listeners=[listening],
            sentinel=None,
            proxy=None,
        )
    assert listening.fileno() == -1
    assert (await (await world.place("tcp")).http.get("/echo")).status_code == 200


async def test_a_bind_that_was_cancelled_leaves_no_listener(own_world: World) -> None:
    descriptors = Path(f"/proc/{own_world.egress.pid}/fd")
    # The first listener of a loop makes it keep a descriptor in reserve.
    await (await own_world.place("unix")).binding.close()
    before = len(list(descriptors.iterdir()))
    path = own_world.directory / "cancelled.sock"
    os.kill(own_world.egress.pid, signal.SIGSTOP)  # so that it is surely waited for
    try:
        binding = asyncio.create_task(
            own_world.egress.bind(
                connection_id="c1",
                policy=policy(EgressMode.INJECT),
                listeners=[listener(path)],
                sentinel=None,
                proxy=None,
            )
        )
        async with asyncio.timeout(5):
            while not own_world.egress._answers:
                await asyncio.sleep(0)
        binding.cancel()
    finally:
        os.kill(own_world.egress.pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await binding
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(path)
        while len(list(descriptors.iterdir())) != before:
            await asyncio.sleep(0.01)
    assert not own_world.egress._bindings


async def test_a_bind_that_is_answered_late_leaves_no_listener(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_world.directory / "late.sock"
    request = own_world.egress._request

    async def impatient(message: Message, *args: Any, **kwargs: Any) -> None:
        if message["do"] == "bind":
            os.kill(own_world.egress.pid, signal.SIGSTOP)
            kwargs["seconds"] = 0.05
        else:
            os.kill(own_world.egress.pid, signal.SIGCONT)
        await request(message, *args, **kwargs)

    monkeypatch.setattr(own_world.egress, "_request", impatient)
    async with asyncio.timeout(10):
        with pytest.raises(EgressProblem) as caught:
            await own_world.egress.bind(
                connection_id="c1",
                policy=policy(EgressMode.INJECT),
                listeners=[listener(path)],
                sentinel=None,
                proxy=None,
            )
    assert caught.value.reason == "late"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)


async def test_a_token_that_no_header_can_carry_is_refused(world: World) -> None:
    with pytest.raises(EgressProblem) as refused:
        await world.connect_credential(token="made-up\r\nx: y")
    assert "made-up" not in str(refused.value)


async def test_a_message_that_is_too_large_is_refused(world: World) -> None:
    with pytest.raises(EgressProblem):
        await world.egress.set_credential("c1", access_token=Secret("x" * 200_000), attributes={})
    assert (await (await world.place("tcp")).http.get("/echo")).status_code == 200


async def test_exchanges_are_a_bounded_record(world: World) -> None:
    place = await world.place("unix")
    for _ in range(300):
        await place.http.get("/echo")
    assert len(place.binding.exchanges) == 256


async def test_a_listener_that_fails_does_not_deafen_the_gateway(world: World) -> None:
    place = await world.place("unix")

    def fail(_: object) -> None:
        raise RuntimeError("made up")

    place.binding._on_exchange = fail
    for _ in range(2):
        assert (await place.http.get("/echo")).status_code == 200
    await world.egress.forget("c1")
    assert len(place.binding.exchanges) == 2


async def test_a_full_channel_makes_its_sender_wait_and_loses_nothing() -> None:
    left, right = (Channel(end) for end in Channel.pair())
    try:
        sent = 0
        while left.try_send({"n": sent, "pad": "x" * 10_000}):
            sent += 1
        sending = asyncio.create_task(left.send({"n": sent}))
        received = [await right.receive() for _ in range(sent + 1)]
        await sending
        assert [message["n"] for message, _ in filter(None, received)] == list(range(sent + 1))
        left.close()
        assert await right.receive() is None
    finally:
        left.close()
        right.close()
