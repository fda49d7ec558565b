"""A real gateway as a child process, and what its owner and its people do with it."""

import asyncio
import base64
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import anthropic
import httpx
import openai

from polydev.providers.registry import provider_named
from polydev.sim import Simulator
from tests.e2e.processes import all_gone, descendants, mounts, unix_sockets

# A made-up word that goes with prompts: nothing of a prompt may reach a log line.
MARKER = "quetzalmarker"
START_SECONDS = 40
STOP_SECONDS = 30
ANSWER_SECONDS = 60


class Failed(Exception):
    """The gateway did not start. `output` is what it said."""

    def __init__(self, code: int | None, output: str) -> None:
        super().__init__(f"exit code {code}: {output}")
        self.code = code
        self.output = output


@dataclass
class Gateway:
    """`polydev up` on a data directory; may be killed, and started again on the same one."""

    data: Path
    settings: Mapping[str, str]
    url: str = ""
    first_key: str = ""
    stdout: str = ""
    _process: asyncio.subprocess.Process | None = None
    _below: frozenset[tuple[int, int]] = frozenset()
    _people: "list[Person]" = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def stderr_file(self) -> Path:
        return self.data.parent / f"{self.data.name}.stderr"

    @property
    def output(self) -> str:
        """Everything it ever wrote, over all its starts."""
        return self.stdout + self.stderr_file.read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        """Of this process only what any program needs."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        home = self.data.parent / f"{self.data.name}.home"
        home.mkdir(exist_ok=True)
        return {
            **kept,
            "HOME": str(home),
            "POLYDEV_DATA": str(self.data),
            "POLYDEV_SERVER__PORT": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.settings,
        }

    async def start(self) -> None:
        """Returns when it answers. Raises Failed."""
        with self.stderr_file.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "polydev", "up"),
                env=self.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while True:
                line = (await self._process.stdout.readline()).decode()
                self.stdout += line
                if not line:
                    raise Failed(await self._process.wait(), self.output)
                if found := re.search(r"on (http://\S+?),", line):
                    self.url = found[1]
                if found := re.search(r"first API key.*(polydev_\w+)", line):
                    self.first_key = found[1]
                if line.startswith("ANTHROPIC_BASE_URL"):
                    break
        async with httpx.AsyncClient(timeout=START_SECONDS) as client:
            assert (await client.get(f"{self.url}/healthz")).status_code == 200

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL. What it leaves behind is for the caller to look at."""
        await self._end(signal.SIGKILL)

    async def close(self) -> None:
        """Ends it if it still runs, and asserts that nothing of it is left."""
        for person in self._people:
            await person.close()
        if self._process is not None and self._process.returncode is None:
            code = await self.stop()
            assert code == 0, self.output
        await all_gone(self._below)
        sandboxes = self.data / "sandboxes"
        assert not sandboxes.exists() or not list(sandboxes.iterdir())
        assert unix_sockets(self.data) == []
        assert mounts(self.data) == []

    def processes(self) -> frozenset[tuple[int, int]]:
        """What runs below it now."""
        found = descendants(self.pid)
        self._below |= found
        return found

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self.processes()
        self._process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"the gateway did not stop: {self.output}") from None
        finally:
            assert self._process.stdout is not None
            self.stdout += (await self._process.stdout.read()).decode()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- what its owner does ----------------------------------------------------------------

    async def command(self, *arguments: str, stdin: str = "") -> "Said":
        """`polydev …`, as its owner gives it beside the running gateway."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "polydev", *arguments),
            env=self.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(ANSWER_SECONDS):
            output, errors = await process.communicate(stdin.encode())
        assert process.returncode is not None
        said = Said(process.returncode, output.decode(), errors.decode())
        assert "Traceback" not in said.errors
        return said

    def owners_client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.data / "gateway.sock"))
        return httpx.AsyncClient(transport=transport, base_url="http://polydev", timeout=120)

    async def owner(self, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        async with self.owners_client() as client:
            return await client.request(method, path, json=body, params=query)

    async def person(self, name: str, **limits: int) -> "Person":
        """A new user with a key."""
        answer = await self.owner("POST", "/owner/users", {"name": name})
        assert answer.status_code == 201, answer.text
        person = Person(gateway=self, name=name, key=await self.key(name, **limits))
        self._people.append(person)
        return person

    async def key(self, user: str, **limits: int) -> str:
        answer = await self.owner("POST", "/owner/keys", {"user": user, **limits})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    async def connect(
        self,
        person: "Person",
        provider: str,
        credential: bytes,
        *,
        follow: Path | None = None,
        proxy: str | None = None,
    ) -> httpx.Response:
        file = provider_named(provider).credential_file
        return await self.owner(
            "POST",
            "/owner/connections",
            {
                "user": person.name,
                "provider": provider,
                "files": {str(file): base64.b64encode(credential).decode()},
                "ownership": "follow" if follow else "take",
                "source": str(follow) if follow else None,
                "proxy": proxy,
            },
        )

    async def connected(
        self, person: "Person", provider: str, credential: bytes, *, follow: Path | None = None
    ) -> dict[str, Any]:
        """The connection's record."""
        answer = await self.connect(person, provider, credential, follow=follow)
        assert answer.status_code == 201, (answer.text, self.output)
        record: dict[str, Any] = answer.json()["connection"]
        return record

    async def connection(self, id: str) -> dict[str, Any]:
        records = (await self.owner("GET", "/owner/connections", all=True)).json()
        found: dict[str, Any] = next(record for record in records if record["id"] == id)
        return found


@dataclass
class Said:
    """How a command ended: its exit code, what it printed, what it complained of."""

    code: int
    output: str
    errors: str


@dataclass
class Person:
    """Someone with a key, and the SDKs that they use. None of these tries anything again."""

    gateway: Gateway
    name: str
    key: str
    closers: list[Any] = field(default_factory=list)

    def openai(self) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(
            base_url=f"{self.gateway.url}/v1",
            api_key=self.key,
            max_retries=0,
            timeout=ANSWER_SECONDS,
        )
        self.closers.append(client.close)
        return client

    def anthropic(self) -> anthropic.AsyncAnthropic:
        client = anthropic.AsyncAnthropic(
            base_url=self.gateway.url, api_key=self.key, max_retries=0, timeout=ANSWER_SECONDS
        )
        self.closers.append(client.close)
        return client

    def http(self) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            base_url=self.gateway.url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=ANSWER_SECONDS,
            limits=httpx.Limits(max_connections=None),
        )
        self.closers.append(client.aclose)
        return client

    async def close(self) -> None:
        while self.closers:
            await self.closers.pop()()


def simulated(sim: Simulator) -> dict[str, str]:
    """Settings by which a gateway's egress reaches the simulator in place of the providers."""
    return {
        "POLYDEV_EGRESS__REDIRECT": sim.redirect,
        "POLYDEV_EGRESS__UPSTREAM_CA": str(sim.ca),
        # Tests ask more than any person would.
        "POLYDEV_KEYS__REQUESTS_PER_MINUTE": "100000",
        "POLYDEV_KEEPER__REST_SECONDS": "0",
    }


def assert_silent(gateway: Gateway, secrets: Mapping[str, str]) -> None:
    """That nothing of `secrets` (what it is → value), and no prompt, was ever written out."""
    said = gateway.output
    assert MARKER not in said, "a prompt was logged"
    for what, value in secrets.items():
        assert value not in said.replace(f"shown only now: {gateway.first_key}", ""), (
            f"{what} was logged"
        )
