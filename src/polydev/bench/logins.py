"""How long a person waits around a login: for the link, and after they have logged in."""

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from polydev.bench.figures import Figure, median_error_ms, median_ms, spread
from polydev.bench.stage import Stage
from polydev.core.home_files import changes, make_directories, read_object
from polydev.core.layout import address_of
from polydev.errors import SetupProblem
from polydev.sim.person import Person

_FILE = PurePosixPath(".cli/login.json")
_NOTICED_LIMIT_MS = 100.0
_CONNECTED_LIMIT_MS = 1000.0
_AT_ONCE = 20
_LOGIN_SECONDS = 120.0
# Nobody opens a page, logs in and pastes a code sooner. Meanwhile the CLI that will prove the login
# starts.
_PERSON_SECONDS = 3.0
# One that asks nothing of a browser on this machine.
_METHODS = {"claude": "paste_code", "codex": "device_code", "gemini": "paste_code"}


async def noticing(directory: Path, times: int = 50) -> AsyncIterator[Figure]:
    """From a credential file put in place to its being read."""
    samples = []
    for _ in range(times):
        with tempfile.TemporaryDirectory(dir=directory) as name:
            samples.append(await _noticed(Path(name)))
    yield Figure(
        name="credential written → noticed",
        value=median_ms(samples),
        unit="ms",
        limit=_NOTICED_LIMIT_MS,
        error=median_error_ms(samples),
        detail=spread(samples),
    )


async def logins(stage: Stage, providers: list[str], times: int = 5) -> AsyncIterator[Figure]:
    """Logins of each provider one after the other; then many at once."""
    with address_of(stage.data / "gateway.sock") as address:
        transport = httpx.AsyncHTTPTransport(uds=address)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://polydev", timeout=30) as owner,
            Person(f"127.0.0.1:{stage.simulator}", stage.directory / "ca.pem") as person,
            httpx.AsyncClient(
                base_url=f"https://localhost:{stage.simulator}",
                verify=ssl.create_default_context(cafile=str(stage.directory / "ca.pem")),
            ) as simulator,
        ):
            turned = await simulator.put("/_sim/knobs", json={"device_poll_seconds": 1})
            turned.raise_for_status()
            for provider in providers:
                if provider in _METHODS:
                    seen = [
                        await _log_in(owner, person, provider, takes=_PERSON_SECONDS)
                        for _ in range(times)
                    ]
                    for figure in _figures(provider, seen):
                        yield figure
            began = time.perf_counter()
            users = [await _user(owner) for _ in range(_AT_ONCE)]
            await asyncio.gather(*(_log_in(owner, person, "codex", user) for user in users))
            yield Figure(
                name=f"{_AT_ONCE} logins at once (codex)",
                value=time.perf_counter() - began,
                unit="s",
                limit=None,
                detail="from the first that was asked for to the last that was connected",
            )


def _figures(provider: str, seen: list[dict[str, datetime]]) -> list[Figure]:
    shown = [_between(one, "requested", "waiting_for_user") for one in seen]
    connected = [_between(one, "credential_seen", "connected") for one in seen]
    return [
        Figure(
            name=f"{provider}: login asked for → link shown",
            value=median_ms(shown),
            unit="ms",
            limit=None,
            detail=spread(shown),
        ),
        Figure(
            name=f"{provider}: credential noticed → connected",
            value=median_ms(connected),
            unit="ms",
            limit=_CONNECTED_LIMIT_MS,
            error=median_error_ms(connected),
            detail=f"{spread(connected)}; a live call by the CLI is in it; the person took "
            f"{_PERSON_SECONDS:g} s to log in",
        ),
    ]


async def _noticed(home: Path) -> float:
    make_directories(home, [_FILE])
    async with aclosing(changes(home, [_FILE])) as seen:
        await anext(seen)
        (home / "new").write_bytes(b"{}")
        began = time.perf_counter()
        os.replace(home / "new", home / _FILE)  # noqa: PTH105 - nothing between it and the clock
        async for _ in seen:
            if read_object(home, _FILE):
                break
    return time.perf_counter() - began


async def _user(owner: httpx.AsyncClient) -> str:
    name = f"login {time.monotonic_ns()}"
    (await owner.post("/owner/users", json={"name": name})).raise_for_status()
    return name


async def _log_in(
    owner: httpx.AsyncClient,
    person: Person,
    provider: str,
    user: str = "",
    takes: float = 0.0,
) -> dict[str, datetime]:
    """When the login came to each of its states. Raises SetupProblem when it fails.

    takes: the seconds from the link to the person's being done with it.
    """
    query = {"user": user} if user else {}
    body = {"provider": provider, "method": _METHODS[provider], **query}
    asked = await owner.post("/owner/logins", json=body)
    asked.raise_for_status()
    path = f"/owner/logins/{asked.json()['id']}"
    times = {"requested": datetime.fromisoformat(asked.json()["created_at"])}
    async with asyncio.timeout(_LOGIN_SECONDS):
        async with owner.stream("GET", f"{path}/events", params=query) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data: "):
                    continue
                login: dict[str, Any] = json.loads(line.removeprefix("data: "))
                times[login["state"]] = datetime.fromisoformat(login["changed_at"])
                if login["state"] == "waiting_for_user":
                    await asyncio.sleep(takes)
                    await _be_the_person(owner, person, path, query, login)
    if "connected" not in times:
        raise SetupProblem(f"A login to {provider} failed: {login['message']}")
    return times


async def _be_the_person(
    owner: httpx.AsyncClient,
    person: Person,
    path: str,
    query: dict[str, str],
    login: dict[str, Any],
) -> None:
    email = f"{login['user_id']}@{login['provider']}.example"
    if login["user_code"]:
        await person.allow_device(login["link"], login["user_code"], email=email)
        return
    seen = await person.allow(login["link"], email=email)
    answer = await owner.post(f"{path}/answer", json={"text": seen.code}, params=query)
    answer.raise_for_status()


def _between(times: dict[str, datetime], first: str, last: str) -> float:
    return (times[last] - times[first]).total_seconds()
