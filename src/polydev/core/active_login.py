"""A login under way, in memory: its record, its log, and who is told of changes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from polydev.core.login_attempt import Attempt
from polydev.core.proxies import Route
from polydev.models.logins import LOGIN_TRANSITIONS, Login, LoginLine, LoginState
from polydev.secret import Secret, mask_tokens
from polydev.store import Store

_MOST_LINES = 200
_LINE_CHARACTERS = 300


class ActiveLogin:
    """proxy: what its owner said that it leaves by; route: what it does leave by, once known."""

    def __init__(self, login: Login, store: Store, proxy: Secret[str] | None) -> None:
        self.login = login
        self.proxy = proxy
        self.route: Route | None = None
        self.lines: list[LoginLine] = []
        self.attempt: Attempt | None = None
        self.task: asyncio.Task[None] | None = None
        self.stopping = False  # the gateway ends, and the login with it
        self._store = store
        self._changed = asyncio.Event()

    def note(self, text: str) -> None:
        line = mask_tokens(text)[:_LINE_CHARACTERS]
        if self.lines and self.lines[-1].text == line:
            return  # what is asked again and again while it waits
        if len(self.lines) < _MOST_LINES:
            self.lines.append(LoginLine(at=datetime.now(UTC), text=line))

    async def to(self, state: LoginState, message: str, **fields: Any) -> None:
        """Raises StoreProblem; the state in memory has changed all the same."""
        if state is not self.login.state and state not in LOGIN_TRANSITIONS[self.login.state]:
            return
        now = datetime.now(UTC)
        if state is not LoginState.WAITING_FOR_USER:
            fields = {"link": "", "user_code": "", **fields}
        if state.is_final:
            fields["finished_at"] = now
        self.login = replace(self.login, state=state, message=message, changed_at=now, **fields)
        self.note(f"{state.value}: {message}")
        self._tell()
        await self._store.logins.move(self.login, self.lines)

    async def follow(self) -> AsyncIterator[Login]:
        """The login as it is, and again at each change, to its end."""
        while True:
            changed, login = self._changed, self.login
            yield login
            if login.state.is_final:
                return
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
