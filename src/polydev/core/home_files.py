"""Files in a sandbox's HOME, read from outside, and noticed when the CLI writes them.

What lies there is the CLI's. No symbolic link is followed at any step of a path, nothing but plain
files of a bounded size is read.
"""

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path, PurePosixPath

from watchfiles import awatch

from polydev.secret import Secret

_FILE_LIMIT_BYTES = 2**20
_LOOK_AGAIN_SECONDS = 1.0  # should the kernel's notice be lost
_SETTLE_MILLISECONDS = 20  # notices that come together are one


def read_file(home: Path, path: PurePosixPath) -> Secret[bytes] | None:
    """A plain file under `home`; None when there is none, or it is no such file."""
    try:
        with ExitStack() as opened:
            directory = _directory(opened, home, path.parent)
            descriptor = os.open(
                path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory
            )
            opened.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = os.read(descriptor, _FILE_LIMIT_BYTES + 1)
    except OSError:
        return None
    return Secret(content) if len(content) <= _FILE_LIMIT_BYTES else None


def read_object(home: Path, path: PurePosixPath) -> Secret[bytes] | None:
    """The same, once it holds a whole JSON object: CLIs write some of their files in place."""
    content = read_file(home, path)
    try:
        is_whole = content is not None and isinstance(json.loads(content.reveal()), dict)
    except ValueError:
        return None
    return content if is_whole else None


def make_directories(home: Path, paths: Iterable[PurePosixPath]) -> None:
    """The directories of these files, so that they can be watched before the CLI makes them."""
    for path in paths:
        with ExitStack() as opened:
            _directory(opened, home, path.parent, make=True)


async def changes(home: Path, paths: Iterable[PurePosixPath]) -> AsyncGenerator[None, None]:
    """Yields at once, and whenever something in the files' directories may have changed."""
    with ExitStack() as opened:
        parents = {path.parent for path in paths}
        # By descriptor: a path through /proc/PID/root would be resolved to one of the host's.
        watched = [f"/proc/self/fd/{_directory(opened, home, parent)}" for parent in parents]
        if not Path("/proc/self/fd").is_dir():
            watched = [str(home / parent) for parent in parents]
        async with aclosing(_noticed(*watched, recursive=False)) as seen:
            async for _ in seen:
                yield


async def arrivals(
    directory: Path, names: Sequence[PurePosixPath]
) -> AsyncGenerator[PurePosixPath, None]:
    """Which of the files is there as a whole JSON object, whenever something changes."""
    async with aclosing(_noticed(str(directory), recursive=True)) as seen:
        async for _ in seen:
            for name in names:
                if read_object(directory, name) is not None:
                    yield name


async def _noticed(*paths: str, recursive: bool) -> AsyncGenerator[None, None]:
    """Yields once it watches, and then at every change; now and then also without one."""
    seen = awatch(
        *paths,
        step=_SETTLE_MILLISECONDS // 2,
        debounce=_SETTLE_MILLISECONDS,
        rust_timeout=int(_LOOK_AGAIN_SECONDS * 1000),
        yield_on_timeout=True,
        recursive=recursive,
        watch_filter=None,
    )
    async with aclosing(seen):
        following = asyncio.ensure_future(anext(seen))
        try:
            # Its first step sets the watch up; from then on nothing is missed.
            await asyncio.sleep(0)
            yield
            while True:
                await following
                following = asyncio.ensure_future(anext(seen))
                yield
        finally:
            following.cancel()
            await asyncio.wait({following})


def _directory(opened: ExitStack, home: Path, path: PurePosixPath, *, make: bool = False) -> int:
    """A descriptor of a directory under `home`. Raises OSError."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    opened.callback(os.close, descriptor)
    for part in path.parts:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=descriptor)
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        opened.callback(os.close, descriptor)
    return descriptor
