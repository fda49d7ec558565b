"""What lies where in the data directory, and the lock on it.

One gateway, or one command that changes what is kept, works on a data directory at a time. The
lock goes with the process, however it ends.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polydev.config import Settings
from polydev.errors import SetupProblem

_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies where in the data directory."""

    data: Path
    programs_elsewhere: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        return cls(settings.data, settings.programs)

    @property
    def lock(self) -> Path:
        return self.data / "gateway.lock"

    @property
    def owners_socket(self) -> Path:
        return self.data / "gateway.sock"

    @property
    def programs(self) -> Path:
        return self.programs_elsewhere or self.data / "programs"

    @property
    def authority(self) -> Path:
        return self.data / "authority"

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    @property
    def sandboxes(self) -> Path:
        return self.data / "sandboxes"


def make(layout: Layout) -> None:
    """Raises SetupProblem when the data directory cannot be made."""
    try:
        layout.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(layout.data, error) from error


@contextlib.contextmanager
def address_of(socket: Path) -> Iterator[str]:
    """A path of a unix socket, for as long as the block: its own may have only 107 bytes.

    Raises SetupProblem when its directory cannot be opened.
    """
    if not _DESCRIPTORS.is_dir():
        yield str(socket)  # macOS
        return
    try:
        directory = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(socket.parent, error) from error
    try:
        yield str(_DESCRIPTORS / str(directory) / socket.name)
    finally:
        os.close(directory)


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """The data directory, made if need be and held by this process alone.

    Raises SetupProblem when it cannot be made, or another process holds it.
    """
    make(layout)
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(layout.data, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupProblem(
                f"Another polydev works on {layout.data}.",
                remedy="Use that one, or set POLYDEV_DATA to another directory.",
                reason="data_directory_in_use",
            ) from error
        yield
    finally:
        os.close(descriptor)


def in_use(layout: Layout) -> bool:
    """Whether another process holds the data directory. Raises OSError."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _unusable(data: Path, error: OSError) -> SetupProblem:
    return SetupProblem(
        f"The data directory {data} cannot be used: {error.strerror}.",
        remedy="Set POLYDEV_DATA to a directory that this account may write to.",
    )
