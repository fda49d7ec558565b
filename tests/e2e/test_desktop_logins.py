"""People log in on a remote desktop: with a keyboard, a mouse and a screen, and nothing else."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from polydev.config import EgressSettings, ServerSettings, Settings
from polydev.core.desktops import missing_packages
from polydev.core.logins import Logins
from polydev.desktop.rfb import Picture
from polydev.errors import Conflict, NotFound, SandboxUnavailable
from polydev.gateway import Gateway, running_gateway
from polydev.models.accounts import User
from polydev.models.desktops import Window
from polydev.models.logins import Login, LoginMethod, LoginState
from polydev.sim import Simulator
from tests.e2e.processes import all_gone, descendants
from tests.screen import RETURN, TAB, Onlooker, keep

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.slow]

SECONDS = 90
DESKTOP = LoginMethod.REMOTE_DESKTOP
_STILL_SECONDS = 1.0


@pytest.fixture
async def gateway(sim: Simulator, programs: Path, tmp_path: Path) -> AsyncIterator[Gateway]:
    """In this process, for nobody but the page's own connection leads to a desktop."""
    if missing := missing_packages():
        pytest.fail(f"not installed: {', '.join(missing)}; run `make setup`")
    settings = Settings(
        data=tmp_path / "data",
        programs=programs,
        server=ServerSettings(port=0),
        egress=EgressSettings(redirect=sim.redirect, upstream_ca=sim.ca),
    )
    async with running_gateway(settings) as running:
        yield running
    assert not list((tmp_path / "data" / "sandboxes").iterdir())


@dataclass
class Sitting:
    """A person before the desktop of their login."""

    logins: Logins
    user: User
    login: Login
    sim: Simulator
    onlooker: Onlooker
    since: int

    async def asked(self, path: str) -> None:
        """Waits until the browser asked the provider for this path."""
        try:
            await self.sim.world.records.arrived(
                lambda records: any(
                    path in record.path for record in records if record.number > self.since
                ),
                SECONDS / 2,
            )
        except TimeoutError:
            keep(await self.onlooker.picture(), f"{self.login.provider}-never-asked")
            raise AssertionError(await self.logins.log(self.user, self.login.id)) from None

    async def still(self, name: str) -> Picture:
        """The screen, once nothing on it changes any more; kept."""
        picture = await self.onlooker.picture()
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(_STILL_SECONDS):
                    picture = await self.onlooker.screen.picture(changed=True)
        keep(picture, f"{self.login.provider}-{name}")
        # A reading that was broken off leaves the connection in the middle of a message.
        await self.onlooker.close()
        self.onlooker = await _onlooker(self.logins, self.user, self.login)
        return picture

    async def sign_in(self, email: str) -> None:
        """At the simulator's pages, in the browser that the login has open."""
        await self.still("sign-in")
        await self.onlooker.press(TAB)
        await self.onlooker.type(email)
        await self.onlooker.press(TAB)
        await self.onlooker.type("made up", enter=True)
        await self.asked("/simulator/sign-in")
        await self.still("consent")
        await self.onlooker.press(TAB)
        await self.onlooker.press(RETURN)


async def until(logins: Logins, user: User, login: Login, state: LoginState) -> Login:
    async for current in await logins.follow(user, login.id):
        if current.state is state:
            return current
        login = current
    raise AssertionError((login, await logins.log(user, login.id)))


async def _onlooker(logins: Logins, user: User, login: Login) -> Onlooker:
    return await Onlooker.at(await logins.screen(user, login.id))


@pytest.mark.providers("codex")  # in the page, all three are in tests/web
async def test_a_person_logs_in_on_a_desktop(
    gateway: Gateway, sim: Simulator, provider: str
) -> None:
    logins, user = gateway.services.logins, await gateway.services.accounts.user_named(None)
    other = await gateway.services.accounts.add_user("grace")
    before, since = descendants(os.getpid()), sim.world.records.total
    async with asyncio.timeout(SECONDS):
        login = await logins.start(user, provider, DESKTOP)
        await until(logins, user, login, LoginState.READY)
        sitting = Sitting(logins, user, login, sim, await _onlooker(logins, user, login), since)
        running = descendants(os.getpid()) - before
        for stranger in (logins.screen, logins.log):
            with pytest.raises(NotFound):
                await stranger(other, login.id)
        with pytest.raises(NotFound):
            await logins.raise_window(other, login.id, Window.TERMINAL)
        shown = await until(logins, user, login, LoginState.WAITING_FOR_USER)
        assert shown.link.startswith("https://")
        await sitting.asked(urlsplit(shown.link).path)

        email = f"ada@{provider}.example"
        await sitting.sign_in(email)
        ended = await until(logins, user, login, LoginState.CONNECTED)
    assert email in ended.message
    assert ended.link == ""
    await all_gone(running)
    with pytest.raises(Conflict):
        await logins.screen(user, login.id)
    with pytest.raises(Conflict):
        await logins.raise_window(user, login.id, Window.BROWSER)
    lines = "\n".join(line.text for line in await logins.log(user, login.id))
    assert "ready command" in lines
    assert "made up" not in lines
    await sitting.onlooker.close()


@pytest.mark.providers("claude")
async def test_a_cancelled_desktop_is_gone(gateway: Gateway, provider: str) -> None:
    logins, user = gateway.services.logins, await gateway.services.accounts.user_named(None)
    before = descendants(os.getpid())
    async with asyncio.timeout(SECONDS):
        login = await logins.start(user, provider, DESKTOP)
        with pytest.raises(Conflict):
            await logins.screen(user, login.id)
        await until(logins, user, login, LoginState.READY)
        running = descendants(os.getpid()) - before
        onlooker = await _onlooker(logins, user, login)
        assert (await logins.cancel(user, login.id)).state is LoginState.CANCELLED
    await all_gone(running)
    with pytest.raises(SandboxUnavailable):
        await onlooker.picture()
    await onlooker.close()
