"""Installs the vendors' CLIs, at the versions of the lock file that comes with polydev.

npm installs into a directory beside the final one, without running anybody's scripts; what it
installed is checked, and only then takes the final name. A failure, a kill or a full disk leaves
what was there before, or at worst nothing, never a part. Two installers at once: the second waits
and finds the work done. Fails with ProgramMissing (no npm) and SetupProblem (npm failed, the
directory holds something else, the disk is full).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog

from polydev.core.programs import BROWSER_PARTS, Programs
from polydev.errors import PolydevError, ProgramMissing, SetupProblem
from polydev.proc import Process, npm_environment, to_the_end
from polydev.providers.base import Program

log = structlog.get_logger()

LOCKED = Path(__file__).parent.parent / "vendor_clis"
MARKER = ".polydev-installed"
_LOCK_FILE = ".programs.lock"
_LEFT_OVER = ".programs-"
_WHOLE_SECONDS = 3600.0
_REPORT_SECONDS = 0.5
_ARGUMENTS = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error")

_REMEDY_NPM = "Install npm: `sudo apt-get install -y npm`, or see nodejs.org."


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What an installation is at, for people."""

    what: str
    written_bytes: int = 0


Report = Callable[[Progress], None]


@cache
def pinned_versions() -> Mapping[str, str]:
    """The version that polydev installs, by npm package."""
    fields = json.loads((LOCKED / "package.json").read_bytes())
    versions: dict[str, str] = {**fields["optionalDependencies"], **fields["dependencies"]}
    return {package: version.rpartition("@")[2] for package, version in versions.items()}


def is_current(root: Path) -> bool:
    """Whether `root` holds what this polydev's lock file says."""
    try:
        return (root / MARKER).read_text(encoding="ascii") == _lock_digest()
    except (OSError, UnicodeDecodeError):
        return False


async def install(root: Path, needed: Iterable[Program], *, report: Report) -> bool:
    """Makes `root` hold the CLIs; False when it did already.

    needed: what must be there afterwards: npm passes over a package for this machine that it
        could not fetch.
    """
    if is_current(root):
        return False
    npm = shutil.which("npm")
    if npm is None:
        raise ProgramMissing("npm is not installed.", remedy=_REMEDY_NPM)
    with _translated(root):
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with asyncio.timeout(_WHOLE_SECONDS), _alone(root.parent, report):
            if is_current(root):
                return False
            _refuse_foreign(root)
            await asyncio.to_thread(_remove_left_overs, root.parent)
            fresh = Path(tempfile.mkdtemp(prefix=_LEFT_OVER, dir=root.parent))
            try:
                await _npm(npm, fresh, report)
                _check(fresh, needed)
                (fresh / MARKER).write_text(_lock_digest(), encoding="ascii")
                report(Progress(what="putting it in place"))
                await to_the_end(asyncio.to_thread(_put_in_place, fresh, root))
            finally:
                await to_the_end(asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True))
    log.info("installed the CLIs", directory=str(root))
    return True


async def _npm(npm: str, fresh: Path, report: Report) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(LOCKED / name, fresh / name)
    process = await Process.start(
        [npm, *_ARGUMENTS], environment=npm_environment(), directory=fresh
    )
    try:
        process.close_stdin()
        ended = asyncio.create_task(_drained(process))
        try:
            while not ended.done():
                written = await asyncio.to_thread(_size_bytes, fresh)
                report(Progress(what="fetching the CLIs", written_bytes=written))
                await asyncio.wait({ended}, timeout=_REPORT_SECONDS)
        finally:
            ended.cancel()
            await asyncio.wait({ended})
    finally:
        await process.stop()
    code = ended.result()
    if code != 0:
        said = (
            line.removeprefix("npm error").strip() for line in process.stderr_tail().splitlines()
        )
        reason = " ".join([line for line in said if line][:4]).rstrip(".")
        raise SetupProblem(
            f"npm could not install the CLIs (exit code {code}): {reason or 'it said nothing'}.",
            remedy="Check the network and npm's settings (proxy, registry), then try again. "
            "What was installed before is as it was.",
            reason="npm_failed",
        )


async def _drained(process: Process) -> int:
    async for _ in process.lines():
        pass
    return await process.wait()


def _check(fresh: Path, needed: Iterable[Program]) -> None:
    programs = Programs(fresh)
    missing = [program.package for program in needed if programs.version(program) is None]
    if programs.node_version() is None:
        missing.append("Node")
    missing += [name for name in BROWSER_PARTS if programs.browser_part_version(name) is None]
    if missing:
        raise SetupProblem(
            f"npm ended well, but did not install for this machine: {', '.join(missing)}.",
            remedy="Try again; if it repeats, see whether npm is told to omit optional packages.",
            reason="npm_incomplete",
        )


def _put_in_place(fresh: Path, root: Path) -> None:
    # mkdtemp's 0700 would keep sandboxes of another user out.
    fresh.chmod(0o755)
    if root.exists():
        old = Path(tempfile.mkdtemp(prefix=_LEFT_OVER, dir=root.parent))
        root.replace(old)
        fresh.replace(root)
        shutil.rmtree(old, ignore_errors=True)
    else:
        fresh.replace(root)


def _refuse_foreign(root: Path) -> None:
    """What stands there is going to be removed, so it must be ours."""
    if not root.exists() or (root / MARKER).exists() or not any(root.iterdir()):
        return
    raise SetupProblem(
        f"{root} holds something that polydev has not installed; it is left as it is.",
        remedy="Remove it, or set POLYDEV_PROGRAMS to another directory.",
        reason="programs_not_ours",
    )


def _remove_left_overs(parent: Path) -> None:
    """Of an installer that was killed; the caller is the only one at work."""
    for path in parent.glob(f"{_LEFT_OVER}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.asynccontextmanager
async def _alone(parent: Path, report: Report) -> AsyncIterator[None]:
    descriptor = os.open(parent / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(Progress(what="waiting for another installation"))
                # flock tells nobody when a lock becomes free; a blocking one cannot be cancelled.
                await asyncio.sleep(_REPORT_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except PolydevError:
        raise
    except TimeoutError as error:
        raise SetupProblem(
            f"The CLIs were not installed within {_WHOLE_SECONDS / 60:g} minutes.",
            remedy="Check the network, then try again.",
            reason="npm_late",
        ) from error
    except OSError as error:
        raise SetupProblem(
            f"The CLIs cannot be installed in {root}: {error.strerror or error}.",
            remedy="Make room, or give this account access; POLYDEV_PROGRAMS names another place.",
            reason="programs_unusable",
        ) from error


def _size_bytes(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):  # npm moves files about
                total += (Path(folder) / name).lstat().st_size
    return total


@cache
def _lock_digest() -> str:
    return hashlib.sha256((LOCKED / "package-lock.json").read_bytes()).hexdigest()
