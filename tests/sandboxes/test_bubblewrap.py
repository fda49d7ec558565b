"""What bubblewrap adds: nothing of the host is seen, reached or changed."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from polydev.errors import ProgramMissing, SandboxUnavailable
from polydev.models.places import Launch
from polydev.secret import Secret
from tests.sandboxes import faults, scripts
from tests.sandboxes.conftest import first_line, make, output

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]


async def test_two_runs_find_the_same_place(bubblewrap):
    script = (
        "env | sort; pwd; hostname; id; echo $$ $PPID; cat /etc/passwd /etc/group /etc/hosts;"
        " ls -a /; ls -la --time-style=+ /home /etc /workspace /opt/polydev /run/polydev ~"
    )
    launch = Launch(
        argv=("/bin/bash", "-c", script), needs_port=True, files={".t/f": Secret(b"made up")}
    )
    one, two = await output(bubblewrap, launch), await output(bubblewrap, launch)
    assert one == two
    assert "uid=1000(user) gid=1000(user)" in "\n".join(one)
    assert {"HOME=/home/user", "PWD=/workspace", "/workspace", "sandbox"} <= set(one)


async def test_a_launch_may_add_to_etc_for_itself_alone(bubblewrap):
    script = "cat /etc/made/up; test -w /etc/made/up || echo read-only"
    launch = Launch(argv=faults.sh(script), etc={"made/up": b"words\n"})
    assert await output(bubblewrap, launch) == ["words", "read-only"]
    for name in ("../escape", "/absolute"):
        with pytest.raises(ValueError):
            await bubblewrap.open(lambda _, n=name: Launch(argv=faults.echo(), etc={n: b""}))


async def test_only_a_desktop_is_shown_what_desktops_read(bubblewrap):
    script = "ls -d /etc/fonts /etc/dbus-1 /var /etc/ssh /etc/shadow 2>/dev/null; true"
    assert await output(bubblewrap, Launch(argv=faults.sh(script))) == []
    shown = await output(bubblewrap, Launch(argv=faults.sh(script), desktop=True))
    assert set(shown) <= {"/etc/fonts", "/etc/dbus-1", "/var"}
    inside = "ls /var /var/cache 2>/dev/null; true"
    names = set(await output(bubblewrap, Launch(argv=faults.sh(inside), desktop=True)))
    assert names <= {"/var:", "/var/cache:", "", "cache", "fontconfig"}


async def test_nothing_of_the_host_is_there(bubblewrap, machine, tmp_path):
    (tmp_path / "private").write_text("made up")
    hidden = [
        *(machine, machine / "vault.key", machine / "sandboxes", tmp_path / "private"),
        *("/root", "/var", "/srv", "/mnt", "/sys", "/boot", "/etc/machine-id", "/etc/shadow"),
        *("/etc/ssl/private", "/etc/ssh", "/etc/environment", "/run/dbus", "/run/systemd"),
        *(REPOSITORY, Path.home()),
    ]
    lines = await output(
        bubblewrap,
        Launch(
            argv=(
                *faults.sh('for f; do test -e "$f" && echo "$f"; done; ls / /home /run /etc'),
                "sh",
                *(str(path) for path in hidden),
            )
        ),
    )
    names = set(lines)
    assert not names & {str(path) for path in hidden}
    expected = {"dev", "etc", "home", "opt", "proc", "run", "tmp", "usr", "workspace", "user"}
    assert expected <= names
    assert names - expected <= {
        *("/:", "/home:", "/run:", "/etc:", "", "polydev"),
        *("bin", "sbin", "lib", "lib32", "lib64", "libx32"),
        *("alternatives", "crypto-policies", "group", "hosts", "ld.so.cache", "ld.so.conf"),
        *("ld.so.conf.d", "nsswitch.conf", "passwd", "pki", "resolv.conf", "ssl"),
    }


async def test_no_process_of_the_host_is_there(bubblewrap):
    lines = await output(bubblewrap, Launch(argv=faults.sh("cd /proc; ls -d [0-9]*")))
    assert len(lines) <= 4


async def test_the_system_is_read_only(bubblewrap, machine):
    places = (
        "/ /usr /usr/bin /etc /etc/ssl/certs /etc/alternatives /opt /opt/polydev /run /run/polydev"
        " /home /dev /proc /proc/sys/kernel /opt/polydev/node_modules/tool"
    )
    lines = await output(
        bubblewrap,
        Launch(
            argv=faults.sh(
                f"for d in {places}; do touch $d/x 2>/dev/null && echo $d; done;"
                " echo x >> /etc/passwd; echo x >> /opt/polydev/node_modules/tool/tool;"
                " rm -f /run/polydev/egress.sock; mount -o remount,rw /usr; umount /proc;"
                " test -S /run/polydev/egress.sock && echo kept;"
                " touch /tmp/x /dev/shm/x ~/x ./x && echo x > /dev/null && echo written"
            )
        ),
    )
    assert lines == ["kept", "written"]
    assert "x" not in (machine / "programs/node_modules/tool/tool").read_text().splitlines()


async def test_no_switch_of_the_kernel_can_be_moved(bubblewrap):
    """Not even when root runs polydev, whose sandboxes the kernel takes for root's in /proc."""
    script = (
        "find /proc -not -path '/proc/[0-9]*' -type f 2>/dev/null | while read -r f; do"
        ' ( : >> "$f" ) 2>/dev/null && echo "$f"; done; echo looked'
    )
    assert await output(bubblewrap, Launch(argv=("/bin/bash", "-c", script))) == ["looked"]


async def test_no_capability_is_held_or_gained(bubblewrap):
    lines = await output(
        bubblewrap,
        Launch(
            argv=faults.sh(
                "grep -E '^(Cap|NoNewPrivs)' /proc/self/status;"
                " unshare --user --map-root-user true && echo gained; su -c true; true"
            )
        ),
    )
    assert {line.split()[0]: int(line.split()[1], 16) for line in lines} == {
        "CapInh:": 0,
        "CapPrm:": 0,
        "CapEff:": 0,
        "CapBnd:": 0,
        "CapAmb:": 0,
        "NoNewPrivs:": 1,
    }


async def test_no_network_but_its_own_loopback(bubblewrap):
    with socket.create_server(("127.0.0.1", 0)) as host, socket.socket(socket.AF_UNIX) as abstract:
        name = f"polydev-test-{uuid.uuid4().hex}"
        abstract.bind("\0" + name)
        abstract.listen()
        port = host.getsockname()[1]
        assert await output(bubblewrap, Launch(argv=scripts.connect("127.0.0.1", port))) == [
            "Connection refused"
        ]
        lines = await output(bubblewrap, Launch(argv=scripts.connect("127.0.0.1", 8080)))
        assert lines == ["Connection refused"]
        for address in ("169.254.169.254", "1.1.1.1", "10.0.0.1"):
            launch = Launch(argv=scripts.connect(address, 80), needs_port=True)
            assert await output(bubblewrap, launch) == ["Network is unreachable"]
        script = (
            "perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); print connect(S,"
            f'pack("Sa*",1,"\\0{name}")) ? "reached" : "$!"\''
        )
        assert await output(bubblewrap, Launch(argv=faults.sh(script))) == ["Connection refused"]


async def test_the_loopback_is_up_when_the_cli_runs(bubblewrap):
    lines = await output(
        bubblewrap,
        Launch(argv=faults.sh("cat /proc/net/dev | grep -c :; cat /proc/net/tcp"), needs_port=True),
    )
    assert lines[0] == "1"
    assert lines[2].split()[1:4] == ["0100007F:1F90", "00000000:0000", "0A"]


async def test_memory_files_have_a_size(bubblewrap):
    lines = await output(
        bubblewrap, Launch(argv=faults.sh("df -k --output=size /tmp ~ . /dev/shm | tail -n +2"))
    )
    assert [int(line) for line in lines] == [2**20, 2**20, 2**20, 2**18]


async def test_the_hosts_process_list_shows_no_variable(bubblewrap):
    launch = Launch(argv=faults.hangs(), environment={"SENTINEL": "made-up-sentinel"})
    async with await bubblewrap.open(lambda _: launch) as sandbox:
        process = await sandbox.start()
        await first_line(process)
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"bwrap" in command
        assert b"made-up-sentinel" not in command


async def test_a_program_of_the_host_that_the_sandbox_does_not_show_is_missing(bubblewrap, machine):
    tool = machine / "programs/node_modules/tool/tool"
    for program in (str(tool), "/opt/polydev/../../etc/passwd", "/opt/polydev/node_modules"):
        with pytest.raises(ProgramMissing):
            await bubblewrap.open(lambda _, program=program: Launch(argv=(program,)))


async def test_what_bwrap_cannot_do_is_said_with_its_words(machine):
    async with make("bubblewrap", machine) as sandboxes:
        (machine / "programs").rename(machine / "gone")
        with pytest.raises(SandboxUnavailable, match="Can't find source path") as failure:
            await sandboxes.open(lambda _: Launch(argv=("/bin/true",), needs_port=True))
        assert failure.value.reason == "bubblewrap_failed"
        assert list((machine / "sandboxes").iterdir()) == []


async def test_one_that_died_while_it_waited_is_said(bubblewrap, machine):
    sandbox = await bubblewrap.open(lambda _: Launch(argv=("/bin/true",)))
    os.kill(sandbox._process.pid, 9)
    await sandbox._process.wait()
    with pytest.raises(SandboxUnavailable) as failure:
        await sandbox.start()
    assert failure.value.reason == "sandbox_ended"
    await sandbox.close()
    assert list((machine / "sandboxes").iterdir()) == []


async def test_reap_ends_what_escaped_a_killed_gateway(bubblewrap, machine):
    left = machine / "sandboxes" / "0123456789abcdef"
    left.mkdir()
    bare = ["/usr/bin/bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--"]
    escaped = await asyncio.create_subprocess_exec(
        *bare, "setsid", "sleep", "600", env={"POLYDEV_SANDBOX": str(left)}
    )
    try:
        assert await bubblewrap.reap() == 1
        async with asyncio.timeout(5):
            assert await escaped.wait() != 0
    finally:
        if escaped.returncode is None:
            escaped.kill()
            await escaped.wait()
    assert not left.exists()


async def test_the_helper_is_started_again_when_it_died(bubblewrap):
    os.kill(bubblewrap._ports._process.pid, 9)
    await bubblewrap._ports._process.wait()
    lines = await output(bubblewrap, Launch(argv=("/bin/echo", "on"), needs_port=True))
    assert lines == ["on"]


async def test_a_long_data_directory_is_no_trouble(machine):
    deep = machine / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for name in ("programs", "authority.pem"):
        (machine / name).rename(deep / name)
    async with make("bubblewrap", deep) as sandboxes:
        argv = faults.sh("test -S /run/polydev/egress.sock && echo there")
        assert await output(sandboxes, Launch(argv=argv)) == ["there"]


ORDINARY = """
import ctypes, os, sys
from pathlib import Path
import uvloop  # and with it all that could not be read any more later
import polydev.sandboxes, polydev.sandboxes.diagnosis, tests.sandboxes.conftest as kit
from polydev.models.places import Launch
from tests.sandboxes import faults, scripts

data = Path(sys.argv[1])
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as if started by that user
sys.executable = "/usr/bin/python3"

async def main():
    async with kit.make("bubblewrap", data) as sandboxes:
        async with await sandboxes.open(
            lambda place: Launch(argv=scripts.say_over_port(8080, "hi"), needs_port=True)
        ) as sandbox:
            servers = await kit.serve(sandbox, lambda index: b"from %d: " % index)
            process = await sandbox.start()
            print(*await kit.lines_of(process), process.stderr_tail())
        print(*await kit.output(sandboxes, Launch(argv=faults.sh(
            "id -u; ( : >> /proc/sys/kernel/core_pattern ) 2>/dev/null || echo refused"))))
    print(os.listdir(data / "sandboxes"))

uvloop.run(main())
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="an ordinary user runs the whole suite as one",
)
async def test_an_ordinary_user_needs_no_more(tmp_path_factory, machine):
    temporary = Path(tempfile.gettempdir())
    for directory in (machine.parent, *machine.parent.parents):
        if directory.is_relative_to(temporary) and directory != temporary:
            directory.chmod(0o711)
    for path in (machine, *machine.rglob("*")):
        os.chown(path, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ORDINARY, str(machine)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.stdout.splitlines() == ["from 1: hi ", "1000 refused", "[]"], done.stderr
