"""A token endpoint's answer is kept before the sandbox has it, whatever happens around it."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from polydev.authority import Authority
from polydev.egress.binding import Binding
from polydev.egress.spool import open_answer, read_spool, seal_answer, write_spool
from polydev.errors import NotFound, VaultProblem
from polydev.secret import Secret
from tests.egress.conftest import OTHER_HOST, OURS, SEAL_KEY, Place, World
from tests.egress.upstream import TOKENS, Upstream

pytestmark = pytest.mark.anyio

URL = f"http://{OTHER_HOST}/token"


@pytest.fixture
async def keeper(own_world: World) -> Place:
    """A keeper's sandbox whose CLI asks the token endpoint in plain HTTP."""
    return await own_world.place("unix", plain_host=OTHER_HOST)


async def sealed(binding: Binding) -> None:
    async with asyncio.timeout(5):
        await binding.sealed.wait()


async def ask_and_leave(keeper: Place, upstream: Upstream) -> None:
    _, writer = await keeper.bare()
    body = b'{"refresh_token":"made-up"}'
    writer.write(
        f"POST /token HTTP/1.1\r\nHost: x\r\n{OURS}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    async with asyncio.timeout(5):
        await upstream.arrived.wait()
    writer.transport.abort()


def answer_in(path: Path) -> dict[str, str]:
    answer = read_spool(path, SEAL_KEY)
    assert (answer.status, answer.connection_id) == (200, "c1")
    fields: dict[str, str] = json.loads(answer.body.reveal())
    return fields


async def test_the_answer_is_sealed_before_the_sandbox_has_it(
    keeper: Place, upstream: Upstream, own_world: World
) -> None:
    upstream.gate.set()
    answer = await keeper.http.post(
        "/token", content=b"{}", headers={"accept-encoding": "gzip, br"}
    )
    assert answer.json() == TOKENS
    await sealed(keeper.binding)
    kept = keeper.binding.read_sealed()
    assert json.loads(kept.body.reveal()) == TOKENS
    assert "made-up" not in repr(kept)
    assert upstream.seen[0].header("accept-encoding") == ["identity"]
    raw = keeper.binding.spool_path.read_bytes()
    assert b"made-up" not in raw
    assert keeper.binding.spool_path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (own_world.directory / "spool").iterdir()] == [
        keeper.binding.spool_path.name
    ]
    keeper.binding.discard_sealed()
    with pytest.raises(NotFound):
        keeper.binding.read_sealed()


async def test_a_sealed_rule_holds_on_ended_tls_too(world: World, upstream: Upstream) -> None:
    upstream.gate.set()
    place = await world.place("witness")
    answer = await place.http.post(f"https://{OTHER_HOST}/token", content=b"{}")
    assert answer.json() == TOKENS
    await sealed(place.binding)
    assert answer_in(place.binding.spool_path) == TOKENS


async def test_the_answer_is_kept_when_the_sandbox_is_gone(
    keeper: Place, upstream: Upstream
) -> None:
    await ask_and_leave(keeper, upstream)
    assert not keeper.binding.sealed.is_set()
    upstream.gate.set()
    await sealed(keeper.binding)
    assert answer_in(keeper.binding.spool_path) == TOKENS


async def test_closing_the_binding_waits_for_the_answer(keeper: Place, upstream: Upstream) -> None:
    await ask_and_leave(keeper, upstream)
    closing = asyncio.create_task(keeper.binding.close())
    await asyncio.wait([closing], timeout=0.1)
    assert not closing.done()
    upstream.gate.set()
    async with asyncio.timeout(5):
        await closing
    assert keeper.binding.sealed.is_set()
    assert answer_in(keeper.binding.spool_path) == TOKENS


GATEWAY = """
import asyncio, sys
from pathlib import Path
from polydev.config import EgressSettings
from polydev.egress.client import Egress
from tests.egress.conftest import OTHER_HOST, SEAL_KEY, listener, policy
from polydev.models.egress import EgressMode

async def main(directory, redirect, upstream_ca):
    settings = EgressSettings(redirect=redirect, upstream_ca=upstream_ca)
    async with Egress(settings, authority=directory / "a", spool=directory / "s") as egress:
        binding = await egress.bind(
            connection_id="c1",
            policy=policy(EgressMode.WITNESS, plain_host=OTHER_HOST),
            listeners=[listener(directory / "socket")],
            sentinel=None,
            proxy=None,
            seal_key=SEAL_KEY,
        )
        print(egress.pid, binding.spool_path, flush=True)
        await egress.exited.wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


async def test_the_answer_is_kept_when_the_gateway_is_killed(
    upstream: Upstream, upstream_authority: tuple[Authority, Path], tmp_path: Path
) -> None:
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY),
        *(str(tmp_path), f"127.0.0.1:{upstream.port}", str(upstream_authority[1])),
        stdout=asyncio.subprocess.PIPE,
    )
    assert gateway.stdout
    pid, spooled = (await gateway.stdout.readline()).decode().split()
    _, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    writer.write(f"POST /token HTTP/1.1\r\nHost: x\r\n{OURS}Content-Length: 2\r\n\r\n{{}}".encode())
    async with asyncio.timeout(10):
        await upstream.arrived.wait()
        gateway.kill()
        await gateway.wait()
        while _takes_connections(tmp_path / "socket"):
            await asyncio.sleep(0.01)
        assert _lives(int(pid))
        upstream.gate.set()
        while _lives(int(pid)):
            await asyncio.sleep(0.01)
    writer.close()
    assert answer_in(Path(spooled)) == TOKENS


async def test_signals_to_the_group_do_not_end_egress(
    keeper: Place, upstream: Upstream, own_world: World
) -> None:
    await ask_and_leave(keeper, upstream)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(own_world.egress.pid, number)
    upstream.gate.set()
    await sealed(keeper.binding)


async def test_a_sandbox_that_leaves_before_it_asked_whole_asks_nothing(
    keeper: Place, upstream: Upstream
) -> None:
    _, writer = await keeper.bare()
    writer.write(
        f"POST /token HTTP/1.1\r\nHost: x\r\n{OURS}Content-Length: 100\r\n\r\nhalf".encode()
    )
    await writer.drain()
    writer.close()
    await keeper.binding.close()
    assert upstream.seen == []


async def test_a_refusal_never_replaces_a_kept_answer(keeper: Place, upstream: Upstream) -> None:
    upstream.gate.set()
    await keeper.http.post("/token", content=b"{}")
    assert (await keeper.http.post("/status/400", content=b"{}")).status_code == 400
    assert answer_in(keeper.binding.spool_path) == TOKENS


async def test_a_refusal_is_kept_until_a_success_comes(keeper: Place, upstream: Upstream) -> None:
    upstream.gate.set()
    await keeper.http.post("/status/400", content=b"{}")
    assert keeper.binding.read_sealed().status == 400
    await keeper.http.post("/token", content=b"{}")
    assert answer_in(keeper.binding.spool_path) == TOKENS


@pytest.mark.slow
async def test_a_disk_that_takes_nothing_costs_no_login(
    keeper: Place, upstream: Upstream, own_world: World
) -> None:
    (own_world.directory / "spool").rmdir()
    upstream.gate.set()
    with capture_logs() as logs:
        answer = await keeper.http.post("/token", content=b"{}")
        assert answer.json() == TOKENS
        await sealed(keeper.binding)
    assert json.loads(keeper.binding.read_sealed().body.reveal()) == TOKENS
    [alarm] = [line for line in logs if line["log_level"] == "error"]
    assert "cannot be written" in alarm["event"]
    assert "made-up" not in str(logs)


async def test_a_disk_that_recovers_keeps_the_answer(
    keeper: Place, upstream: Upstream, own_world: World
) -> None:
    spool = own_world.directory / "spool"
    spool.rename(own_world.directory / "away")
    asking = asyncio.create_task(keeper.http.post("/token", content=b"{}"))
    upstream.gate.set()
    async with asyncio.timeout(5):
        while not upstream.answers:
            await asyncio.sleep(0.01)
    (own_world.directory / "away").rename(spool)
    assert (await asking).json() == TOKENS
    assert answer_in(keeper.binding.spool_path) == TOKENS


async def test_an_answer_that_never_comes_is_told(keeper: Place, upstream: Upstream) -> None:
    with capture_logs() as logs:
        assert (await keeper.http.post("/silent", content=b"{}")).status_code == 502
        assert not keeper.binding.sealed.is_set()
    assert any("login may be lost" in line["event"] for line in logs)
    assert len(upstream.seen) == 1


def test_what_is_sealed_opens_for_its_binding_and_key_only(tmp_path: Path) -> None:
    sealed = seal_answer(SEAL_KEY, binding_id="b1", connection_id="c1", status=200, body=b"x")
    assert open_answer(sealed, SEAL_KEY, binding_id="b1").body.reveal() == b"x"
    with pytest.raises(VaultProblem):
        open_answer(sealed, SEAL_KEY, binding_id="b2")
    with pytest.raises(VaultProblem):
        open_answer(sealed, Secret(b"x" * 32), binding_id="b1")
    path = write_spool(tmp_path, "b1", sealed)
    path.write_bytes(sealed[:-1])
    with pytest.raises(VaultProblem):
        read_spool(path, SEAL_KEY)


def _takes_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


def _lives(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
