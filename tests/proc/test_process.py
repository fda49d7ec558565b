import asyncio
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polydev.errors import ProgramMissing, RunFailed
from polydev.proc import LineTooLong, Process, ProcessEnded, host_environment
from polydev.proc.pipes import READ_AHEAD_BYTES, TAIL_BYTES
from tests.sandboxes import faults

pytestmark = pytest.mark.anyio


async def start(argv: Sequence[str], **options: Any) -> Process:
    return await Process.start(argv, environment=host_environment(), **options)


async def first_line(process: Process) -> bytes:
    async with asyncio.timeout(10):
        async for line in process.lines():
            return line
    raise AssertionError("no line")


async def all_lines(process: Process) -> list[bytes]:
    async with asyncio.timeout(20):
        return [line async for line in process.lines()]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_lines_go_in_and_come_out():
    process = await start(faults.echo())
    await process.send([b"one", b"two", "drei ü".encode()])
    process.close_stdin()
    assert await all_lines(process) == [b"one", b"two", "drei ü".encode()]
    assert await process.wait() == 0
    await process.stop()
    assert process.returncode == 0


async def test_the_last_line_needs_no_newline():
    process = await start(faults.sh("printf 'a\\nb'"))
    assert await all_lines(process) == [b"a", b"b"]
    await process.stop()


async def test_streams_are_pipes_and_the_session_is_its_own():
    process = await start(
        faults.sh(
            "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; cut -d' ' -f5,6 /proc/$$/stat"
        )
    )
    *streams, ids = await all_lines(process)
    await process.stop()
    assert [stream.split(b":")[0] for stream in streams] == [b"pipe"] * 3
    assert ids == f"{process.pid} {process.pid}".encode()


async def test_nothing_of_our_environment_and_files_comes_along(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYDEV_MASTER_KEY", "made-up")
    with (tmp_path / "open").open("w"):
        process = await start(faults.sh("env; ls /proc/self/fd"))
        lines = await all_lines(process)
    await process.stop()
    names = {line.split(b"=")[0] for line in lines if b"=" in line}
    assert names <= {b"PATH", b"LANG", b"TZ", b"PWD", b"SHLVL", b"_", b"OLDPWD"}
    assert [line for line in lines if line.isdigit()] == [b"0", b"1", b"2", b"3"]


async def test_a_missing_program_is_told_apart(tmp_path):
    plain, damaged = tmp_path / "plain", tmp_path / "damaged"
    plain.write_text("no program")
    damaged.write_text("no program")
    damaged.chmod(0o700)
    for program in ("/nowhere/claude", plain, damaged, tmp_path):
        with pytest.raises(ProgramMissing, match="doctor"):
            await start([str(program)])


async def test_exit_code_and_words_of_one_that_dies():
    process = await start(faults.dies(3, "no luck: sk-ant-made-up-token-0123456789"))
    assert await process.wait() == 3
    assert process.stderr_tail() == "no luck: ********"
    await process.stop()
    killed = await start(faults.dies_by_signal())
    assert await killed.wait() == -signal.SIGKILL
    await killed.stop()


async def test_error_output_is_drained_and_its_tail_kept():
    process = await start(faults.noisy())
    assert await all_lines(process) == [b"done"]
    await process.wait()
    tail = process.stderr_tail()
    assert tail.endswith("the end")
    assert len(tail) <= TAIL_BYTES
    await process.stop()


async def test_a_token_cut_in_two_by_the_tail_is_not_shown():
    token = "sk-ant-" + "z" * 400
    fill = TAIL_BYTES - 200
    process = await start(
        faults.sh(f"printf '%s ' {token} >&2; head -c {fill} /dev/zero | tr '\\0' . >&2")
    )
    await process.wait()
    assert "z" not in process.stderr_tail()
    await process.stop()


async def test_what_nobody_reads_is_not_read_ahead():
    process = await start(faults.sh("i=0; while :; do printf '%01000d\\n' $i; i=$((i+1)); done"))
    assert (await first_line(process)).endswith(b"0")
    while not process._stdout._paused:
        await asyncio.sleep(0.01)
    held = process._stdout._queued_bytes
    async with asyncio.timeout(20):
        while not pipe_is_full(process.pid):
            await asyncio.sleep(0.01)
    assert process._stdout._queued_bytes == held < READ_AHEAD_BYTES + 300_000
    await process.stop(0)


def pipe_is_full(pid: int) -> bool:
    """Whether what the process has printed waits in its pipe, which takes hardly any more."""
    pipe = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiting = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        return waiting > 0.9 * fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(pipe)


async def test_all_of_it_arrives_when_the_reader_is_slow_and_the_process_gone():
    process = await start(faults.sh("seq 1 150000"))
    got = []
    async with asyncio.timeout(20):
        async for line in process.lines():
            got.append(int(line))
            if len(got) in (1, 60000, 100000):
                await asyncio.sleep(0.7)
    assert got == list(range(1, 150001))
    await process.stop()


async def test_a_line_without_end_stops_reading():
    process = await start(faults.huge_line(), line_limit_bytes=2**20)
    with pytest.raises(LineTooLong):
        await all_lines(process)
    with pytest.raises(LineTooLong):
        await all_lines(process)
    await process.stop(0)


async def test_lines_before_the_long_one_are_given():
    process = await start(
        faults.sh("echo one; read -r go; head -c 5000 /dev/zero | tr '\\0' x; echo"),
        line_limit_bytes=1000,
    )
    got = []
    with pytest.raises(LineTooLong):
        async for line in process.lines():
            got.append(line)
            await process.send([b"go"])
    assert got == [b"one"]
    await process.stop()


async def test_one_that_does_not_read_is_noticed():
    process = await start(faults.deaf())
    with pytest.raises(RunFailed) as failure:
        await process.send([b"x" * 2**20], timeout_seconds=0.2)
    assert failure.value.reason == "stdin_stalled"
    await process.stop(0)


@pytest.mark.parametrize("argv", [faults.closes_stdin(), faults.dies()])
async def test_one_that_reads_no_more_is_noticed(argv):
    process = await start(argv)
    if argv == faults.dies():
        await process.wait()
    else:
        await first_line(process)
    with pytest.raises(ProcessEnded) as failure:
        async with asyncio.timeout(10):
            while True:
                await process.send([b"x" * 2**17])
    assert failure.value.reason == "cli_ended"
    with pytest.raises(ProcessEnded):
        await process.send([b"more"])
    await process.stop(0)


async def test_stop_ends_a_good_one_by_closing_its_input():
    process = await start(faults.sh("cat >/dev/null; echo bye; exit 7"))
    await process.stop(grace_seconds=10)
    assert process.returncode == 7


async def test_stop_uses_sigterm_then_sigkill_on_the_group():
    gentle = await start(faults.sh("sleep 600 & echo $!; wait"))
    child = int(await first_line(gentle))
    await gentle.stop(0.1)
    assert gentle.returncode == -signal.SIGTERM
    assert not is_there(gentle.pid)
    await _gone(child)

    stubborn = await start(faults.ignores_sigterm())
    await first_line(stubborn)
    async with asyncio.timeout(30):
        await stubborn.stop(0.1)
    assert stubborn.returncode == -signal.SIGKILL


async def test_what_is_left_of_the_group_goes_when_the_leader_ends():
    process = await start(faults.sh("sleep 600 & echo $!"))
    child = int(await first_line(process))
    assert await process.wait() == 0
    await _gone(child)
    await process.stop()


async def test_streams_end_although_something_that_left_holds_them():
    process = await start(faults.sh("setsid sleep 600 & echo $!"))
    lines = await all_lines(process)
    assert await process.wait() == 0
    await process.stop()
    os.kill(int(lines[0]), signal.SIGKILL)


async def test_stop_may_be_repeated_and_concurrent():
    process = await start(faults.hangs())
    await asyncio.gather(process.stop(0.05), process.stop(0.05), process.stop(5))
    await process.stop()
    assert not is_there(process.pid)
    assert await all_lines(process) in ([b"ready"], [])


async def test_a_cancelled_stop_still_reaps():
    process = await start(faults.ignores_sigterm())
    await first_line(process)
    stopping = asyncio.create_task(process.stop(0.2))
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert process.returncode == -signal.SIGKILL
    assert not is_there(process.pid)


async def test_a_cancelled_start_leaves_nothing(tmp_path):
    note = tmp_path / "pid"
    for turns in range(12):
        note.unlink(missing_ok=True)
        starting = asyncio.create_task(start(faults.sh(f"echo $$ > {note}; exec sleep 600")))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        try:
            process = await starting
        except asyncio.CancelledError:
            if note.exists() and note.read_text():
                assert not is_there(int(note.read_text()))
        else:
            await process.stop(0)


async def test_no_descriptor_is_left_open():
    async def once() -> None:
        process = await start(faults.echo())
        await process.send([b"x"])
        await process.stop(1)

    await once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        await once()
    with pytest.raises(ProgramMissing):
        await start(["/nowhere/at/all"])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def _gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while is_there(pid) and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            await asyncio.sleep(0.01)
