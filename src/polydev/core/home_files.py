"""Files and sockets in a sandbox's HOME, used from outside, and noticed when the CLI writes them.

What lies there is the CLI's. No symbolic link is followed at any step of a path, nothing but plain
files of a bounded size is read.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
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
    except (ValueError, RecursionError):
        return None
    return content if is_whole else None


def make_directories(home: Path, paths: Iterable[PurePosixPath]) -> None:
    """The directories of these files, so that they can be watched before the CLI makes them."""
    for path in paths:
        with ExitStack() as opened:
            _directory(opened, home, path.parent, make=True)


def write_file(home: Path, path: PurePosixPath, content: Secret[bytes]) -> None:
    """A new file with mode 0600, its directories with it. Raises OSError, also when it is there."""
    with ExitStack() as opened:
        directory = _directory(opened, home, path.parent, make=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(path.name, flags, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.reveal())


def connected(home: Path, path: PurePosixPath) -> socket.socket:
    """A non-blocking connection to a unix socket under `home`, never to one of the host's.

    Raises OSError when none listens there.
    """
    with ExitStack() as opened:
        directory = _directory(opened, home, path.parent)
        descriptor = os.open(path.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        opened.callback(os.close, descriptor)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            # By descriptor: a name could be made to lead elsewhere in between.
            connection.connect(f"/proc/self/fd/{descriptor}")
        except BaseException:
            connection.close()
            raise
    return connection


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
