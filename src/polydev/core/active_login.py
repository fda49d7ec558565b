"""A login under way, in memory: its record, its log, and who is told of changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from polydev.core.login_attempt import Attempt
from polydev.core.proxies import Route
from polydev.errors import Conflict
from polydev.models.logins import (
    LOGIN_TRANSITIONS,
    STATE_MARK,
    Login,
    LoginLine,
    LoginState,
)
from polydev.secret import Secret, mask_tokens
from polydev.store import Store

_MOST_LINES = 200
_LINE_CHARACTERS = 300
_MESSAGE_CHARACTERS = 1000


class ActiveLogin:
    """proxy: what its owner said that it leaves by; route: what it does leave by, once known.

    renews: the connection in whose place the new one is to come. on_note: called when the log has
    another line, between changes of state.
    """

    def __init__(
        self,
        login: Login,
        store: Store,
        *,
        proxy: Secret[str] | None,
        renews: str | None,
        on_note: Callable[[], None],
    ) -> None:
        self.login = login
        self.proxy = proxy
        self.renews = renews
        self.route: Route | None = None
        self.lines: list[LoginLine] = []
        self.attempt: Attempt | None = None
        self.task: asyncio.Task[None] | None = None
        self.stopping = False  # the gateway ends, and the login with it
        self._store = store
        self._on_note = on_note
        self._changed = asyncio.Event()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_proving(self) -> bool:
        """Its credential is being stored: too late to be cancelled."""
        return self.login.state in (LoginState.CREDENTIAL_SEEN, LoginState.PROVED)

    async def end(self) -> None:
        """Cancels it, unless it is too late for that, and waits until all of it is gone."""
        assert self.task is not None
        if not self.is_proving:
            self.task.cancel()
        await asyncio.wait({self.task})

    async def begun(self) -> None:
        """Until its record is stored. Raises what kept it from beginning."""
        await asyncio.shield(self._begun)

    def has_begun(self) -> None:
        self._begun.set_result(None)

    def did_not_begin(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._begun.set_exception(error)
        else:
            self._begun.set_exception(Conflict("The login was cancelled before it began."))
        self._begun.exception()  # whoever waits for it is told; it may be that nobody does

    def note(self, text: str) -> None:
        self._add(text.lstrip(STATE_MARK))
        self._on_note()

    def _add(self, text: str) -> None:
        line = mask_tokens(text)[:_LINE_CHARACTERS]
        if self.lines and self.lines[-1].text == line:
            return  # what is asked again and again while it waits
        self.lines.append(LoginLine(at=datetime.now(UTC), text=line))
        if len(self.lines) > _MOST_LINES:
            # How it began and how it ends say most, and every state is kept.
            del self.lines[
                next(
                    number
                    for number, old in enumerate(self.lines)
                    if number >= _MOST_LINES // 2 and not old.text.startswith(STATE_MARK)
                )
            ]

    async def to(self, state: LoginState, message: str, **fields: Any) -> None:
        """Who follows is told when it is stored.

        Raises StoreProblem; the state in memory has changed all the same, and is told.
        """
        if state is not self.login.state and state not in LOGIN_TRANSITIONS[self.login.state]:
            return
        now = datetime.now(UTC)
        if state is not LoginState.WAITING_FOR_USER:
            fields = {"link": "", "user_code": "", **fields}
        if state.is_final:
            fields["finished_at"] = now
        message = mask_tokens(message)[:_MESSAGE_CHARACTERS]
        self.login = replace(self.login, state=state, message=message, changed_at=now, **fields)
        self._add(f"{STATE_MARK}{state.value}: {message}")
        try:
            await self._store.logins.move(self.login, self.lines)
        finally:
            self._tell()

    async def follow(self) -> AsyncIterator[Login]:
        """The login as it is, and again at each change, to its end."""
        told = None
        while True:
            changed, login = self._changed, self.login
            if login is not told:  # who began while a change was being stored knows it already
                yield login
            told = login
            if login.state.is_final:
                return
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
