"""What fails while somebody logs in ends in a clear state, with nothing half-stored."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from polydev.config import EgressSettings, load_settings
from polydev.core import login_attempt
from polydev.core.active_login import ActiveLogin
from polydev.core.logins import Logins
from polydev.errors import Conflict
from polydev.gateway import running_gateway
from polydev.models.accounts import User, UserState
from polydev.models.ids import new_id
from polydev.models.logins import Login, LoginMethod, LoginState, LoginTrouble
from polydev.sim import Simulator
from polydev.sim.person import Person
from polydev.store import Store
from tests.full_disk import ReadOnly

pytestmark = pytest.mark.anyio


@dataclass
class Inside:
    """A gateway in this process, and somebody who logs in."""

    logins: Logins
    store: Store
    user: User
    data: Path

    async def until(self, login: Login, *states: LoginState) -> Login:
        async with asyncio.timeout(60):
            async for one in await self.logins.follow(self.user, login.id):
                if one.state in states:
                    return one
        raise AssertionError(f"it ended as {one}")

    async def nothing_is_left(self) -> None:
        async with asyncio.timeout(20):
            while self.logins._active or list((self.data / "sandboxes").iterdir()):
                await asyncio.sleep(0.02)

    async def log(self, login: Login) -> str:
        return "\n".join(line.text for line in await self.logins.log(self.user, login.id))


@contextlib.asynccontextmanager
async def _inside(sim: Simulator, programs: Path, data: Path) -> AsyncIterator[Inside]:
    settings = load_settings(
        data=data,
        programs=programs,
        egress=EgressSettings(redirect=sim.redirect, upstream_ca=sim.ca),
    )
    async with running_gateway(settings) as gateway:
        user = await gateway.services.accounts.user_named(None)
        logins = gateway.services.logins
        yield Inside(logins, logins._store, user, data)


async def test_a_cli_whose_words_have_changed_is_said_with_its_words(
    sim: Simulator, scripted_programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(login_attempt, "_LINK_SECONDS", 0.5)
    async with _inside(sim, scripted_programs, tmp_path / "data") as inside:
        login = await inside.logins.start(inside.user, "claude", LoginMethod.PASTE_CODE)
        ended = await inside.until(login, LoginState.FAILED)
        assert ended.reason is LoginTrouble.NOT_UNDERSTOOD
        assert "A sentence that no version before has said." in await inside.log(login)
        await inside.nothing_is_left()


async def test_whoever_races_one_login_of_a_person_lives(
    sim: Simulator, scripted_programs: Path, tmp_path: Path
):
    async with _inside(sim, scripted_programs, tmp_path / "data") as inside:
        methods = [LoginMethod.PASTE_CODE, LoginMethod.RELAYED_CALLBACK] * 3
        told = await asyncio.gather(
            *(inside.logins.start(inside.user, "claude", method) for method in methods),
            return_exceptions=True,
        )
        begun = [one for one in told if isinstance(one, Login)]
        assert begun
        assert all(isinstance(one, Login | Conflict) for one in told)
        async with asyncio.timeout(20):
            while len(inside.logins._active) > 1:
                await asyncio.sleep(0.02)
        (live,) = [
            one for one in await inside.logins.of_user(inside.user) if not one.state.is_final
        ]
        assert live.id in {one.id for one in begun}

        # One that is only just asked for is cancelled like any other.
        await inside.logins.cancel(inside.user, live.id)
        starting = asyncio.create_task(inside.logins.start(inside.user, "claude"))
        await asyncio.sleep(0)
        await inside.logins.cancel_all(inside.user.id)
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(outcome, Login):
            await inside.until(outcome, LoginState.CANCELLED)
        else:
            assert isinstance(outcome, Conflict)
        await inside.nothing_is_left()


async def test_a_disabled_user_connects_nothing_any_more(
    sim: Simulator, scripted_programs: Path, tmp_path: Path
):
    async with _inside(sim, scripted_programs, tmp_path / "data") as inside:
        login = await inside.logins.start(inside.user, "gemini", LoginMethod.API_KEY)
        await inside.until(login, LoginState.WAITING_FOR_USER)
        await inside.store.users.set_state(inside.user.id, UserState.DISABLED)
        await inside.logins.answer(inside.user, login.id, "made-up-key-0000000000000000")
        ended = await inside.until(login, LoginState.FAILED)
        assert "disabled" in ended.message
        assert await inside.store.connections.list() == ()


def _login() -> Login:
    now = datetime.now(UTC)
    return Login(
        id=new_id("lgn"),
        user_id="usr_none",
        provider="claude",
        method=LoginMethod.PASTE_CODE,
        state=LoginState.REQUESTED,
        created_at=now,
        expires_at=now,
        changed_at=now,
    )


async def test_who_begins_to_follow_during_a_change_is_told_of_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored = asyncio.Event()

    async def move(*_: object) -> None:
        await stored.wait()

    settings = load_settings(data=tmp_path / "data")
    async with Store.open(settings.store, settings.data) as store:
        monkeypatch.setattr(store.logins, "move", move)
        active = ActiveLogin(_login(), store, proxy=None, renews=None, on_note=lambda: None)
        changing = asyncio.create_task(active.to(LoginState.STARTING, "It starts."))
        await asyncio.sleep(0)
        followed = active.follow()
        assert (await anext(followed)).state is LoginState.STARTING
        next_one = asyncio.ensure_future(anext(followed))
        await asyncio.sleep(0)
        stored.set()
        await changing
        for _ in range(5):  # as many turns of the loop as it could be told in
            await asyncio.sleep(0)
        assert not next_one.done()
        await active.to(LoginState.FAILED, "It failed.")
        assert (await next_one).state is LoginState.FAILED


async def test_a_log_keeps_its_beginning_its_states_and_its_end(sim: Simulator, tmp_path: Path):
    login = _login()
    settings = load_settings(data=tmp_path / "data")
    async with Store.open(settings.store, settings.data) as store:
        told: list[int] = []
        active = ActiveLogin(
            login, store, proxy=None, renews=None, on_note=lambda: told.append(len(active.lines))
        )
        for number in range(500):
            active.note(f"line {number}")
            if number == 150:
                await active.to(LoginState.STARTING, "sk-ant-oat01-made-up-token " * 100)
        active.note("→ connected: a CLI's own words")
        texts = [line.text for line in active.lines]
    assert told[:3] == [1, 2, 3]
    assert len(texts) == 200
    assert texts[0] == "line 0"
    assert texts[-2:] == ["line 499", "connected: a CLI's own words"]
    assert [text for text in texts if text.startswith("→ ")]
    assert "made-up-token" not in "".join(texts) + active.login.message
    assert len(active.login.message) <= 1000


async def test_a_cli_that_is_not_installed_is_said(sim: Simulator, tmp_path: Path):
    (tmp_path / "programs").mkdir()
    async with _inside(sim, tmp_path / "programs", tmp_path / "data") as inside:
        login = await inside.logins.start(inside.user, "codex", LoginMethod.DEVICE_CODE)
        ended = await inside.until(login, LoginState.FAILED)
        assert ended.reason is LoginTrouble.CLI_MISSING
        assert "polydev doctor --fix" in ended.message


@pytest.mark.real
async def test_a_network_that_is_cut_in_the_middle_is_said(programs: Path, tmp_path: Path):
    sim = Simulator(tmp_path / "sim", accounts=False)
    async with contextlib.AsyncExitStack() as up:
        await up.enter_async_context(sim)
        async with _inside(sim, programs, tmp_path / "data") as inside:
            login = await inside.logins.start(inside.user, "claude", LoginMethod.PASTE_CODE)
            waiting = await inside.until(login, LoginState.WAITING_FOR_USER)
            async with Person(sim.redirect, sim.ca) as person:
                seen = await person.allow(waiting.link, email="ada@example.org")
            await up.aclose()
            await inside.logins.answer(inside.user, login.id, seen.code)
            ended = await inside.until(login, LoginState.FAILED)
            assert ended.reason is LoginTrouble.NO_NETWORK
            assert await inside.store.connections.list() == ()
            await inside.nothing_is_left()


@pytest.mark.real
async def test_a_database_that_takes_nothing_is_said_and_nothing_is_half_stored(
    sim: Simulator, programs: Path, tmp_path: Path
):
    async with _inside(sim, programs, tmp_path / "data") as inside:
        login = await inside.logins.start(inside.user, "claude", LoginMethod.PASTE_CODE)
        waiting = await inside.until(login, LoginState.WAITING_FOR_USER)
        async with Person(sim.redirect, sim.ca) as person:
            seen = await person.allow(waiting.link, email="full@example.org")
        database = ReadOnly(inside.store)
        database.on = True
        await inside.logins.answer(inside.user, login.id, seen.code)
        ended = await inside.until(login, LoginState.FAILED)
        assert ended.reason is LoginTrouble.NOT_STORED
        database.on = False
        assert await inside.store.connections.list() == ()
        await inside.nothing_is_left()
        shown = await inside.logins.get(inside.user, login.id)
        assert (shown.state, shown.reason) == (LoginState.FAILED, LoginTrouble.NOT_STORED)
        (listed,) = await inside.logins.of_user(inside.user)
        assert listed == shown
