"""The directory that holds one directory per sandbox, on the host: its sockets and, for `none`,
its files. Both are 0700.
"""

import asyncio
import os
import secrets
import shutil
import socket
from pathlib import Path

import structlog

from polydev.errors import SandboxUnavailable

log = structlog.get_logger()

_BACKLOG = 256
# sizeof(sun_path) less the closing NUL.
SOCKET_PATH_LIMIT = 107


class SandboxDirectory:
    """Makes, and removes, the sandboxes' own directories below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Raises SandboxUnavailable when it cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def make(self) -> Path:
        """A fresh directory; its name is the sandbox's id."""
        path = self.path / secrets.token_hex(8)
        try:
            path.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise _unusable(self.path, error) from error
        return path

    async def remove(self, path: Path) -> None:
        """Removes one of them. What cannot be removed is logged, and left to the next reap."""
        await asyncio.to_thread(_remove, path)

    def left_over(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []


def listen_on_socket_file(path: Path) -> socket.socket:
    """A listening unix socket at `path`, however long that path is."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            listener.bind(str(path))
        else:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _unusable(path.parent, error) from error
    return listener


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # A CLI may have taken itself the right to its own directories.
        for parent, directories, _ in os.walk(path):
            for name in directories:
                child = Path(parent, name)
                if not child.is_symlink() and not os.access(child, os.R_OK | os.W_OK | os.X_OK):
                    child.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    if path.exists():
        log.warning("a sandbox's directory could not be removed", path=str(path))


def _unusable(path: Path, error: OSError) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"{path} cannot hold a sandbox: {error.strerror or error}.",
        remedy="Free space there, or let the user that runs polydev write to it.",
        reason="directory_unusable",
    )
