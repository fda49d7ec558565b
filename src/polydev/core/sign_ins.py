"""Who is signed in to the dashboard: by a link that works once, then by a cookie.

Links live in memory for a minute. What a browser shows afterwards is 32 random bytes, of which the
store has the hash. Both are found by their hash, which nobody can steer towards another's, so no
comparison's time tells anything. Neither is ever logged.
"""

import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from polydev.errors import NotSignedIn
from polydev.models.accounts import User, UserState
from polydev.secret import Secret
from polydev.store import Store

log = structlog.get_logger()

LINK_SECONDS = 60
SIGN_IN_DAYS = 30
_LINKS = 256


class SignIns:
    def __init__(
        self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._now = now
        self._links: dict[str, tuple[str, datetime]] = {}  # hash → user's id, end

    def open_link(self, user: User) -> Secret[str]:
        """What a link holds that signs this person in, once, within a minute."""
        if len(self._links) >= _LINKS:
            del self._links[next(iter(self._links))]  # the oldest
        token = secrets.token_urlsafe(32)
        self._links[_digest(token)] = (user.id, self._now() + timedelta(seconds=LINK_SECONDS))
        return Secret(token)

    async def redeem(self, link: Secret[str]) -> Secret[str]:
        """Uses a link up; what the browser shows from now on. Raises NotSignedIn."""
        user_id, ends_at = self._links.pop(_digest(link.reveal()), ("", self._now()))
        user = await self._store.users.get(user_id) if ends_at > self._now() else None
        if user is None or user.state is not UserState.ACTIVE:
            raise NotSignedIn(
                f"This link has been used already, or is older than {LINK_SECONDS} seconds.",
                remedy="Run `polydev open` for another.",
            )
        token = secrets.token_urlsafe(32)
        now = self._now()
        await self._store.sign_ins.add(
            user_id=user.id,
            hash=_digest(token),
            created_at=now,
            expires_at=now + timedelta(days=SIGN_IN_DAYS),
        )
        log.info("signed in", user=user.id)
        return Secret(token)

    async def who(self, token: Secret[str]) -> User:
        """Whose browser this is. Raises NotSignedIn, also for a disabled user."""
        found = (
            await self._store.sign_ins.user(_digest(token.reveal()), self._now()) if token else None
        )
        if found is None or found.state is not UserState.ACTIVE:
            raise NotSignedIn("You are not signed in.", remedy="Run `polydev open`.")
        return found

    async def sign_out(self, token: Secret[str]) -> None:
        await self._store.sign_ins.remove(_digest(token.reveal()))


def _digest(token: str) -> str:
    """Tokens are 32 random bytes, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(token.encode()).hexdigest()
