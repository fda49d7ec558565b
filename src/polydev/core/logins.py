"""Logins: asked for, followed, answered, cancelled, and ended whatever happens.

A person has one live login per provider: asking again gives that one. Each has a sandbox of its
own and a bound on its time. What it brought is proved by a live call before anything is replaced.
Its link and code live in memory only; its record and its masked log stay.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Self

import structlog

from polydev.config import LoginSettings
from polydev.core.active_login import ActiveLogin
from polydev.core.desktops import Desktops, Streams
from polydev.core.login_course import LoginCourse
from polydev.core.login_desktop import DesktopAttempt
from polydev.core.proxies import Proxies
from polydev.errors import (
    Busy,
    Conflict,
    InvalidRequest,
    NotFound,
)
from polydev.models.accounts import User
from polydev.models.desktops import Window
from polydev.models.ids import new_id
from polydev.models.logins import (
    Login,
    LoginLine,
    LoginMethod,
    LoginState,
    LoginTrouble,
)
from polydev.models.notices import Publish, Topic
from polydev.providers.login import KeyWay, LoginWay
from polydev.providers.registry import provider_named
from polydev.secret import Secret
from polydev.store import Store

log = structlog.get_logger()


class Logins:
    def __init__(
        self,
        *,
        store: Store,
        course: LoginCourse,
        desktops: Desktops,
        proxies: Proxies,
        publish: Publish,
        settings: LoginSettings,
    ) -> None:
        self._store = store
        self._publish = publish
        self._course = course
        self._desktops = desktops
        self._proxies = proxies
        self._settings = settings
        self._active: dict[str, ActiveLogin] = {}

    def ways(self, provider: str) -> tuple[LoginWay | KeyWay, ...]:
        """The methods of a provider, best first. Raises InvalidRequest for an unknown one."""
        return provider_named(provider).login_ways

    async def start(
        self,
        user: User,
        provider_name: str,
        method: LoginMethod | None = None,
        proxy: Secret[str] | None = None,
        renews: str | None = None,
    ) -> Login:
        """A login under way: the one there is, or a new one.

        A different method or proxy ends the one there is. renews: the id of the connection in
        whose place the new one comes, unless it turns out to be another account's. Raises
        InvalidRequest, Busy, Conflict, ProxyProblem, StoreProblem.
        """
        provider = provider_named(provider_name)
        live = self._live(user.id, provider.name)
        if live and method in (None, live.login.method) and proxy in (None, live.proxy):
            await live.begun()
            return live.login
        way = self._way(provider_name, method)
        if live is not None and live.is_proving:
            raise _being_proved()
        if len(self._active) >= self._settings.concurrent + (live is not None):
            raise Busy(
                f"{self._settings.concurrent} logins are under way, as many as may.",
                remedy="Finish or cancel one, or raise POLYDEV_LOGINS__CONCURRENT.",
            )
        now = datetime.now(UTC)
        login = Login(
            id=new_id("lgn"),
            user_id=user.id,
            provider=provider.name,
            method=way.method,
            state=LoginState.REQUESTED,
            created_at=now,
            expires_at=now + timedelta(seconds=self._settings.seconds),
            changed_at=now,
            command=way.command,
            message="The login was asked for.",
        )
        # From here on there is a task to be cancelled, and nobody starts another beside it.
        active = ActiveLogin(
            login,
            self._store,
            proxy=proxy,
            renews=renews,
            on_note=lambda: self._publish(user.id, Topic.LOGINS),
        )
        self._active[login.id] = active
        active.task = asyncio.create_task(self._course.run(active, user, way, live))
        active.task.add_done_callback(lambda _: self._drop(login.id))
        await active.begun()
        return active.login

    async def get(self, user: User, login_id: str) -> Login:
        """Raises NotFound, also for another person's."""
        active = self._active.get(login_id)
        login = active.login if active is not None else await self._store.logins.get(login_id)
        if login is None or login.user_id != user.id:
            raise NotFound(f"There is no login {login_id[:64]!r} of yours.")
        return self._as_it_is(login)

    async def of_user(self, user: User, *, limit: int = 50) -> list[Login]:
        """Newest first; those under way as they are now."""
        before = dict(self._active)  # one that ends while the store is read is no dead one
        stored = await self._store.logins.of_user(user.id, limit=limit)
        return [self._as_it_is(login, before) for login in stored]

    async def log(self, user: User, login_id: str) -> tuple[LoginLine, ...]:
        await self.get(user, login_id)
        active = self._active.get(login_id)
        return tuple(active.lines) if active else await self._store.logins.log(login_id)

    async def follow(self, user: User, login_id: str) -> AsyncIterator[Login]:
        """The login as it is, and again at each change, to its end. Raises NotFound."""
        login = await self.get(user, login_id)
        active = self._active.get(login_id)
        return active.follow() if active is not None else _once(login)

    async def answer(self, user: User, login_id: str, text: str) -> Login:
        """Takes what the person pasted: a code, a key, the address of a page.

        Raises InvalidRequest for something else, Conflict when nothing is waited for.
        """
        active = await self._under_way(user, login_id)
        assert active.attempt is not None
        await active.attempt.answer(text)
        return active.login

    @property
    def desktops_waiting(self) -> int:
        """How many desktops are on standby."""
        return self._desktops.waiting

    async def screen(self, user: User, login_id: str) -> Streams:
        """A connection to the desktop of the user's own live login, which speaks VNC.

        Each call gives another one; the caller closes it, and it ends with the login. Raises
        NotFound, Conflict when the login is over or has no desktop.
        """
        return await (await self._on_desktop(user, login_id)).connect()

    async def raise_window(self, user: User, login_id: str, window: Window) -> None:
        """Brings the desktop's terminal or browser to the front. Raises NotFound, Conflict."""
        await (await self._on_desktop(user, login_id)).raise_window(window)

    async def cancel(self, user: User, login_id: str) -> Login:
        """Ends the login and waits until all of it is gone; one that had ended stays as it is.

        Raises Conflict while it is being proved.
        """
        login = await self.get(user, login_id)
        active = self._active.get(login_id)
        if active is None:
            return login
        if active.is_proving:
            raise _being_proved()
        await active.end()
        return active.login

    async def cancel_all(self, user_id: str) -> None:
        """Ends a person's logins; what is being proved ends with its proof."""
        own = [active for active in self._active.values() if active.login.user_id == user_id]
        await asyncio.gather(*(active.end() for active in own if not active.is_proving))

    async def __aenter__(self) -> Self:
        """Says of what a killed gateway left that it is over: its sandboxes went with it."""
        for login in await self._store.logins.unfinished():
            now = datetime.now(UTC)
            ended = replace(
                login,
                state=LoginState.FAILED,
                reason=LoginTrouble.GATEWAY_STOPPED,
                message="The gateway was stopped while the login was under way. Try again.",
                changed_at=now,
                finished_at=now,
            )
            lines = [*await self._store.logins.log(login.id)]
            await self._store.logins.move(
                ended, [*lines, LoginLine(at=now, text=f"failed: {ended.message}")]
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends all logins under way, as stopped by the gateway."""
        for active in list(self._active.values()):
            active.stopping = True
        await asyncio.gather(*(active.end() for active in list(self._active.values())))

    def _as_it_is(self, stored: Login, before: Mapping[str, ActiveLogin] | None = None) -> Login:
        active = self._active.get(stored.id) or (before or {}).get(stored.id)
        if active is not None:
            return active.login
        if stored.state.is_final:
            return stored
        # It is over, whatever the store says: a dead login is never shown as alive.
        return replace(
            stored,
            state=LoginState.FAILED,
            reason=LoginTrouble.NOT_STORED,
            message="The login is over; how it ended could not be stored.",
            finished_at=stored.changed_at,
        )

    def _live(self, user_id: str, provider: str) -> ActiveLogin | None:
        return next(
            (
                active
                for active in reversed(self._active.values())  # the newest
                if (active.login.user_id, active.login.provider) == (user_id, provider)
                and not active.login.state.is_final
            ),
            None,
        )

    def _drop(self, login_id: str) -> None:
        self._active.pop(login_id, None)
        self._proxies.release(login_id)

    def _way(self, provider: str, method: LoginMethod | None) -> LoginWay | KeyWay:
        ways = self.ways(provider)
        for way in ways:
            if method in (None, way.method):
                return way
        offered = ", ".join(way.method.value for way in ways) or "none"
        raise InvalidRequest(
            f"{provider} offers no login by {method.value if method else 'any method'}.",
            remedy=f"It offers: {offered}. `polydev connect {provider} --from FILE` takes a login "
            "that its own CLI made.",
        )

    async def _under_way(self, user: User, login_id: str) -> ActiveLogin:
        login = await self.get(user, login_id)
        active = self._active.get(login_id)
        if active is None or active.login.state.is_final:
            raise Conflict(f"The login is over ({login.state.value}).", remedy="Start another one.")
        return active

    async def _on_desktop(self, user: User, login_id: str) -> DesktopAttempt:
        attempt = (await self._under_way(user, login_id)).attempt
        if not isinstance(attempt, DesktopAttempt):
            raise Conflict(
                "This login has no desktop.",
                remedy=f"Start one with the method {LoginMethod.REMOTE_DESKTOP.value}.",
                reason="no_desktop",
            )
        return attempt


def _being_proved() -> Conflict:
    return Conflict(
        "The login is being proved at this moment.",
        remedy="Wait for how it ends; that takes seconds.",
        reason="being_proved",
    )


async def _once(login: Login) -> AsyncIterator[Login]:
    yield login
