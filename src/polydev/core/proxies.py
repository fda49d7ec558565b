"""Which outbound proxy a connection leaves by: its login, its refreshes and its runs alike.

A connection has an address of its own, or follows the setting for all (`egress.proxy`). Of a range
of ports it gets one that no other connection has, and keeps it. Choices are made one after the
other, so that two at the same time never get the same port. An address that cannot be told, or a
range that is used up, is an error wherever it is needed: nothing leaves directly in its place.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from polydev.egress.client import Egress
from polydev.errors import InvalidRequest, NoConnection, NotFound, ProxyProblem
from polydev.models.accounts import Connection, ConnectionState
from polydev.models.proxies import Proxy, ProxyRange
from polydev.models.seals import proxy_context
from polydev.secret import Secret
from polydev.store import Store
from polydev.vault import Vault

# Said in place of an address: directly, whatever the setting for all is.
DIRECTLY = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """proxy: None for directly; own: said for this connection, not taken from the setting."""

    proxy: Proxy | None
    own: bool

    def shown(self) -> str | None:
        return None if self.proxy is None else self.proxy.shown()


class Proxies:
    def __init__(
        self, store: Store, vault: Vault, egress: Egress, setting: SecretStr | None
    ) -> None:
        self._store = store
        self._vault = vault
        self._egress = egress
        text = setting.get_secret_value() if setting else ""
        self._setting = ProxyRange.parse(text) if text else None
        self._known: dict[str, Route] = {}  # by connection
        self._held: dict[str, Proxy] = {}  # by login
        self._choosing = asyncio.Lock()

    async def of(self, connection_id: str) -> Proxy | None:
        """What a connection leaves by; None for directly.

        Raises NoConnection, ProxyProblem (no port is free), VaultProblem.
        """
        known = self._known.get(connection_id)
        if known is None:
            async with self._choosing:
                known = await self._route_of(connection_id)
        return known.proxy

    async def for_login(
        self, login_id: str, user_id: str, provider: str, said: Secret[str] | None
    ) -> Route:
        """What a login leaves by, held for it until `release`.

        Nobody knows yet whose account it will be. Unless an address is said: that of a connection
        that waits for a login, else one by the setting, else that of the latest connection. Raises
        InvalidRequest for what is no address, ProxyProblem.
        """
        async with self._choosing:
            route = await self._for_login(user_id, provider, said)
            if route.proxy is not None:
                self._held[login_id] = route.proxy
        return route

    def release(self, login_id: str) -> None:
        self._held.pop(login_id, None)

    @asynccontextmanager
    async def for_new(
        self,
        connection: Connection,
        said: Secret[str] | None,
        login: Route | None,
        earlier: Connection | None,
    ) -> AsyncIterator[Route]:
        """What a new connection leaves by: nobody else is given its port while it is stored.

        said: what its owner said of it; login: what its login left by; earlier: the connection to
        the same account, whose address it keeps unless one was said. Without any of these, as a
        login would leave. Raises as `for_login`.
        """
        async with self._choosing:
            if said is not None:
                yield login or await self._said(said)
            elif earlier is not None:
                yield await self._route_of(earlier.id)
            else:
                user_id, provider = connection.user_id, connection.provider
                yield login or await self._for_login(user_id, provider, None)

    def sealed(self, connection: Connection, route: Route) -> bytes | None:
        """What is stored of a route beside what is shown of it."""
        if not route.own:
            return None
        text = DIRECTLY if route.proxy is None else route.proxy.reveal()
        return self._vault.seal(text.encode(), proxy_context(connection))

    async def change(self, connection_id: str, said: Secret[str]) -> Connection:
        """Gives a connection another address, for its runs and refreshes from now on.

        Raises NotFound, InvalidRequest, ProxyProblem; it then leaves as before.
        """
        async with self._choosing:
            connection = await self._store.connections.get(connection_id)
            if connection is None or connection.state is ConnectionState.DISCONNECTED:
                raise NotFound(
                    f"There is no connection {connection_id[:64]!r}.",
                    remedy="`polydev connections` lists them.",
                )
            route = await self._said(said, connection)
            changed = await self._store.connections.set_proxy(
                connection.id, route.shown(), self.sealed(connection, route)
            )
            self._known[connection.id] = route
            await self._egress.set_proxy(connection.id, route.proxy)
        return changed

    def forget(self, connection_id: str) -> None:
        """Drops what is in memory of a connection."""
        self._known.pop(connection_id, None)

    # Each of these is called by one at a time.

    async def _route_of(self, connection_id: str) -> Route:
        if connection_id not in self._known:
            connection = await self._store.connections.get(connection_id)
            if connection is None or connection.state is ConnectionState.DISCONNECTED:
                raise NoConnection(f"The connection {connection_id} has ended.")
            self._known[connection_id] = await self._stored(connection)
        return self._known[connection_id]

    async def _stored(self, connection: Connection) -> Route:
        sealed = await self._store.connections.own_proxy(connection.id)
        if sealed is not None:
            text = self._vault.open(sealed, proxy_context(connection)).reveal().decode()
            if text == DIRECTLY:
                return Route(proxy=None, own=True)
            found = ProxyRange.parse(text)
            return Route(proxy=found.at(found.ports[0]), own=True)
        route = await self._by_setting(connection)
        if route.shown() != connection.proxy:
            await self._store.connections.set_proxy(connection.id, route.shown(), None)
        return route

    async def _for_login(self, user_id: str, provider: str, said: Secret[str] | None) -> Route:
        if said is not None:
            return await self._said(said)
        own = [
            connection
            for connection in await self._store.connections.of_user(user_id, provider)
            if connection.state is not ConnectionState.DISCONNECTED
        ]
        waiting = [one for one in own if one.state is not ConnectionState.ACTIVE]
        if waiting:
            return await self._route_of(waiting[-1].id)
        if self._setting is None and own:
            return await self._route_of(own[-1].id)
        return await self._by_setting()

    async def _said(self, said: Secret[str], connection: Connection | None = None) -> Route:
        text = said.reveal().strip()
        if text.lower() == DIRECTLY:
            return Route(proxy=None, own=True)
        try:
            addresses = ProxyRange.parse(text)
        except ValueError as error:
            raise InvalidRequest(
                f"This proxy cannot be used: {error}.",
                remedy=f"`{DIRECTLY}` stands for none. Nothing was changed.",
                reason="invalid_proxy",
            ) from error
        return Route(proxy=await self._one_of(addresses, connection), own=True)

    async def _by_setting(self, connection: Connection | None = None) -> Route:
        if self._setting is None:
            return Route(proxy=None, own=False)
        return Route(proxy=await self._one_of(self._setting, connection), own=False)

    async def _one_of(self, addresses: ProxyRange, connection: Connection | None) -> Proxy:
        """The port that `connection` has already, or the first that no other one has."""
        candidates = {proxy.shown(): proxy for proxy in map(addresses.at, addresses.ports)}
        if connection is not None and connection.proxy in candidates:
            return candidates[connection.proxy]
        if len(candidates) > 1:
            taken = {proxy.shown() for proxy in self._held.values()}
            for other in await self._store.connections.list():
                if other.state is not ConnectionState.DISCONNECTED and other.proxy:
                    taken.add(other.proxy)
            candidates = {shown: one for shown, one in candidates.items() if shown not in taken}
        if not candidates:
            raise ProxyProblem(
                f"Each port of the outbound proxy {addresses.shown()} is taken by another "
                "connection, and nothing leaves without one.",
                remedy="Widen the range, disconnect a connection, or name another address: "
                "`polydev connect PROVIDER --proxy ADDRESS`, `polydev proxy CONNECTION ADDRESS`.",
                reason="proxy_ports_taken",
            )
        return next(iter(candidates.values()))
