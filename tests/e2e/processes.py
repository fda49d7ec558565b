"""What of this machine's processes, sockets and mounts belongs to a gateway under test."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> frozenset[tuple[int, int]]:
    """Every process below `pid`, as (process id, start time): the pair never comes again."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for child, parent, started in _all():
        parents.setdefault(parent, []).append((child, started))
    found: set[tuple[int, int]] = set()
    waiting = [pid]
    while waiting:
        for process in parents.get(waiting.pop(), ()):
            if process not in found:
                found.add(process)
                waiting.append(process[0])
    return frozenset(found)


def alive(processes: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """Those of them that still run; a zombie, which nothing is left of, does not."""
    return processes & {(child, started) for child, _, started in _all()}


async def all_gone(processes: frozenset[tuple[int, int]], within: float = 15) -> None:
    """Waits until none of them is left. TimeoutError."""
    async with asyncio.timeout(within):
        while alive(processes):
            await asyncio.sleep(0.02)


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def in_namespace_of_their_own(processes: frozenset[tuple[int, int]]) -> list[int]:
    """Those that run inside a sandbox: not in this machine's network namespace."""
    own = (PROC / "self/ns/net").readlink()
    found = []
    for pid, _ in processes:
        with contextlib.suppress(OSError):
            if (PROC / str(pid) / "ns/net").readlink() != own:
                found.append(pid)
    return found


def unix_sockets(directory: Path) -> list[str]:
    """Paths of unix sockets under `directory` that some process still has open."""
    lines = (PROC / "net/unix").read_text().splitlines()[1:]
    return [line for line in lines if str(directory) in line]


def mounts(directory: Path) -> list[str]:
    """Mounts of this machine under `directory`."""
    lines = (PROC / "self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


def readable_bytes(pid: int, most_file_bytes: int = 4 * 2**20) -> Iterator[tuple[str, bytes]]:
    """What a process has where a secret could lie: environment, arguments, files, descriptors.

    Files: everything under its HOME, its workspace, /tmp, /run, /etc and /dev/shm, as itself sees
    them. Descriptors: the content of regular files and of files in memory.
    """
    own = PROC / str(pid)
    for name in ("environ", "cmdline"):
        with contextlib.suppress(OSError):
            yield name, (own / name).read_bytes()
    for directory in ("home", "root", "workspace", "tmp", "run", "etc", "dev/shm", "var"):
        for path in _files(own / "root" / directory):
            with contextlib.suppress(OSError), path.open("rb") as file:
                yield str(path), file.read(most_file_bytes)
    with contextlib.suppress(OSError):
        for descriptor in (own / "fd").iterdir():
            with contextlib.suppress(OSError):
                # Only files: reading a pipe would take from its reader what it waits for.
                if not descriptor.is_file():
                    continue
                with descriptor.open("rb") as file:
                    yield str(descriptor), file.read(most_file_bytes)


def _files(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in directory.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield path


def _all() -> Iterator[tuple[int, int, int]]:
    for entry in PROC.glob("[0-9]*"):
        try:
            # The name stands in parentheses and may hold anything.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in ("Z", "X"):
            yield int(entry.name), int(fields[1]), int(fields[19])
