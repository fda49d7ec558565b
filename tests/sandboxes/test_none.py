import asyncio
import os
from pathlib import Path

import pytest
import structlog

from polydev.errors import SandboxUnavailable
from polydev.models.places import Launch
from polydev.sandboxes.strays import kill_strays
from tests.sandboxes import faults
from tests.sandboxes.conftest import lines_of, make, output

pytestmark = pytest.mark.anyio


async def test_it_warns_at_every_start(machine):
    with structlog.testing.capture_logs() as logged:
        async with make("none", machine) as sandboxes:
            before = len(logged)
            await output(sandboxes, Launch(argv=("/bin/true",)))
            await output(sandboxes, Launch(argv=("/bin/true",)))
    assert before == 1
    assert [entry["log_level"] for entry in logged] == ["warning"] * 3
    assert all("unprotected" in entry["event"] for entry in logged)


async def test_a_path_too_long_for_a_socket_is_said(machine):
    deep = machine / ("d" * 100)
    async with make("none", deep) as sandboxes:
        with pytest.raises(SandboxUnavailable, match="POLYDEV_DATA") as failure:
            await sandboxes.open(lambda _: Launch(argv=("/bin/true",)))
    assert failure.value.reason == "path_too_long"
    assert list((deep / "sandboxes").iterdir()) == []


async def test_ports_are_the_sandboxes_own(machine):
    async with make("none", machine) as sandboxes:
        launch = Launch(argv=("/bin/true",), needs_port=True)
        async with (
            await sandboxes.open(lambda _: launch) as one,
            await sandboxes.open(lambda _: launch) as two,
        ):
            assert one.place.egress_port != two.place.egress_port
            assert one.listeners[1].getsockname() == ("127.0.0.1", one.place.egress_port)


async def test_strays_are_told_from_others(tmp_path):
    ours, theirs = tmp_path / "one", tmp_path / "one-more"
    processes = [
        await asyncio.create_subprocess_exec("sleep", "600", env={"HOME": str(home)})
        for home in (ours, theirs)
    ]
    try:
        assert await asyncio.to_thread(kill_strays, "HOME", ours) == 1
        assert await processes[0].wait() == -9
        assert processes[1].returncode is None
        assert Path(f"/proc/{processes[1].pid}").exists()
    finally:
        processes[1].kill()
        await processes[1].wait()


async def test_strays_that_keep_forking_are_caught(machine):
    async with make("none", machine) as sandboxes:
        script = "for i in 1 2 3; do setsid sh -c 'f() { sleep 0.05; f & }; f' & done; sleep 0.2; echo on"
        sandbox = await sandboxes.open(lambda _: Launch(argv=faults.sh(script)))
        assert "on" in await lines_of(await sandbox.start())
        home = os.fsencode(sandbox.place.home)
        await sandbox.close(0.1)
    left = [
        entry
        for entry in Path("/proc").glob("[0-9]*")
        if b"HOME=" + home in _environment(entry).split(b"\0")
    ]
    assert left == []


def _environment(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""


async def test_it_has_no_desktop(machine):
    async with make("none", machine) as sandboxes:
        with pytest.raises(SandboxUnavailable) as failure:
            await sandboxes.open(lambda _: Launch(argv=("/bin/true",), desktop=True))
    assert failure.value.reason == "no_desktop"
    assert list((machine / "sandboxes").iterdir()) == []
