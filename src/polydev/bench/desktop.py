"""How soon a remote desktop can be used, how it feels, and what one on standby costs."""

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from polydev.bench.figures import Figure, median_ms, p90_ms, spread
from polydev.bench.stage import Stage
from polydev.config import DesktopSettings, EgressSettings, Settings
from polydev.core.desktops import Streams, missing_packages
from polydev.core.logins import Logins
from polydev.desktop.rfb import Picture, Screen
from polydev.errors import SetupProblem
from polydev.gateway import running_gateway
from polydev.models.accounts import User
from polydev.models.desktops import Window
from polydev.models.logins import Login, LoginMethod, LoginState

_COLD_LIMIT_MS, _STANDBY_LIMIT_MS, _FRAME_LIMIT_MS, _KEY_LIMIT_MS = 5000.0, 1000.0, 150.0, 40.0
_SECONDS = 60.0
_IDLE_SECONDS, _IDLE_TIMES = 5.0, 4
_LOOK_SECONDS = 0.05
_STILL_SECONDS = 0.3
_KEYS = 40
_PROVIDER = "claude"  # its command asks for a line, which shows what is typed


async def desktop(directory: Path, programs: Path, stage: Stage) -> AsyncIterator[Figure]:
    """Nothing where what a desktop needs is not installed."""
    if missing_packages():
        return
    for standby, limit in ((0, _COLD_LIMIT_MS), (1, _STANDBY_LIMIT_MS)):
        async with _gateway(directory / f"standby-{standby}", programs, stage, standby) as ready:
            logins, user, cost = ready
            async for figure in _used(logins, user, "from a standby" if standby else "cold", limit):
                yield figure
            if cost is not None:
                yield cost


async def _used(logins: Logins, user: User, how: str, limit: float) -> AsyncIterator[Figure]:
    login = await logins.start(user, _PROVIDER, LoginMethod.REMOTE_DESKTOP)
    usable = await _until_usable(logins, user, login)
    yield Figure(
        name=f"desktop asked for → usable, {how}",
        value=(usable.changed_at - usable.created_at).total_seconds() * 1000,
        unit="ms",
        limit=limit,
        detail="the command runs in the terminal, which has the keyboard and is on the screen",
    )
    began = time.perf_counter()
    streams = await logins.screen(user, login.id)
    screen = await Screen.open(*streams)
    await screen.picture()
    frame = time.perf_counter() - began
    yield Figure(
        name=f"first full frame of 1920x1080, {how}",
        value=frame * 1000,
        unit="ms",
        limit=_FRAME_LIMIT_MS,
        detail="from opening the connection; without the browser's painting",
    )
    # The command's link raises the browser over the terminal when it is there.
    async with asyncio.timeout(_SECONDS):
        while "visited" not in [line.text for line in await logins.log(user, login.id)]:
            await screen.picture(changed=True)
    await logins.raise_window(user, login.id, Window.TERMINAL)
    keys = await _key_presses(screen, streams)
    yield Figure(
        name=f"key press → changed pixels, p90, {how}",
        value=p90_ms(keys),
        unit="ms",
        limit=_KEY_LIMIT_MS,
        detail=f"{spread(keys)}, median {median_ms(keys):.1f} ms",
    )
    streams[1].close()
    await logins.cancel(user, login.id)


@asynccontextmanager
async def _gateway(
    data: Path, programs: Path, stage: Stage, standby: int
) -> AsyncIterator[tuple[Logins, User, Figure | None]]:
    """In this process; with what its desktop on standby costs."""
    settings = Settings(
        data=data,
        programs=programs,
        egress=EgressSettings(
            redirect=f"127.0.0.1:{stage.simulator}", upstream_ca=stage.directory / "ca.pem"
        ),
        desktop=DesktopSettings(standby=standby),
    )
    before = set(_descendants(os.getpid()))
    async with running_gateway(settings) as gateway:
        logins = gateway.services.logins
        cost = None
        if standby:
            await _true(lambda: logins.desktops_waiting > 0)
            cost = await _cost(set(_descendants(os.getpid())) - before - {gateway.egress.pid})
        yield logins, await gateway.services.accounts.user_named(None), cost


async def _cost(processes: set[int]) -> Figure:
    shares = []
    for _ in range(_IDLE_TIMES):  # at first its browser is still busy with itself
        used = _cpu_seconds(processes)
        await asyncio.sleep(_IDLE_SECONDS)
        shares.append((_cpu_seconds(processes) - used) / _IDLE_SECONDS)
    share = min(shares)
    return Figure(
        name="a desktop on standby, memory",
        value=sum(_proportional_mib(pid) for pid in processes),
        unit="MiB",
        limit=None,
        detail=f"{len(processes)} processes; {share:.1%} of a core when idle",
    )


async def _true(fact: Callable[[], bool]) -> None:
    for _ in range(int(_SECONDS / _LOOK_SECONDS)):
        if fact():
            return
        await asyncio.sleep(_LOOK_SECONDS)
    raise SetupProblem("No desktop on standby came up.")


async def _until_usable(logins: Logins, user: User, login: Login) -> Login:
    async with asyncio.timeout(_SECONDS):
        async for one in await logins.follow(user, login.id):
            if one.state is LoginState.READY:
                return one
    raise SetupProblem(f"The desktop did not come up: {one.message}")


async def _key_presses(screen: Screen, streams: Streams) -> list[float]:
    """How long after each press something on the screen changed, in seconds."""
    samples = []
    for _ in range(_KEYS):
        change = await _still(screen)
        began = time.perf_counter()
        for down in (1, 0):
            streams[1].write(struct.pack(">BBHI", 4, down, 0, ord("x")))
        async with asyncio.timeout(_SECONDS):
            await change
        samples.append(time.perf_counter() - began)
    return samples


async def _still(screen: Screen) -> asyncio.Task[Picture]:
    """Once nothing changes any more: what waits for the next change."""
    while True:
        change = asyncio.create_task(screen.picture(changed=True))
        done, _ = await asyncio.wait({change}, timeout=_STILL_SECONDS)
        if not done:
            return change


def _descendants(parent: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    left = list(children.get(parent, ()))
    while left:
        pid = left.pop()
        yield pid
        left += children.get(pid, ())


def _proportional_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        return 0.0
    return 0.0


def _cpu_seconds(processes: set[int]) -> float:
    ticks = 0
    for pid in processes:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
