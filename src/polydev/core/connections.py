"""Connections: whose they are, which one a run takes, and how they end.

Whose a connection is decides who may use it: `for_run` gives a user's own or nothing.
"""

from polydev.core.keeper import Keeper
from polydev.core.proxies import Proxies
from polydev.errors import NeedsLogin, NoConnection, NotFound
from polydev.models.accounts import Connection, ConnectionState, User
from polydev.providers.base import Provider
from polydev.store import Store


class Connections:
    def __init__(self, store: Store, keeper: Keeper, proxies: Proxies) -> None:
        self._store = store
        self._proxies = proxies
        self._keeper = keeper

    async def get(self, connection_id: str) -> Connection:
        """Raises NotFound."""
        connection = await self._store.connections.get(connection_id)
        if connection is None:
            raise NotFound(
                f"There is no connection {connection_id[:64]!r}.",
                remedy="`polydev connections` lists them.",
            )
        return connection

    async def own(self, user: User, connection_id: str) -> Connection:
        """Raises NotFound, also for another person's: whose it is, is not told."""
        connection = await self._store.connections.get(connection_id)
        if connection is None or connection.user_id != user.id:
            raise NotFound(f"There is no connection {connection_id[:64]!r} of yours.")
        return connection

    async def of_user(self, user: User) -> tuple[Connection, ...]:
        """A person's own, oldest first, without those that are disconnected."""
        return tuple(
            connection
            for connection in await self._store.connections.of_user(user.id)
            if connection.state is not ConnectionState.DISCONNECTED
        )

    async def disconnect(self, connection_id: str) -> Connection:
        """Ends a connection and deletes its credential; runs in flight come to their end."""
        await self.get(connection_id)
        ended = await self._store.connections.set_state(connection_id, ConnectionState.DISCONNECTED)
        await self._keeper.forget(connection_id)
        self._proxies.forget(connection_id)
        return ended

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
                remedy=f"Log in again: `polydev connect {provider.name}`, or on the dashboard.",
                provider=provider.name,
            )
        raise NoConnection(
            f"{user.name} has no connection to {provider.title}"
            + (f" with the id {connection_id[:64]!r}." if connection_id else "."),
            remedy=f"`polydev connect {provider.name}` makes one, as does the dashboard.",
            provider=provider.name,
        )
