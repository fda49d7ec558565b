"""An unmodified CLI whose every name leads to a simulator, and what a test does with it.

It has a home of its own and an environment of its own. A "browser" that only tells which address
it was given stands in place of BROWSER and of xdg-open. Every wait is bounded by WITHIN seconds.
"""

import asyncio
import json
import os
import pty
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from polydev.bench.proxy import proxy
from polydev.config import default_data_directory
from polydev.core.programs import Programs, npm_platform
from polydev.providers.registry import provider_named
from polydev.sim import Simulator

WITHIN = 30.0
_BROWSER = '#!/bin/sh\nprintf "%s\\n" "$1" > "$HOME/opened"\n'
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?<>]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def programs() -> Programs:
    """Where the vendors' CLIs are installed."""
    named = os.environ.get("POLYDEV_PROGRAMS")
    return Programs(Path(named) if named else default_data_directory() / "programs")


def argv_of(provider: str) -> list[str]:
    """How the provider's CLI is started."""
    program = provider_named(provider).program
    file = programs().file(program)
    if not file.exists():
        raise AssertionError(f"{program.package} is not installed: run `make setup`")
    node = programs().root / f"node_modules/node-{npm_platform()}/bin/node"
    return [str(node), str(file)] if program.needs_node else [str(file)]


class Home:
    """A home directory, and the environment that leads from it to the simulator."""

    def __init__(self, path: Path, sim: Simulator, proxy_url: str) -> None:
        self.path = path
        (path / "work").mkdir(parents=True)
        browser = path / "bin" / "xdg-open"
        browser.parent.mkdir()
        browser.write_text(_BROWSER)
        browser.chmod(0o755)
        os.mkfifo(path / "opened")
        # Open for both ends, so that neither opening nor reading depends on the other side.
        self._opened = os.open(path / "opened", os.O_RDWR | os.O_NONBLOCK)
        self.environment = {
            "HOME": str(path),
            "PATH": f"{browser.parent}:/usr/bin:/bin",
            "BROWSER": str(browser),
            **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), proxy_url),
            "NO_PROXY": "localhost,127.0.0.1",
            "NODE_EXTRA_CA_CERTS": str(sim.ca),
            "SSL_CERT_FILE": str(sim.ca),
            "CODEX_CA_CERTIFICATE": str(sim.ca),
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "GEMINI_CLI_NO_RELAUNCH": "true",
        }

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    async def opened(self) -> str:
        """The address that the CLI wanted to open in a browser."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._opened, readable.set)
        try:
            async with asyncio.timeout(WITHIN):
                await readable.wait()
            return os.read(self._opened, 65536).decode().strip()
        finally:
            loop.remove_reader(self._opened)

    def close(self) -> None:
        os.close(self._opened)


@asynccontextmanager
async def home(directory: Path, sim: Simulator) -> AsyncIterator[Home]:
    async with proxy(sim.port) as url:
        made = Home(directory, sim, url)
        try:
            yield made
        finally:
            made.close()


class Cli:
    """One running CLI; `said` is all it has written, on either stream, without escape codes."""

    def __init__(
        self,
        home: Home,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        terminal: bool = False,
    ) -> None:
        self._home = home
        self._argv = argv
        self._terminal = terminal
        self._environment = {**home.environment, **(environment or {})}
        self._raw = b""
        self._heard = asyncio.Event()
        self._readers: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process
        self._master = -1

    async def __aenter__(self) -> Self:
        streams = [asyncio.subprocess.PIPE] * 3
        if self._terminal:
            self._master, slave = pty.openpty()
            streams = [slave] * 3
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            env=self._environment,
            cwd=self._home.path / "work",
            start_new_session=True,
        )
        if self._terminal:
            os.close(slave)
            os.set_blocking(self._master, False)
            asyncio.get_running_loop().add_reader(self._master, self._read_terminal)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                self._readers.append(asyncio.create_task(self._read(stream)))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.gather(*self._readers)
        if self._terminal:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)

    @property
    def said(self) -> str:
        return _ESCAPES.sub("", self._raw.decode("utf-8", "replace"))

    async def says(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """The first match in what is said, from the offset `after`. AssertionError when late."""
        try:
            async with asyncio.timeout(WITHIN):
                while not (found := re.search(pattern, self.said[after:])):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"never said {pattern!r}, but:\n{self.said}") from None
        return found

    async def answer(self, id: int) -> dict[str, Any]:
        """The JSON-RPC answer with this id."""
        found = await self.says(rf'\{{(?=[^\n]*"id":{id}\b)[^\n]*\}}(?=\n)')
        answer: dict[str, Any] = json.loads(found[0])
        return answer

    def type(self, text: str) -> None:
        if self._terminal:
            os.write(self._master, text.encode())
        else:
            assert self._process.stdin is not None
            self._process.stdin.write(text.encode())

    def call(self, id: int, method: str, **params: Any) -> None:
        self.type(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        self.type("\n")

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN):
            status = await self._process.wait()
            await asyncio.gather(*self._readers)
        return status

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(65536):
            self._hear(piece)

    def _read_terminal(self) -> None:
        try:
            self._hear(os.read(self._master, 65536))
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)

    def _hear(self, piece: bytes) -> None:
        self._raw += piece
        self._heard.set()
