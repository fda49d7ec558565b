"""Keeps logins alive: refreshed ahead of their end, by their CLI's own means.

One refresher per connection: everybody who needs a fresh credential while it is being refreshed
waits for the same refresh, which goes on although they are cancelled. An answer of a token endpoint
that could not be written back (a full disk, a killed gateway) is applied before that connection is
refreshed again: the refresh token it was given for is used up.
"""

import asyncio
import hashlib
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from polydev.config import KeeperSettings
from polydev.core.answers import Answers, Kept, is_news
from polydev.core.credentials import Credentials
from polydev.core.metrics import Metrics
from polydev.core.programs import Programs
from polydev.core.proxies import Proxies
from polydev.core.refresh import Verdict, judge, run_refresh
from polydev.egress.client import Egress
from polydev.egress.spool import SpooledAnswer
from polydev.errors import (
    CredentialUnreadable,
    NeedsLogin,
    NoConnection,
    PolydevError,
    ProviderProblem,
    StoreProblem,
)
from polydev.models.accounts import Connection, ConnectionState, Credential, Ownership
from polydev.providers.registry import provider_named
from polydev.sandboxes.abc import Sandboxes
from polydev.store import Store
from polydev.vault import Vault

log = structlog.get_logger()

# A token this close to its end may end on the way to the provider.
_TOO_SHORT = timedelta(seconds=60)
# Longer than a refresh and its writing back; how often somebody else's is looked at.
_LEASE_SECONDS, _LOOK_SECONDS = 90.0, 0.25
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class Keeper:
    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        credentials: Credentials,
        egress: Egress,
        sandboxes: Sandboxes,
        programs: Programs,
        proxies: Proxies,
        spool: Path,
        metrics: Metrics,
        settings: KeeperSettings,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._egress = egress
        self._sandboxes = sandboxes
        self._programs = programs
        self._proxies = proxies
        self._answers = Answers(spool, vault)
        self._metrics = metrics
        self._settings = settings
        self._holder = _holder(spool)
        self._renewing: dict[str, asyncio.Task[Credential]] = {}
        self._resting_until: dict[str, datetime] = {}

    async def fresh(self, connection: Connection) -> Credential:
        """A credential that is good for a request now, and that egress holds.

        connection: as it was read a moment ago. Raises NoConnection, NeedsLogin (the provider refused it), ProviderProblem (it could not
        be refreshed now, and is too old to be used).
        """
        credential = await self._credentials.current(connection)
        if not _expires_within(credential, _TOO_SHORT):
            return credential
        return await self._renewed(connection.id, _TOO_SHORT)

    async def forget(self, connection_id: str) -> None:
        """Drops everything that is in memory of a connection, here and in egress."""
        self._answers.forget(connection_id)
        await self._credentials.forget(connection_id)

    async def refused(self, connection: Connection, used: Credential) -> None:
        """A run was told that its credential is no good: it is renewed before the next run.

        One that cannot be renewed needs a login. A followed one is its own CLI's business.
        """
        if connection.ownership is not Ownership.TAKE:
            return
        if used.refresh_token is None:
            await self._mark(connection, "The provider refused this key.")
        else:
            self._credentials.expire(connection, used)

    async def recover(self) -> None:
        """Applies what a killed gateway left in the spool."""
        for kept in self._answers.in_spool():
            try:
                connection = await self._store.connections.get(kept.answer.connection_id)
                if (
                    connection is None
                    or connection.state is ConnectionState.DISCONNECTED
                    or not is_news(kept.answer, connection)
                ):
                    kept.discard()
                    continue
                credential = await self._credentials.current(connection, publish=False)
                await self._settle(connection, credential, kept)
            except (NeedsLogin, ProviderProblem, CredentialUnreadable) as error:
                log.warning("a sealed answer renewed no login", problem=str(error))
            except (PolydevError, OSError) as error:
                log.error("a sealed answer could not be applied", problem=str(error))

    async def keep_forever(self) -> None:
        """Refreshes ahead of expiry until cancelled; then ends what refreshes are under way."""
        try:
            while True:
                try:
                    await self._look_after_all()
                except PolydevError as error:
                    log.warning("the keeper could not look after connections", problem=str(error))
                except Exception:
                    # The task's outermost boundary: without it every login ends in some hours.
                    log.exception("the keeper failed unexpectedly")
                await asyncio.sleep(self._settings.check_seconds)
        finally:
            renewing = list(self._renewing.values())
            for task in renewing:
                task.cancel()  # an answer under way is sealed by then, and applied at next start
            if renewing:
                await asyncio.wait(renewing)

    async def _look_after_all(self) -> None:
        for connection in await self._store.connections.list():
            if connection.state is not ConnectionState.ACTIVE or self._rests(connection):
                continue
            try:
                await self._look_after(connection)
            except PolydevError as error:
                log.warning(
                    "a credential could not be refreshed",
                    connection=connection.id,
                    provider=connection.provider,
                    problem=str(error),
                )
            except Exception:
                # One connection's boundary: the others have to be looked after all the same.
                log.exception("the keeper failed unexpectedly", connection=connection.id)

    def _rests(self, connection: Connection) -> bool:
        return self._resting_until.get(connection.id, _EARLIEST) > datetime.now(UTC)

    async def _look_after(self, connection: Connection) -> None:
        credential = await self._credentials.current(connection)
        ahead = timedelta(seconds=self._settings.ahead_seconds * (1 + _spread(connection)))
        if connection.ownership is not Ownership.TAKE or not _expires_within(credential, ahead):
            return
        await self._renewed(connection.id, ahead)

    async def _renewed(self, connection_id: str, within: timedelta) -> Credential:
        """A credential that does not expire `within`; refreshed if need be, once for all who ask.

        In a task of its own: a caller may go away in the middle of a refresh, whose answer is the
        login from then on.
        """
        task = self._renewing.get(connection_id)
        if task is None:
            task = asyncio.create_task(self._renew(connection_id, within))
            self._renewing[connection_id] = task
            task.add_done_callback(lambda done: self._no_longer_renewing(connection_id, done))
        return await asyncio.shield(task)

    def _no_longer_renewing(self, connection_id: str, task: asyncio.Task[Credential]) -> None:
        del self._renewing[connection_id]
        if not task.cancelled():
            task.exception()  # whoever asked is told; it may be that nobody waits any more

    async def _renew(self, connection_id: str, within: timedelta) -> Credential:
        connection = await self._connection(connection_id)
        credential = await self._credentials.current(connection)
        if not _expires_within(credential, within):
            return credential  # somebody refreshed it while this waited
        if connection.ownership is Ownership.FOLLOW:
            raise NeedsLogin(
                f"The {connection.provider} login that is followed at {connection.source} "
                "has expired, and its own CLI has not renewed it.",
                remedy="Use that CLI once, or connect with `--take` to have polydev renew it.",
                provider=connection.provider,
            )
        kept = self._answers.waiting_for(connection)
        if kept is not None:
            credential = await self._settle(connection, credential, kept)
            if not _expires_within(credential, within):
                return credential
            connection = await self._connection(connection_id)
        if self._rests(connection):
            raise ProviderProblem(
                "The login could not be renewed a moment ago; it is tried again soon.",
                remedy="Try again after `retry-after`.",
                provider=connection.provider,
                retry_at=self._resting_until[connection.id],
            )
        lease = await self._store.leases.take(
            f"refresh {connection.id}", self._holder, _LEASE_SECONDS
        )
        if lease is None:
            return await self._renewed_elsewhere(connection_id, within)
        try:
            return await self._renew_under_lease(connection_id, within)
        except ProviderProblem:
            # Each attempt may use up the refresh token, and keeps runs waiting.
            rest = timedelta(seconds=self._settings.rest_seconds)
            self._resting_until[connection.id] = datetime.now(UTC) + rest
            raise
        finally:
            try:
                await self._store.leases.give_back(lease)
            except StoreProblem as problem:
                log.warning("a lease could not be given back; it ends by itself", why=str(problem))

    async def _renew_under_lease(self, connection_id: str, within: timedelta) -> Credential:
        connection = await self._connection(connection_id)
        credential = await self._credentials.current(connection)
        if not _expires_within(credential, within):
            return credential  # another gateway refreshed it before the lease was ours
        return await self._refresh(connection, credential)

    async def _renewed_elsewhere(self, connection_id: str, within: timedelta) -> Credential:
        """The credential that another gateway renews at this moment."""
        until = datetime.now(UTC) + timedelta(seconds=_LEASE_SECONDS)
        while datetime.now(UTC) < until:
            await asyncio.sleep(_LOOK_SECONDS)  # databases tell nobody of what changed
            connection = await self._connection(connection_id)
            if connection.state is not ConnectionState.ACTIVE:
                raise NeedsLogin(connection.reason, provider=connection.provider)
            credential = await self._credentials.current(connection)
            if not _expires_within(credential, within):
                return credential
        raise ProviderProblem(
            "Another gateway has been renewing this login for long, and did not say how it ended.",
            remedy="Try again in a moment.",
            provider=connection.provider,
        )

    async def _refresh(self, connection: Connection, credential: Credential) -> Credential:
        """Refreshes; only the connection's one renewing task calls this."""
        provider = provider_named(connection.provider)
        if credential.refresh_token is None:
            await self._needs_login(connection, "The login has expired and cannot be renewed.")
        log.info("refreshing", connection=connection.id, provider=connection.provider)
        try:
            binding = await run_refresh(
                connection=connection,
                credential=credential,
                provider=provider,
                programs=self._programs,
                sandboxes=self._sandboxes,
                egress=self._egress,
                proxy=await self._proxies.of(connection.id),
                seal_key=self._answers.seal_key,
            )
            renewed = await self._settle(connection, credential, self._answers.of(binding))
        except PolydevError as error:
            outcome = "refused" if isinstance(error, NeedsLogin) else "failed"
            self._metrics.refreshes.labels(provider=connection.provider, outcome=outcome).inc()
            raise
        self._metrics.refreshes.labels(provider=connection.provider, outcome="renewed").inc()
        return renewed

    async def _settle(
        self, connection: Connection, credential: Credential, kept: Kept
    ) -> Credential:
        """Applies an answer, and drops it unless it still has to be written back."""
        try:
            renewed = await self._apply(connection, credential, kept.answer)
        except (NeedsLogin, ProviderProblem, CredentialUnreadable):
            kept.discard()
            raise
        except PolydevError:
            self._answers.hold(kept)
            raise
        kept.discard()
        return renewed

    async def _apply(
        self, connection: Connection, credential: Credential, answer: SpooledAnswer
    ) -> Credential:
        """Makes a token endpoint's answer the connection's credential, or its verdict its state."""
        provider = provider_named(connection.provider)
        judgement = judge(answer)
        if judgement.verdict is Verdict.REFUSED:
            await self._needs_login(
                connection, f"The provider refused to renew the login: {judgement.reason}"
            )
        if judgement.verdict is Verdict.UNCLEAR:
            raise ProviderProblem(
                f"{provider.title} could not renew the login now: {judgement.reason}.",
                remedy="The login is unchanged; it is tried again by itself.",
                provider=provider.name,
            )
        renewed = provider.renew(credential, answer.body, answer.at)
        version = connection.credential_version
        if not await self._credentials.replace(connection, version, renewed, answer.at):
            # Connected anew or disconnected meanwhile: that is newer than what was refreshed.
            raise ProviderProblem(
                "The credential was replaced while it was being refreshed.",
                remedy="Ask again; the newer one is used then.",
                provider=provider.name,
            )
        return renewed

    async def _needs_login(self, connection: Connection, reason: str) -> None:
        await self._mark(connection, reason)
        raise NeedsLogin(
            reason if reason.endswith(".") else f"{reason}.",
            remedy=f"Log in again: `polydev connect {connection.provider}`, or on the dashboard.",
            provider=connection.provider,
        )

    async def _mark(self, connection: Connection, reason: str) -> None:
        if connection.state is ConnectionState.ACTIVE:
            await self._store.connections.set_state(
                connection.id, ConnectionState.NEEDS_LOGIN, reason
            )
            log.warning("a connection needs a login", connection=connection.id, reason=reason)

    async def _connection(self, connection_id: str) -> Connection:
        connection = await self._store.connections.get(connection_id)
        if connection is None:
            raise NoConnection(f"There is no connection {connection_id}.")
        return connection


def _holder(spool: Path) -> str:
    """Who holds leases: the gateway of this data directory, also after it was killed."""
    place = f"{platform.node()} {spool.absolute()}"
    return hashlib.sha256(place.encode()).hexdigest()


def _spread(connection: Connection) -> float:
    """0 to 0.5, another for each credential: logins made together are not refreshed together."""
    seed = f"{connection.id} {connection.credential_version}".encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:4]) / 2**33


def _expires_within(credential: Credential, span: timedelta) -> bool:
    return credential.expires_at is not None and credential.expires_at <= datetime.now(UTC) + span
