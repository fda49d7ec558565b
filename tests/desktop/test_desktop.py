"""A real desktop: what is on its screen, who can reach it, and what is left of it."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from polydev.config import DesktopSettings
from polydev.core.desktops import Desktops, OpenDesktop
from polydev.core.home_files import read_file
from polydev.desktop import Fact, desktop_launch
from polydev.errors import Conflict, SandboxUnavailable
from polydev.models.desktops import Window
from polydev.models.places import LINKS_FILE, Launch, Place
from polydev.sandboxes import Sandboxes
from polydev.sandboxes.confinement import PLACE
from polydev.secret import Secret
from tests.desktop.conftest import shell, standby
from tests.e2e.processes import all_gone, command_line, descendants
from tests.screen import Onlooker, colours, keep

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.slow]

SECONDS = 90
LINK = "https://login.provider.test/authorize?state=made-up"


async def test_a_desktop_shows_the_command_and_then_its_link(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        facts: asyncio.Queue[str] = asyncio.Queue()
        ends: asyncio.Queue[int] = asyncio.Queue()
        desktop.desktop.on_fact, desktop.desktop.on_end = facts.put_nowait, ends.put_nowait
        script = (
            f'echo "$HOME $0"; read -r answer; echo "$answer" >typed; xdg-open "{LINK}"; exit 3'
        )
        async with asyncio.timeout(SECONDS):
            await desktop.hand_over(shell(f"cd; {script}"))
            onlooker = await Onlooker.at(await desktop.connect())
            first = await onlooker.picture()
            keep(first, "terminal")
            assert (first.width, first.height) == (1920, 1080)
            assert colours(first) > 20
            await desktop.desktop.until(Fact.BROWSER)

            # The terminal has the keyboard though the browser came up behind it.
            await onlooker.type("made-up words", enter=True)
            assert await ends.get() == 3
            typed = read_file(desktop.sandbox.home, LINKS_FILE.parent.with_name("typed"))
            assert typed is not None
            assert typed.reveal() == b"made-up words\n"

            await _next(facts, "visited")
            links = read_file(desktop.sandbox.home, LINKS_FILE)
            assert links is not None
            assert links.reveal().decode() == f"{LINK}\n"
            second = await onlooker.picture()
            while _share_that_differs(first.pixels, second.pixels) < 0.5:
                second = await onlooker.screen.picture(changed=True)
            keep(second, "browser")

            await desktop.desktop.raise_window(Window.TERMINAL)
            await _next(facts, "raised terminal")
            back = await onlooker.picture()
            while _share_that_differs(first.pixels, back.pixels) > 0.2:
                back = await onlooker.screen.picture(changed=True)
            keep(back, "terminal-raised")
            await onlooker.close()


async def test_nothing_is_left_of_a_desktop(sandboxes: Sandboxes) -> None:
    before = descendants(os.getpid())
    async with standby(sandboxes, 0) as desktops:
        async with asyncio.timeout(SECONDS), desktops.take() as desktop:
            await desktop.hand_over(shell("read -r _"))
            reader, writer = await desktop.connect()
            await reader.readexactly(12)
            running = descendants(os.getpid()) - before
            assert len(running) > 5
        await all_gone(running)
        assert await reader.read() == b""  # whoever still looked at it is told
        writer.close()
        await writer.wait_closed()
        with pytest.raises(Conflict):
            await desktop.connect()


async def test_only_vnc_on_a_unix_socket_leads_in(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        listing = "cat /proc/net/tcp /proc/net/tcp6 >tcp; cat /proc/net/unix >unix"
        async with asyncio.timeout(SECONDS):
            await desktop.hand_over(shell(f"cd; {listing}; echo >listed; read -r _"))
            await desktop.desktop.until(Fact.BROWSER)
            home = desktop.sandbox.home
            tcp = [line.split() for line in (home / "tcp").read_text().splitlines()]
        listens = {line[1] for line in tcp if len(line) > 3 and line[3] == "0A"}
        assert listens == {"0100007F:1F90"}  # egress, on 127.0.0.1:8080
        assert " @" not in (home / "unix").read_text().replace("@/tmp/dbus", "")
        assert oct((home / ".polydev/vnc.sock").stat().st_mode)[-3:] == "600"


async def test_what_is_copied_on_one_side_can_be_pasted_on_the_other(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        async with asyncio.timeout(SECONDS):
            script = 'cd; read -r x; echo "$x" >got; printf "words of the desktop\\n"; read -r _'
            await desktop.hand_over(shell(script))
            await desktop.desktop.until(Fact.BROWSER)  # which takes the keyboard for a moment
            onlooker = await Onlooker.at(await desktop.connect())
            before = await onlooker.picture()
            await onlooker.cut("words of the page")
            await onlooker.press_with_control_and_shift(ord("V"))
            while (shown := await onlooker.screen.picture(changed=True)).pixels == before.pixels:
                pass
            await onlooker.type("", enter=True)
            got = LINKS_FILE.parent.with_name("got")
            while not (file := read_file(desktop.sandbox.home, got)) or not file.reveal():
                await asyncio.sleep(0.05)
            assert file.reveal() == b"words of the page\n"

            while (await onlooker.screen.picture(changed=True)).pixels == shown.pixels:
                pass
            for _ in range(3):
                await onlooker.click(60, 61)  # the second line, all of it
            while not onlooker.screen.cut_text:
                await onlooker.screen.picture(changed=True)
            assert onlooker.screen.cut_text == b"words of the desktop\n"
            await onlooker.close()


async def test_the_browsers_own_sandbox_stays_on(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        async with asyncio.timeout(SECONDS):
            await desktop.hand_over(shell("read -r _"))
            await desktop.desktop.until(Fact.BROWSER)
            # It is put on when a process has started, before it is given a page.
            while not (filters := _filters_of_pages()) or set(filters) != {"2"}:
                await asyncio.sleep(0.05)


async def test_a_desktop_on_standby_is_handed_over_at_once(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 1) as desktops:
        async with asyncio.timeout(SECONDS):
            await _until_waiting(desktops)
            before = asyncio.get_running_loop().time()
            async with desktops.take() as desktop:
                assert Fact.BROWSER in desktop.desktop.facts
                await desktop.hand_over(shell("echo from standby; read -r _"))
                took = asyncio.get_running_loop().time() - before
                onlooker = await Onlooker.at(await desktop.connect())
                keep(await onlooker.picture(), "standby")
                await onlooker.close()
            assert took < 10, took
            await _until_waiting(desktops)  # the next one


async def test_a_part_that_does_not_come_up_is_named_with_its_words(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = desktop_launch(PLACE, None).files[".polydev/session"].reveal().decode()
    broken = real.replace("Xtigervnc -geometry", "Xtigervnc -made-up -geometry")

    def launch(place: Place, upstream_ca: bytes | None) -> Launch:
        files = {
            **desktop_launch(place, upstream_ca).files,
            ".polydev/session": Secret(broken.encode()),
        }
        return replace(desktop_launch(place, upstream_ca), files=files)

    monkeypatch.setattr("polydev.core.desktops.desktop_launch", launch)
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        with pytest.raises(SandboxUnavailable) as caught:
            async with asyncio.timeout(SECONDS):
                await desktop.hand_over(shell("true"))
    assert caught.value.reason == "desktop_display_late"
    assert "-made-up" in caught.value.message


async def test_a_machine_without_its_packages_is_told_so(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polydev.core.desktops.missing_packages", lambda: ["xfwm4"])
    async with Desktops(sandboxes, DesktopSettings(), None) as desktops:
        with pytest.raises(SandboxUnavailable) as caught:
            async with desktops.take():
                pass
    assert caught.value.reason == "desktop_missing"
    assert "xfwm4" in caught.value.message
    assert "--desktop" in caught.value.remedy


async def test_a_desktop_that_dies_says_so(sandboxes: Sandboxes) -> None:
    async with standby(sandboxes, 0) as desktops, desktops.take() as desktop:
        async with asyncio.timeout(SECONDS):
            await desktop.hand_over(shell("read -r _; kill -9 -1"))
            onlooker = await Onlooker.at(await desktop.connect())
            with contextlib.suppress(ConnectionError):  # it may die before the key is let go
                await onlooker.type("", enter=True)
            trouble = await desktop.desktop.failed()
            await onlooker.close()
        assert trouble.reason == "desktop_ended"
        assert "WARNING" not in trouble.message


ORDINARY = """
import asyncio, concurrent.futures.thread, ctypes, encodings.idna, os, stringprep, sys
from pathlib import Path
import polydev.sandboxes.diagnosis
from polydev.desktop import Fact
from polydev.sandboxes import Bubblewrap
from tests.desktop.conftest import shell, standby

data = Path(sys.argv[1])
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as if started by that user
sys.executable = "/usr/bin/python3"

async def main():
    kind = Bubblewrap(
        directory=data / "sandboxes", programs=data / "programs", authority=data / "authority.pem"
    )
    async with kind as sandboxes, standby(sandboxes, 0) as desktops, asyncio.timeout(90):
        async with desktops.take() as desktop:
            await desktop.hand_over(shell("cd; id -u >who; read -r _"))
            await desktop.desktop.until(Fact.BROWSER)
            print((desktop.sandbox.home / "who").read_text().strip(), os.getuid())
    print(os.listdir(data / "sandboxes"))

asyncio.run(main())
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="an ordinary user runs the whole suite as one",
)
async def test_an_ordinary_user_needs_no_more(tmp_path: Path) -> None:
    data, temporary = tmp_path / "host", Path(tempfile.gettempdir())
    (data / "programs").mkdir(parents=True)
    (data / "authority.pem").touch()
    for directory in tmp_path.parents:
        if directory.is_relative_to(temporary) and directory != temporary:
            directory.chmod(0o711)
    tmp_path.chmod(0o711)
    for path in (data, *data.rglob("*")):
        os.chown(path, 65534, 65534)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", ORDINARY, str(data)],
        capture_output=True,
        text=True,
        timeout=SECONDS + 30,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.splitlines() == ["1000 65534", "[]"], done.stderr


async def _next(facts: asyncio.Queue[str], wanted: str) -> None:
    while await facts.get() != wanted:
        pass


async def _until_waiting(desktops: Desktops) -> OpenDesktop | None:
    while not desktops.waiting:
        await asyncio.sleep(0.05)
    return None


def _share_that_differs(one: bytes, other: bytes) -> float:
    sample = [(a, b) for a, b in zip(one[::4001], other[::4001], strict=True)]
    return sum(a != b for a, b in sample) / len(sample)


def _filters_of_pages() -> list[str]:
    """The system call filter of each process of ours that renders pages: 2 is one that filters."""
    return [
        _seccomp(pid) for pid, _ in descendants(os.getpid()) if command_line(pid).endswith(" tab ")
    ]


def _seccomp(pid: int) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Seccomp:"):
            return line.split()[1]
    return ""
