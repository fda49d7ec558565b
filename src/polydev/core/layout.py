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


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """The data directory, made if need be and held by this process alone.

    Raises SetupProblem when it cannot be made, or another process holds it.
    """
    try:
        layout.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupProblem(
            f"The data directory {layout.data} cannot be used: {error.strerror}.",
            remedy="Set POLYDEV_DATA to a directory that this account may write to.",
        ) from error
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
