"""The installer of the CLIs, with an npm that does what each test needs.

The real npm and the real packages are what `make setup` runs before all tests.
"""

import asyncio
import json
import os
import re
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from polydev.core import installer
from polydev.core.installer import LOCKED, Progress, install, is_current, pinned_versions
from polydev.core.programs import BROWSER_PARTS, Programs, npm_platform
from polydev.errors import ProgramMissing, SetupProblem
from polydev.providers.registry import PROVIDERS

pytestmark = pytest.mark.anyio

PROGRAMS = [provider.program for provider in PROVIDERS.values()]
NODE = f"node_modules/node-{npm_platform()}"
FILES = {
    **{str(Programs(Path()).file(program)): "" for program in PROGRAMS},
    **{f"node_modules/{p.package}/package.json": '{"version": "1"}' for p in PROGRAMS},
    **{str(Programs(Path()).browser_part(name)): "" for name in BROWSER_PARTS},
    **{f"node_modules/{name}/package.json": '{"version": "2"}' for name in BROWSER_PARTS},
    f"{NODE}/bin/node": "",
    f"{NODE}/package.json": '{"version": "22"}',
}
INSTALLS = f"""
for path, content in {FILES!r}.items():
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
"""

Npm = Callable[[str], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "programs"


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def npm(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    """Makes an npm that counts its calls and runs this Python."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def make(body: str) -> None:
        script = tmp_path / "bin" / "npm"
        head = f"""\
            #!{sys.executable}
            import json, os, pathlib, sys, time
            with open({str(calls)!r}, "a") as file:
                print(json.dumps([os.getpid(), os.getcwd(), sys.argv[1:], dict(os.environ)]), file=file)
            """
        script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        script.chmod(0o755)

    make(INSTALLS)
    return make


def said(calls: Path) -> list[list[object]]:
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def ignore(_: Progress) -> None:
    pass


def beside(root: Path) -> set[str]:
    return {path.name for path in root.parent.iterdir()} - {".programs.lock"}


async def test_it_installs_once(root: Path, npm: Npm, calls: Path) -> None:
    reports: list[Progress] = []
    assert await install(root, PROGRAMS, report=reports.append)
    assert is_current(root)
    assert Programs(root).version(PROGRAMS[0]) == "1"
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert reports
    assert beside(root) == {"programs"}
    assert not await install(root, PROGRAMS, report=ignore)
    assert len(said(calls)) == 1


async def test_nobodys_scripts_run_and_npm_gets_no_secrets(
    root: Path, npm: Npm, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYDEV_MASTER_KEY", "made up")
    monkeypatch.setenv("SOME_API_KEY", "made up")
    monkeypatch.setenv("https_proxy", "http://proxy.example.test:1")
    monkeypatch.setenv("npm_config_registry", "http://registry.example.test/")
    await install(root, PROGRAMS, report=ignore)
    ((_, directory, arguments, environment),) = said(calls)
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    assert arguments[0] == "ci"
    assert "--ignore-scripts" in arguments
    assert environment["https_proxy"] == "http://proxy.example.test:1"
    assert environment["npm_config_registry"] == "http://registry.example.test/"
    assert "made up" not in environment.values()
    assert Path(str(directory)).parent == root.parent


async def test_a_new_lock_file_takes_the_place_of_the_old_installation(
    root: Path, npm: Npm
) -> None:
    await install(root, PROGRAMS, report=ignore)
    (root / installer.MARKER).write_text("an older lock file's digest")
    (root / "of the old one").touch()
    assert await install(root, PROGRAMS, report=ignore)
    assert is_current(root)
    assert not (root / "of the old one").exists()
    assert beside(root) == {"programs"}


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ("print('npm error E404 not there', file=sys.stderr); sys.exit(1)", "npm_failed", "E404"),
        ("", "npm_incomplete", PROGRAMS[0].package),
        (f"{INSTALLS}\nimport shutil; shutil.rmtree({NODE!r})", "npm_incomplete", "Node"),
    ],
)
async def test_a_failure_leaves_what_was_there(
    root: Path, npm: Npm, body: str, reason: str, words: str
) -> None:
    await install(root, PROGRAMS, report=ignore)
    (root / installer.MARKER).write_text("an older lock file's digest")
    npm(body)
    with pytest.raises(SetupProblem, match=words) as caught:
        await install(root, PROGRAMS, report=ignore)
    assert caught.value.reason == reason
    assert Programs(root).version(PROGRAMS[0]) == "1"
    assert beside(root) == {"programs"}


async def test_without_npm_it_says_how_to_get_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProgramMissing, match="npm") as caught:
        await install(root, PROGRAMS, report=ignore)
    assert "apt-get install" in caught.value.remedy


@pytest.mark.slow
async def test_cancelled_it_leaves_nothing(root: Path, npm: Npm, calls: Path) -> None:
    npm("time.sleep(60)")
    started = asyncio.Event()
    task = asyncio.create_task(
        install(root, PROGRAMS, report=lambda _: started.set() if said(calls) else None)
    )
    async with asyncio.timeout(20):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ((pid, *_),) = said(calls)
    assert isinstance(pid, int)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert beside(root) == set()


async def test_two_at_once_install_once(root: Path, npm: Npm, calls: Path) -> None:
    npm(f"time.sleep(0.3)\n{INSTALLS}")
    waited: list[Progress] = []
    both = await asyncio.gather(
        install(root, PROGRAMS, report=ignore), install(root, PROGRAMS, report=waited.append)
    )
    assert sorted(both) == [False, True]
    assert len(said(calls)) == 1


async def test_what_is_not_ours_is_never_replaced(root: Path, npm: Npm, calls: Path) -> None:
    root.mkdir(parents=True)
    (root / "somebody's work").touch()
    with pytest.raises(SetupProblem) as caught:
        await install(root, PROGRAMS, report=ignore)
    assert caught.value.reason == "programs_not_ours"
    assert (root / "somebody's work").exists()
    assert not said(calls)


async def test_what_a_killed_installer_left_is_removed(root: Path, npm: Npm) -> None:
    left = root.parent / ".programs-left"
    (left / "node_modules").mkdir(parents=True)
    await install(root, PROGRAMS, report=ignore)
    assert beside(root) == {"programs"}


async def test_a_directory_that_cannot_be_made_is_named(root: Path, npm: Npm) -> None:
    root.parent.touch()
    with pytest.raises(SetupProblem, match="cannot be installed") as caught:
        await install(root, PROGRAMS, report=ignore)
    assert "POLYDEV_PROGRAMS" in caught.value.remedy


def test_the_lock_file_names_no_registry_and_exact_versions() -> None:
    lock = json.loads((LOCKED / "package-lock.json").read_text())
    packages = {path: fields for path, fields in lock["packages"].items() if path}
    manifest = json.loads((LOCKED / "package.json").read_text())
    for kind in ("dependencies", "optionalDependencies"):
        assert lock["packages"][""][kind] == manifest[kind], "run `make lock`"
    for path, fields in packages.items():
        assert "resolved" not in fields, path
        assert re.fullmatch(r"sha512-\S+", fields["integrity"]), path
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned_versions().values())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.package)
def test_every_providers_cli_is_locked(program: object) -> None:
    assert any(p is program and p.package in pinned_versions() for p in PROGRAMS)


@pytest.mark.parametrize("platform", ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"])
def test_node_is_locked_for_every_platform(platform: str) -> None:
    lock = json.loads((LOCKED / "package-lock.json").read_text())
    fields = lock["packages"][f"node_modules/node-{platform}"]
    os_name, _, cpu = platform.partition("-")
    assert (fields["os"], fields["cpu"], fields["optional"]) in (
        (os_name, cpu, True),
        ([os_name], [cpu], True),
    )
    assert int(fields["version"].partition(".")[0]) == 22
