"""Connections: made from a credential file, proved by a live call, checked, ended.

Whose a connection is decides who may use it: `for_run` gives a user's own or nothing.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from polydev.core.keeper import Keeper
from polydev.core.outcomes import error_from
from polydev.errors import InvalidRequest, NeedsLogin, NoConnection, NotFound, PolydevError
from polydev.events import EndReason, WindowObserved
from polydev.models.accounts import Connection, ConnectionState, Ownership, User
from polydev.models.ids import new_id
from polydev.models.runs import Prompt, RunRequest, Surface, Text, Turn
from polydev.providers.base import Provider
from polydev.providers.registry import provider_named
from polydev.secret import Secret
from polydev.store import Store

if TYPE_CHECKING:
    from polydev.core.runs import Runs

log = structlog.get_logger()

_PROOF = "Reply with the single word: ready"
_PROOF_SECONDS = 90.0
_WINDOWS_HELD = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class NewConnection:
    """files: path under HOME → content; source: the file to follow, for `Ownership.FOLLOW`."""

    user: User
    provider: str
    files: Mapping[str, Secret[bytes]]
    ownership: Ownership
    source: str | None


class Connections:
    """runs: gives the service that executes runs, which in turn needs this one."""

    def __init__(self, store: Store, keeper: Keeper, runs: "Callable[[], Runs]") -> None:
        self._store = store
        self._keeper = keeper
        self._runs = runs
        self._windows: asyncio.Queue[tuple[str, WindowObserved, datetime]] = asyncio.Queue(
            _WINDOWS_HELD
        )

    async def connect(self, new: NewConnection) -> tuple[Connection, str]:
        """A new, proved connection, and a sentence about it.

        It takes the place of the same account's earlier connection of this user. Raises
        CredentialUnreadable, and whatever the live call failed with. A login that the provider
        refuses is not kept, unless it was renewed here: then this is its only copy. One that could
        not be proved for another reason is kept as `proving`.
        """
        provider = provider_named(new.provider)
        if new.ownership is Ownership.FOLLOW and new.source is None:
            raise InvalidRequest("To follow a login, its file must be named.")
        credential = provider.read_credential(new.files)
        connection = Connection(
            id=new_id("con"),
            user_id=new.user.id,
            provider=provider.name,
            state=ConnectionState.PROVING,
            ownership=new.ownership,
            identity=str(uuid.uuid4()),
            created_at=datetime.now(UTC),
            account=credential.account,
            plan=credential.plan,
            source=new.source if new.ownership is Ownership.FOLLOW else None,
            expires_at=credential.expires_at,
        )
        connection = await self._keeper.seal_first(connection, credential)
        problem = await self._prove(connection)
        if isinstance(problem, NeedsLogin):
            await self._not_proved(connection.id, problem)
        if problem is not None:
            raise problem
        connection = await self._proved(connection.id)
        ended = await self._supersede(connection)
        replaced = f" It takes the place of {', '.join(ended)}." if ended else ""
        return connection, f"{provider.title} answered.{replaced}"

    async def check(self, connection_id: str) -> tuple[Connection, bool, str]:
        """Proves a connection by a live call: the connection, whether it is good, and why not."""
        connection = await self._get(connection_id)
        if connection.state is ConnectionState.DISCONNECTED:
            raise InvalidRequest("The connection is disconnected.", remedy="Connect it anew.")
        problem = await self._prove(connection)
        if problem is None:
            return await self._proved(connection_id), True, "It answered."
        if isinstance(problem, NeedsLogin):
            await self._store.connections.set_state(
                connection_id, ConnectionState.NEEDS_LOGIN, problem.message
            )
        return await self._get(connection_id), False, str(problem)

    async def disconnect(self, connection_id: str) -> Connection:
        """Ends a connection and deletes its credential; runs in flight come to their end."""
        await self._get(connection_id)
        return await self._end(connection_id)

    async def list(self, *, include_disconnected: bool = False) -> tuple[Connection, ...]:
        return tuple(
            connection
            for connection in await self._store.connections.list()
            if include_disconnected or connection.state is not ConnectionState.DISCONNECTED
        )

    async def for_run(
        self, user: User, provider: Provider, connection_id: str | None = None
    ) -> Connection:
        """The user's own connection to this provider; the newest active one unless named.

        Raises NoConnection, NeedsLogin.
        """
        own = await self._store.connections.of_user(user.id, provider.name)
        usable = [
            connection
            for connection in own
            if connection.state is not ConnectionState.DISCONNECTED
            and connection_id in (None, connection.id)
        ]
        active = [c for c in usable if c.state is ConnectionState.ACTIVE]
        if active:
            return active[-1]
        if usable:
            latest = usable[-1]
            if latest.state is ConnectionState.PROVING:
                raise NeedsLogin(
                    f"The connection to {provider.title} has not yet answered a live call.",
                    remedy=f"`polydev check {latest.id}` tries it again.",
                    provider=provider.name,
                )
            raise NeedsLogin(
                latest.reason,
                remedy=f"Log in with `{provider.login_command}` and connect its file again: "
                f"`polydev connect {provider.name} --from FILE`.",
                provider=provider.name,
            )
        raise NoConnection(
            f"{user.name} has no connection to {provider.title}"
            + (f" with the id {connection_id[:64]!r}." if connection_id else "."),
            remedy=f"`polydev connect {provider.name} --from FILE` makes one.",
            provider=provider.name,
        )

    def observed(self, connection_id: str, window: WindowObserved, at: datetime) -> None:
        """A run saw a window; it is stored soon."""
        if not self._windows.full():  # newer ones come with every answer
            self._windows.put_nowait((connection_id, window, at))

    async def store_windows_forever(self) -> None:
        while True:
            connection_id, window, at = await self._windows.get()
            try:
                await self._store.windows.observe(connection_id, window, at)
            except PolydevError as error:
                log.warning("a window could not be stored", problem=str(error))
            except Exception:
                # The task's outermost boundary: later windows are worth storing all the same.
                log.exception("a window could not be stored")

    async def _prove(self, connection: Connection) -> PolydevError | None:
        """A live call with the smallest question; what speaks against the connection."""
        provider = provider_named(connection.provider)
        request = RunRequest(
            provider=provider.name,
            prompt=Prompt(
                model=provider.catalogue.default,
                turns=(Turn(role="user", parts=(Text(text=_PROOF),)),),
                max_tokens=64,
            ),
            surface=Surface.CHECK,
            timeout_seconds=_PROOF_SECONDS,
        )
        active = await self._runs().start(connection.user_id, None, provider, connection, request)
        end = await active.log.wait_finished()
        if end.reason is EndReason.WINDOW_EXHAUSTED:
            return None  # the provider knows the login, and says that its window is used up
        return error_from(end, provider.name)

    async def _proved(self, connection_id: str) -> Connection:
        await self._store.connections.set_state(connection_id, ConnectionState.ACTIVE)
        return await self._store.connections.update_facts(
            connection_id, checked_at=datetime.now(UTC)
        )

    async def _not_proved(self, connection_id: str, problem: NeedsLogin) -> None:
        connection = await self._get(connection_id)
        if connection.credential_version == 1:
            await self._end(connection_id)
        elif connection.state is ConnectionState.PROVING:
            await self._store.connections.set_state(
                connection_id, ConnectionState.NEEDS_LOGIN, problem.message
            )

    async def _supersede(self, new: Connection) -> tuple[str, ...]:
        """Ends this user's earlier connections to the same subscription; their ids.

        Without a name for the account nothing tells that two are the same.
        """
        ended = []
        for old in await self._store.connections.of_user(new.user_id, new.provider):
            same = new.account and (old.account, old.plan) == (new.account, new.plan)
            if old.id != new.id and same and old.state is not ConnectionState.DISCONNECTED:
                ended.append((await self._end(old.id)).id)
        return tuple(ended)

    async def _end(self, connection_id: str) -> Connection:
        ended = await self._store.connections.set_state(connection_id, ConnectionState.DISCONNECTED)
        await self._keeper.forget(connection_id)
        return ended

    async def _get(self, connection_id: str) -> Connection:
        connection = await self._store.connections.get(connection_id)
        if connection is None:
            raise NotFound(
                f"There is no connection {connection_id[:64]!r}.",
                remedy="`polydev connections` lists them.",
            )
        return connection
