"""What every kind of sandbox must do."""

import asyncio
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from polydev.errors import ProgramMissing, RunFailed, SandboxUnavailable
from polydev.models.places import Launch, Place
from polydev.proc import LineTooLong
from polydev.secret import Secret
from tests.sandboxes import faults, scripts
from tests.sandboxes.conftest import (
    descriptors,
    first_line,
    lines_of,
    make,
    marked,
    none_marked,
    output,
    serve,
)

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]


def launch(argv, **options) -> Launch:
    return Launch(argv=argv, **options)


async def test_files_are_there_with_their_content_and_for_nobody_else(sandboxes):
    content = bytes(range(256)) * 5000
    files = {
        ".tool/auth.json": Secret(b'{"made": "up"}'),
        ".tool/deep/er/blob": Secret(content),
        "plain": Secret(b""),
    }
    script = (
        "cd; stat -c '%n %a %U %s' .tool .tool/auth.json .tool/deep/er .tool/deep/er/blob plain;"
        " cat .tool/auth.json; echo; cksum < .tool/deep/er/blob"
    )
    lines = await output(
        sandboxes,
        launch(faults.sh(script), files=files, environment={"PATH": "/usr/bin:/bin"}),
    )
    owner = lines[0].split()[2]
    sum_of_it = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout
    assert lines == [
        *(f".tool{rest} {owner} {size}" for rest, size in [(" 700", lines[0].split()[3])]),
        f".tool/auth.json 600 {owner} 14",
        f".tool/deep/er 700 {owner} {lines[2].split()[3]}",
        f".tool/deep/er/blob 600 {owner} {len(content)}",
        f"plain 600 {owner} 0",
        '{"made": "up"}',
        sum_of_it.decode().strip(),
    ]


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
async def test_files_stay_under_home(sandboxes, machine, name):
    with pytest.raises(ValueError, match="not a path under HOME"):
        await sandboxes.open(lambda _: launch(faults.echo(), files={name: Secret(b"made up")}))
    assert list((machine / "sandboxes").iterdir()) == []


async def test_the_environment_is_exactly_the_allowlist(sandboxes, kind, monkeypatch):
    monkeypatch.setenv("POLYDEV_MASTER_KEY", "made-up")
    monkeypatch.setenv("HTTPS_PROXY", "http://made.up")
    lines = await output(
        sandboxes, launch(("/usr/bin/env",), environment={"TOOL_HOME": "/x", "LANG": "C"})
    )
    names = [line.split("=")[0] for line in lines]
    ours = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ", "USER", "TOOL_HOME"]
    assert sorted(names) == sorted([*ours, "PWD" if kind == "bubblewrap" else "TMPDIR"])
    assert {"LANG=C", "TZ=UTC", "TOOL_HOME=/x"} <= set(lines)


async def test_the_place_is_what_it_says(sandboxes):
    seen: list[Place] = []

    def launch_for(place: Place) -> Launch:
        seen.append(place)
        script = (
            f"pwd; echo $HOME; cat {place.authority}; {place.programs}/node_modules/tool/tool it;"
            f" touch {place.workspace}/w {place.home}/h && test -S {place.egress_socket} && echo all"
        )
        return launch(faults.sh(script))

    async with await sandboxes.open(launch_for) as sandbox:
        assert sandbox.place == seen[0]
        process = await sandbox.start()
        assert await lines_of(process) == [
            str(seen[0].workspace),
            str(seen[0].home),
            "made-up authority",
            "tool it",
            "all",
        ]


async def test_the_cli_waits_for_start(sandboxes):
    argv = faults.sh("date +%s%N; IFS= read -r line; echo $line; cat >/dev/null")
    async with await sandboxes.open(lambda _: launch(argv)) as sandbox:
        await asyncio.sleep(0.05)  # time enough for one that does not wait
        began = time.time_ns()
        process = await sandbox.start()
        assert int(await first_line(process)) > began
        await process.send([b"hello"])
        assert await first_line(process) == "hello"
        with pytest.raises(SandboxUnavailable) as failure:
            await sandbox.start()
        assert failure.value.reason == "sandbox_used"


@pytest.mark.parametrize("needs_port", [False, True])
async def test_egress_is_reached_over_every_listener(sandboxes, needs_port):
    for word in ("unix", "port")[: 1 + needs_port]:

        def launch_for(place: Place, word=word) -> Launch:
            argv = (
                scripts.say_over_unix(str(place.egress_socket), word)
                if word == "unix"
                else scripts.say_over_port(place.egress_port, word)
            )
            return launch(argv, needs_port=needs_port)

        async with await sandboxes.open(launch_for) as sandbox:
            assert len(sandbox.listeners) == 1 + needs_port
            servers = await serve(sandbox, lambda index: b"listener %d: " % index)
            process = await sandbox.start()
            number = 0 if word == "unix" else 1
            assert await lines_of(process) == [f"listener {number}: {word}"]
            for server in servers:
                server.close()
                await server.wait_closed()


async def test_a_missing_program_is_said_before_anything_runs(sandboxes, machine):
    def launch_for(place: Place) -> Launch:
        return launch((f"{place.programs}/node_modules/nothing/nothing",))

    with pytest.raises(ProgramMissing, match="doctor"):
        await sandboxes.open(launch_for)
    assert list((machine / "sandboxes").iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [
        faults.hangs(),
        faults.ignores_sigterm(),
        faults.leaves_grandchildren(),
        faults.leaves_grandchildren_and_ends(),
        faults.slow(),
        faults.noisy(),
        faults.dies(),
        faults.echo(),
    ],
    ids=["hangs", "stubborn", "grandchildren", "daemon", "slow", "noisy", "dies", "good"],
)
async def test_nothing_is_left_after_close(sandboxes, machine, argv):
    mark = uuid.uuid4().hex
    mounts = Path("/proc/self/mountinfo").read_text()
    held = descriptors()
    sandbox = await sandboxes.open(
        lambda _: launch(argv, needs_port=True, environment={"MARK": mark})
    )
    process = await sandbox.start()
    if argv not in (faults.dies(), faults.echo(), faults.noisy()):
        await first_line(process)
    if argv in (faults.hangs(), faults.ignores_sigterm(), faults.leaves_grandchildren()):
        assert marked(mark)
    async with asyncio.timeout(30):
        await sandbox.close(0.1)
    assert marked(mark) == []
    assert process.returncode is not None
    assert list((machine / "sandboxes").iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert descriptors() == held
    await sandbox.close()
    with pytest.raises(SandboxUnavailable):
        await sandbox.start()


async def test_one_that_never_started_leaves_nothing(sandboxes, machine):
    held = descriptors()
    async with await sandboxes.open(lambda _: launch(faults.echo(), needs_port=True)):
        assert len(list((machine / "sandboxes").iterdir())) == 1
    assert list((machine / "sandboxes").iterdir()) == []
    assert descriptors() == held


async def test_a_cancelled_close_finishes(sandboxes, machine):
    mark = uuid.uuid4().hex
    sandbox = await sandboxes.open(
        lambda _: launch(faults.ignores_sigterm(), environment={"MARK": mark})
    )
    await first_line(await sandbox.start())
    closing = asyncio.create_task(sandbox.close(0.2))
    await asyncio.sleep(0.05)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert marked(mark) == []
    assert list((machine / "sandboxes").iterdir()) == []


async def test_a_cancelled_open_leaves_nothing(sandboxes, machine):
    held = descriptors()
    for wait in [0.0] * 3 + [0.001, 0.002, 0.003, 0.005, 0.008, 0.012]:
        opening = asyncio.create_task(
            sandboxes.open(lambda _: launch(faults.hangs(), needs_port=True))
        )
        await asyncio.sleep(wait)
        opening.cancel()
        try:
            sandbox = await opening
        except asyncio.CancelledError:
            pass
        else:
            await sandbox.close()
    assert list((machine / "sandboxes").iterdir()) == []
    # A helper that answers a cancelled request late is heard out by the next one.
    async with await sandboxes.open(lambda _: launch(faults.echo(), needs_port=True)) as sandbox:
        assert len(sandbox.listeners) == 2
    assert descriptors() == held


async def test_many_at_once(sandboxes, machine):
    async def one(number: int) -> list[str]:
        return await output(sandboxes, launch(("/bin/echo", str(number)), needs_port=True))

    async with asyncio.timeout(60):
        got = await asyncio.gather(*(one(number) for number in range(24)))
    assert got == [[str(number)] for number in range(24)]
    assert list((machine / "sandboxes").iterdir()) == []


async def test_garbage_and_an_endless_line_reach_the_caller_as_such(sandboxes):
    lines = await output(sandboxes, launch(faults.garbage()))
    assert len(lines) == 2
    async with await sandboxes.open(lambda _: launch(faults.huge_line())) as sandbox:
        process = await sandbox.start()
        with pytest.raises(LineTooLong) as failure:
            await lines_of(process)
        assert isinstance(failure.value, RunFailed)
        await sandbox.close(0)


async def test_the_exit_code_and_the_words_of_a_dying_cli(sandboxes):
    async with await sandboxes.open(lambda _: launch(faults.dies(42, "so long"))) as sandbox:
        process = await sandbox.start()
        async with asyncio.timeout(20):
            assert await process.wait() == 42
        assert process.stderr_tail() == "so long"


GATEWAY = """
import asyncio, sys
from pathlib import Path
from polydev.models.places import Launch
from tests.sandboxes.conftest import first_line, make

async def main():
    kind, data, mark, *argv = sys.argv[1:]
    async with make(kind, Path(data)) as sandboxes:
        launch = Launch(argv=tuple(argv), needs_port=True, environment={"MARK": mark})
        held = await sandboxes.open(lambda _: launch)
        sandbox = await sandboxes.open(lambda _: launch)
        print(await first_line(await sandbox.start()), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "argv", [faults.hangs(), faults.leaves_grandchildren()], ids=["hangs", "grandchildren"]
)
async def test_a_killed_gateway_leaves_no_cli_and_reap_the_rest(kind, machine, argv):
    mark = uuid.uuid4().hex
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-c", GATEWAY, kind, str(machine), mark, *argv),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    try:
        assert gateway.stdout is not None
        async with asyncio.timeout(30):
            while (line := await gateway.stdout.readline()) != b"ready\n":
                assert line
        helpers = _children(gateway.pid)
        assert marked(mark)
    finally:
        gateway.send_signal(signal.SIGKILL)
        await gateway.wait()
    if kind == "bubblewrap" or argv == faults.hangs():
        await none_marked(mark)
    if kind == "bubblewrap":
        assert helpers
        async with asyncio.timeout(10):
            while any(Path(f"/proc/{pid}").exists() and not _zombie(pid) for pid in helpers):
                await asyncio.sleep(0.02)
    assert len(list((machine / "sandboxes").iterdir())) == 2
    async with make(kind, machine) as sandboxes:
        assert await sandboxes.reap() == 2
        assert marked(mark) == []
        assert list((machine / "sandboxes").iterdir()) == []
        assert await sandboxes.reap() == 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_reap_removes_what_cannot_be_entered(sandboxes, machine):
    left = machine / "sandboxes" / "0123456789abcdef"
    (left / "home" / "locked" / "inner").mkdir(parents=True)
    (left / "home" / "locked" / "file").write_text("x")
    (left / "home" / "locked").chmod(0)
    (left / "home" / "link").symlink_to(machine / "programs")
    assert await sandboxes.reap() == 1
    assert not left.exists()
    assert (machine / "programs" / "node_modules").exists()


async def test_a_directory_that_cannot_be_used_is_said(kind, machine):
    (machine / "sandboxes").write_text("a file in its place")
    with pytest.raises(SandboxUnavailable) as failure:
        async with make(kind, machine):
            pass
    assert failure.value.reason == "directory_unusable"
    assert failure.value.remedy
    assert (machine / "sandboxes").is_file()


async def test_the_host_reads_and_writes_home_while_it_is_open(sandboxes):
    script = 'IFS= read -r line; cat "$HOME/from-host"; echo inside > "$HOME/from-inside"; echo end'
    environment = {"PATH": "/usr/bin:/bin"}
    async with await sandboxes.open(
        lambda _: launch(faults.sh(script), environment=environment)
    ) as sandbox:
        process = await sandbox.start()
        (sandbox.home / "from-host").write_text("outside\n")
        await process.send([b"go on"])
        assert await lines_of(process) == ["outside", "end"]
        assert (sandbox.home / "from-inside").read_text() == "inside\n"
        home = sandbox.home
    assert not home.exists()


async def test_programs_among_the_files_can_be_run(sandboxes):
    tool = ".tool/bin/say"
    files = {tool: Secret(b"#!/bin/sh\necho said $1\n"), ".tool/plain": Secret(b"")}
    script = 'cd; ./.tool/bin/say it; stat -c "%a" .tool/bin/say .tool/plain'
    lines = await output(
        sandboxes,
        launch(
            faults.sh(script),
            files=files,
            executable=frozenset({tool}),
            environment={"PATH": "/usr/bin:/bin"},
        ),
    )
    assert lines == ["said it", "700", "600"]


async def test_what_the_cli_listens_on_is_reached_from_outside(sandboxes):
    async with await sandboxes.open(lambda _: launch(scripts.greet_on_a_port())) as sandbox:
        process = await sandbox.start()
        port = int(await first_line(process))
        reader, writer = await asyncio.open_connection(sock=await sandbox.connect(port))
        assert await reader.readline() == b"hello from inside\n"
        writer.close()
        with pytest.raises(SandboxUnavailable) as failure:
            await sandbox.connect(1)
        assert failure.value.reason == "no_loopback_port"
        again, writer = await asyncio.open_connection(sock=await sandbox.connect(port))
        assert await again.readline() == b"hello from inside\n"
        writer.close()


async def test_bubblewraps_loopback_is_its_own(sandboxes, kind):
    async with await sandboxes.open(lambda _: launch(scripts.greet_on_a_port())) as sandbox:
        port = int(await first_line(await sandbox.start()))
        assert sandbox.own_network == (kind == "bubblewrap")
        if sandbox.own_network:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
