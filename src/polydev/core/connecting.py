"""Connecting: a connection is made from a credential file, and proved by a live call."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from polydev.core.connections import Connections
from polydev.core.credentials import Credentials
from polydev.core.outcomes import error_from
from polydev.core.proxies import Proxies, Route
from polydev.core.runner import Started
from polydev.core.runs import Runs
from polydev.errors import InvalidRequest, NeedsLogin, PolydevError
from polydev.events import EndReason
from polydev.models.accounts import Connection, ConnectionState, Ownership, User
from polydev.models.ids import new_id
from polydev.models.runs import Prompt, RunRequest, Surface, Text, Turn
from polydev.providers.base import Provider
from polydev.providers.registry import provider_named
from polydev.secret import Secret
from polydev.store import Store

_PROOF = "Reply with the single word: ready"
_PROOF_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NewConnection:
    """files: path under HOME → content; source: the file to follow, for `Ownership.FOLLOW`.

    proxy: what its owner said that it leaves by; login_route: what its login left by.
    renews: the connection in whose place it comes, unless it turns out to be another account's.
    proof: what `prepare` gave.
    """

    user: User
    provider: str
    files: Mapping[str, Secret[bytes]]
    ownership: Ownership
    source: str | None
    proxy: Secret[str] | None = None
    login_route: Route | None = None
    renews: str | None = None
    proof: "Proof | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A CLI that waits to prove a login to its provider. Whoever had it prepared closes it."""

    identity: str
    started: Started

    async def close(self) -> None:
        await self.started.close()


class Connecting:
    def __init__(
        self,
        *,
        store: Store,
        credentials: Credentials,
        connections: Connections,
        proxies: Proxies,
        runs: Runs,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._connections = connections
        self._proxies = proxies
        self._runs = runs

    async def prepare(self, provider: Provider) -> Proof | None:
        """Starts the CLI that will prove a login, while the person is still logging in.

        None where its start needs to know the account. Raises what the sandbox could not do.
        """
        if not provider.starts_alone:
            return None
        identity = str(uuid.uuid4())
        prompt = _proof_request(provider).prompt
        started = await self._runs.start_alone(provider, prompt, identity)
        return Proof(identity=identity, started=started)

    async def connect(self, new: NewConnection) -> tuple[Connection, str]:
        """A new, proved connection, and a sentence about it.

        It takes the place of the same account's earlier connection of this user, and leaves by the
        same address unless another is said. A login that the provider refuses is not kept, unless
        it was renewed here: then this is its only copy. One that could not be proved for another
        reason is kept as `proving`. Raises CredentialUnreadable, ProxyProblem, and whatever the
        live call failed with.
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
            identity=new.proof.identity if new.proof else str(uuid.uuid4()),
            created_at=datetime.now(UTC),
            account=credential.account,
            plan=credential.plan,
            source=new.source if new.ownership is Ownership.FOLLOW else None,
            expires_at=credential.expires_at,
        )
        earlier = await self._earlier(connection)
        async with self._proxies.for_new(
            connection, new.proxy, new.login_route, earlier[-1] if earlier else None
        ) as route:
            connection = replace(connection, proxy=route.shown())
            own_proxy = self._proxies.sealed(connection, route)
            connection = await self._credentials.add(connection, credential, own_proxy)
        # One that was started for a login cannot prove a key.
        is_login = new.proof is not None and credential.kind == "oauth"
        problem = await self._prove(
            connection, new.proof.started if new.proof and is_login else None
        )
        if isinstance(problem, NeedsLogin):
            await self._not_proved(connection.id, problem)
        if problem is not None:
            raise problem
        connection = await self._proved(connection.id)
        ended = await self._supersede(connection, new.renews)
        replaced = f" It takes the place of {', '.join(ended)}." if ended else ""
        return connection, f"{provider.title} answered.{replaced}"

    async def check(self, connection_id: str) -> tuple[Connection, bool, str]:
        """Proves a connection by a live call: the connection, whether it is good, and why not."""
        connection = await self._connections.get(connection_id)
        if connection.state is ConnectionState.DISCONNECTED:
            raise InvalidRequest("The connection is disconnected.", remedy="Connect it anew.")
        problem = await self._prove(connection)
        if problem is None:
            return await self._proved(connection_id), True, "It answered."
        if isinstance(problem, NeedsLogin):
            await self._store.connections.set_state(
                connection_id, ConnectionState.NEEDS_LOGIN, problem.message
            )
        return await self._connections.get(connection_id), False, str(problem)

    async def _prove(
        self, connection: Connection, started: Started | None = None
    ) -> PolydevError | None:
        """A live call with the smallest question; what speaks against the connection."""
        provider = provider_named(connection.provider)
        active = await self._runs.start(
            connection.user_id,
            None,
            provider,
            connection,
            _proof_request(provider),
            started=started,
        )
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
        connection = await self._connections.get(connection_id)
        if connection.credential_version == 1:
            await self._connections.disconnect(connection_id)
        elif connection.state is ConnectionState.PROVING:
            await self._store.connections.set_state(
                connection_id, ConnectionState.NEEDS_LOGIN, problem.message
            )

    async def _supersede(self, new: Connection, renews: str | None) -> tuple[str, ...]:
        """Ends this user's earlier connections to the same subscription; their ids."""
        earlier = await self._earlier(new, renews)
        return tuple([(await self._connections.disconnect(old.id)).id for old in earlier])

    async def _earlier(self, new: Connection, renews: str | None = None) -> list[Connection]:
        """The user's other connections to the same subscription, oldest first.

        Without a name for the account nothing tells that two are the same, but the person who
        said that the one `renews` the other.
        """

        def is_same(old: Connection) -> bool:
            if old.id == renews:
                return not (old.account and new.account) or old.account == new.account
            return bool(new.account) and (old.account, old.plan) == (new.account, new.plan)

        return [
            old
            for old in await self._store.connections.of_user(new.user_id, new.provider)
            if is_same(old) and old.id != new.id and old.state is not ConnectionState.DISCONNECTED
        ]


def _proof_request(provider: Provider) -> RunRequest:
    return RunRequest(
        provider=provider.name,
        prompt=Prompt(
            model=provider.catalogue.default,
            turns=(Turn(role="user", parts=(Text(text=_PROOF),)),),
            max_tokens=64,
        ),
        surface=Surface.CHECK,
        timeout_seconds=_PROOF_SECONDS,
    )
