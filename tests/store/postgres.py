"""A throwaway PostgreSQL for a test session: the distribution's binaries, a unix socket, no port.

To use it elsewhere: `from tests.store.postgres import postgres_cluster, postgres_url` in a
conftest. `postgres_url` is an empty database for one test. Where PostgreSQL is not
installed the test fails and says so. The server dies with the test process.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_READY = "ready to accept connections"
_START_SECONDS = 60
_USER = "polydev"
_DATABASE = "test"
_CUT_OFF = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
_INITDB = ("-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
_SERVER = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60")


@dataclass(frozen=True)
class Cluster:
    binaries: Path
    socket: Path

    def empty(self, name: str) -> None:
        """As fresh as a new database, at a tenth of the time that making one takes."""
        self.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", name, "-c", _CUT_OFF, "-c", _EMPTY)

    def url(self, name: str) -> str:
        return f"postgresql://{_USER}@/{name}?host={self.socket}"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.binaries / program, "-h", self.socket, "-U", _USER, *arguments],
            check=True,
            capture_output=True,
            timeout=_START_SECONDS,
        )


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    binaries = _binaries()
    # Not pytest's directory: a socket's path has at most 107 bytes, and the server's user must
    # be able to walk to it.
    directory = Path(tempfile.mkdtemp(prefix="polydev-pg-"))
    try:
        prefix = _as_unprivileged(directory)
        subprocess.run(
            [*prefix, binaries / "initdb", "-D", directory / "data", *_INITDB],
            check=True,
            capture_output=True,
            timeout=_START_SECONDS,
            cwd=directory,
        )
        server = subprocess.Popen(
            [*prefix, binaries / "postgres", "-D", directory / "data", "-k", directory, *_SERVER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
        )
        try:
            with Drained(server):
                cluster = Cluster(binaries, directory)
                cluster.run("createdb", _DATABASE)
                yield cluster
                server.send_signal(signal.SIGINT)  # "fast" shutdown
                server.wait(_START_SECONDS)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    postgres_cluster.empty(_DATABASE)
    return postgres_cluster.url(_DATABASE)


def _binaries() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0),
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None or shutil.which("initdb") is None:
        pytest.fail("PostgreSQL is not installed. Run: apt-get install postgresql")
    return Path(on_path).parent


def _as_unprivileged(directory: Path) -> list[str]:
    """Words before a command: it ends together with this process, and is not root."""
    words = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        account = names.get("postgres") or names["nobody"]
        os.chown(directory, account.pw_uid, account.pw_gid)
        words += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return words


class Drained:
    """Waits for the server's word that it is ready, then keeps its log from filling the pipe."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server
        self._lines: deque[str] = deque(maxlen=50)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._ready.wait(_START_SECONDS)
        if self._server.poll() is not None or not self._ready.is_set():
            pytest.fail("PostgreSQL did not start:\n" + "".join(self._lines))

    def __exit__(self, *_: object) -> None:
        if self._server.poll() is None:
            self._server.kill()
        self._thread.join(_START_SECONDS)

    def _read(self) -> None:
        assert self._server.stderr is not None
        with self._server.stderr as stream:
            for line in stream:
                self._lines.append(line)
                if _READY in line:
                    self._ready.set()
        self._ready.set()
