"""Users and their API keys: making them, and telling whose a key is."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from polydev.config import KeySettings
from polydev.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from polydev.models.accounts import ApiKey, User, UserState
from polydev.secret import Secret
from polydev.store import Store

KEY_PREFIX = "polydev_"
_CACHE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks. key is None for the owner of this machine's account, who came by the socket."""

    user: User
    key: ApiKey | None


class Accounts:
    def __init__(self, store: Store, settings: KeySettings) -> None:
        self._store = store
        self._settings = settings
        self._known: dict[str, tuple[float, Caller]] = {}
        self._enders: list[Callable[[str], Awaitable[None]]] = []

    def when_disabled(self, end: Callable[[str], Awaitable[None]]) -> None:
        """Has `end` called with the id of each user who is disabled from now on."""
        self._enders.append(end)

    async def first_user(self) -> User:
        """The first user, made when there is none."""
        users = await self._store.users.list()
        return users[0] if users else await self.add_user("owner")

    async def first_key(self) -> Secret[str] | None:
        """A key for the first user while nobody has one; None afterwards."""
        if await self._store.keys.list():
            return None
        return (await self.create_key(await self.first_user(), "first"))[1]

    async def add_user(self, name: str) -> User:
        """Raises Conflict when the name is taken, InvalidRequest when it is no name."""
        if not 1 <= len(name.strip()) <= 64 or not name.isprintable():
            raise InvalidRequest("A user's name has 1 to 64 printable characters.")
        return await self._store.users.add(name.strip())

    async def users(self) -> tuple[User, ...]:
        return await self._store.users.list()

    async def user_named(self, name: str | None) -> User:
        """By name or id; None gives the first user. Raises NotFound."""
        if name is None:
            return await self.first_user()
        user = await self._store.users.by_name(name) or await self._store.users.get(name)
        if user is None:
            raise NotFound(f"There is no user {name!r}.", remedy="`polydev users list` shows them.")
        return user

    async def disable_user(self, name: str) -> User:
        """From now on none of the user's keys is accepted, and no browser signed in as them.

        What they had under way is ended where `when_disabled` says so.
        """
        user = await self.user_named(name)
        disabled = await self._store.users.set_state(user.id, UserState.DISABLED)
        await self._store.sign_ins.remove_of(user.id)
        self._known.clear()
        for end in self._enders:
            await end(user.id)
        return disabled

    async def create_key(
        self,
        user: User,
        name: str,
        *,
        requests_per_minute: int | None = None,
        concurrent_runs: int | None = None,
    ) -> tuple[ApiKey, Secret[str]]:
        """The record, and the key itself: only its hash is kept, so it is shown now or never."""
        key = KEY_PREFIX + secrets.token_hex(24)
        record = await self._store.keys.add(
            user_id=user.id,
            name=name,
            prefix=key[: len(KEY_PREFIX) + 6],
            hash=_digest(key),
            requests_per_minute=requests_per_minute or self._settings.requests_per_minute,
            concurrent_runs=concurrent_runs or self._settings.concurrent_runs,
        )
        return record, Secret(key)

    async def keys(self, user: User) -> tuple[ApiKey, ...]:
        return await self._store.keys.list(user.id)

    async def revoke_key(self, key_id: str, owner: User | None = None) -> ApiKey:
        """owner: whose it must be. Raises NotFound."""
        if owner is not None:
            key = await self._store.keys.get(key_id)
            if key is None or key.user_id != owner.id:
                raise NotFound(f"There is no key {key_id[:64]!r} of yours.")
        revoked = await self._store.keys.revoke(key_id)
        self._known.clear()
        return revoked

    async def caller(self, presented: str) -> Caller:
        """Whose key this is.

        Raises Unauthenticated for no, an unknown or a revoked key, Forbidden for a disabled user.
        It is found by its hash, which nobody can steer towards another key's, so there is no
        comparison whose time could tell anything. Answers from memory for two seconds, so that a busy key costs no query for each request.
        """
        digest = _digest(presented)
        now = asyncio.get_running_loop().time()
        known = self._known.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        found = await self._store.keys.by_hash(digest) if presented else None
        if found is None:
            raise Unauthenticated(
                "This API key is not known here." if presented else "The request has no API key.",
                remedy="Send one as `Authorization: Bearer` or `x-api-key`; "
                "`polydev keys create` makes one.",
            )
        key, user = found
        if key.revoked_at is not None:
            raise Unauthenticated(
                f"The API key {key.prefix}… was revoked.",
                remedy="Use another; `polydev keys create` makes one.",
            )
        if user.state is not UserState.ACTIVE:
            raise Forbidden(f"The user {user.name} is disabled.")
        caller = Caller(user=user, key=key)
        if len(self._known) > 4096:
            self._known.clear()
        self._known[digest] = (now + _CACHE_SECONDS, caller)
        return caller


def _digest(key: str) -> str:
    """Keys are 24 random bytes, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(key.encode()).hexdigest()
