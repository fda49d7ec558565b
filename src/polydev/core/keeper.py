"""The one place where credentials are opened, refreshed and handed to egress.

One refresher per connection: everybody who needs a fresh credential while it is being refreshed
waits for the same refresh, which goes on although they are cancelled. Write-back compares and
swaps on the credential's version. An answer of a token endpoint that could not be written back
(a full disk, a killed gateway) is applied before that connection is refreshed again: the refresh
token it was given for is used up.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from polydev.config import KeeperSettings
from polydev.core.answers import Answers, Kept, is_news
from polydev.core.metrics import Metrics
from polydev.core.programs import Programs
from polydev.core.refresh import Verdict, judge, run_refresh
from polydev.egress.client import Egress
from polydev.egress.spool import SpooledAnswer
from polydev.errors import (
    CredentialUnreadable,
    NeedsLogin,
    NoConnection,
    PolydevError,
    ProviderProblem,
)
from polydev.models.accounts import Connection, ConnectionState, Credential, Ownership
from polydev.models.seals import credential_context
from polydev.providers.base import Provider
from polydev.providers.registry import provider_named
from polydev.sandboxes.abc import Sandboxes
from polydev.secret import Secret
from polydev.store import Store
from polydev.vault import Vault

log = structlog.get_logger()

# A token this close to its end may end on the way to the provider.
_TOO_SHORT = timedelta(seconds=60)
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class Keeper:
    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        egress: Egress,
        sandboxes: Sandboxes,
        programs: Programs,
        spool: Path,
        metrics: Metrics,
        settings: KeeperSettings,
    ) -> None:
        self._store = store
        self._vault = vault
        self._egress = egress
        self._sandboxes = sandboxes
        self._programs = programs
        self._answers = Answers(spool, vault)
        self._metrics = metrics
        self._settings = settings
        self._renewing: dict[str, asyncio.Task[Credential]] = {}
        self._opened: dict[str, tuple[int, Credential]] = {}
        self._resting_until: dict[str, datetime] = {}

    async def fresh(self, connection_id: str) -> Credential:
        """A credential that is good for a request now, and that egress holds.

        Raises NoConnection, NeedsLogin (the provider refused it), ProviderProblem (it could not
        be refreshed now, and is too old to be used).
        """
        connection = await self._connection(connection_id)
        credential = await self._current(connection)
        if not _expires_within(credential, _TOO_SHORT):
            return credential
        return await self._renewed(connection_id, _TOO_SHORT)

    async def seal_first(self, connection: Connection, credential: Credential) -> Connection:
        """Stores a new connection with its first credential."""
        sealed = self._sealed(connection, credential)
        return await self._store.connections.add(connection, sealed)

    async def forget(self, connection_id: str) -> None:
        """Drops everything that is in memory of a connection, here and in egress."""
        self._opened.pop(connection_id, None)
        self._answers.forget(connection_id)
        await self._egress.forget(connection_id)

    def refused(self, connection: Connection, used: Credential) -> None:
        """A run was told that its credential is no good: it is refreshed before the next.

        Unless it has been already, or its own CLI does that.
        """
        known = self._opened.get(connection.id)
        if known is None or connection.ownership is not Ownership.TAKE:
            return
        version, held = known
        if held.refresh_token is not None and held.access_token == used.access_token:
            self._opened[connection.id] = (version, replace(held, expires_at=datetime.now(UTC)))

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
                credential = await self._current(connection, publish=False)
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
        credential = await self._current(connection)
        ahead = timedelta(seconds=self._settings.ahead_seconds)
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
        credential = await self._current(connection)
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
        try:
            return await self._refresh(connection, credential)
        except ProviderProblem:
            # Each attempt may use up the refresh token, and keeps runs waiting.
            rest = timedelta(seconds=self._settings.rest_seconds)
            self._resting_until[connection.id] = datetime.now(UTC) + rest
            raise

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
        swapped = await self._store.connections.swap_credential(
            connection.id,
            connection.credential_version,
            self._sealed(connection, renewed),
            expires_at=renewed.expires_at,
            refreshed_at=answer.at,
            plan=renewed.plan or None,
        )
        if not swapped:
            # Connected anew or disconnected meanwhile: that is newer than what was refreshed.
            raise ProviderProblem(
                "The credential was replaced while it was being refreshed.",
                remedy="Ask again; the newer one is used then.",
                provider=provider.name,
            )
        await self._publish(connection.id, connection.credential_version + 1, renewed)
        return renewed

    async def _needs_login(self, connection: Connection, reason: str) -> None:
        if connection.state is ConnectionState.ACTIVE:
            await self._store.connections.set_state(
                connection.id, ConnectionState.NEEDS_LOGIN, reason
            )
            log.warning("a connection needs a login", connection=connection.id, reason=reason)
        raise NeedsLogin(
            reason if reason.endswith(".") else f"{reason}.",
            remedy="Log in with the CLI and connect its file again.",
            provider=connection.provider,
        )

    async def _current(self, connection: Connection, *, publish: bool = True) -> Credential:
        """The stored credential, or the followed file's when that is newer."""
        known = self._opened.get(connection.id)
        if known is None or known[0] != connection.credential_version:
            stored = await self._store.connections.credential(connection.id)
            if stored is None:
                raise _no_credential(connection)
            sealed = self._vault.open(stored.sealed, credential_context(connection))
            provider = provider_named(connection.provider)
            known = (stored.version, provider.read_credential(decode_files(sealed)))
            if publish:
                await self._publish(connection.id, *known)
        if connection.ownership is Ownership.FOLLOW:
            return await self._follow(connection, *known)
        return known[1]

    async def _follow(
        self, connection: Connection, version: int, credential: Credential
    ) -> Credential:
        """Rereads the followed file; an emptied or older one never replaces a good one."""
        provider = provider_named(connection.provider)
        assert connection.source is not None
        found = await asyncio.to_thread(read_followed, provider, Path(connection.source))
        if found is None or not _is_newer(found, credential):
            return credential
        swapped = await self._store.connections.swap_credential(
            connection.id, version, self._sealed(connection, found), expires_at=found.expires_at
        )
        if not swapped:
            return credential
        log.info("the followed login was renewed by its CLI", connection=connection.id)
        await self._publish(connection.id, version + 1, found)
        return found

    async def _publish(self, connection_id: str, version: int, credential: Credential) -> None:
        known = self._opened.get(connection_id)
        if known is not None and known[0] > version:
            return  # a newer one came while this one was being opened
        await self._egress.set_credential(
            connection_id,
            access_token=credential.access_token,
            attributes=credential.attributes,
        )
        self._opened[connection_id] = (version, credential)

    async def _connection(self, connection_id: str) -> Connection:
        connection = await self._store.connections.get(connection_id)
        if connection is None:
            raise NoConnection(f"There is no connection {connection_id}.")
        return connection

    def _sealed(self, connection: Connection, credential: Credential) -> bytes:
        return self._vault.seal(encode_files(credential.files), credential_context(connection))


def read_followed(provider: Provider, source: Path) -> Credential | None:
    """What a followed file holds; None while it is missing, half-written or emptied."""
    try:
        return provider.read_credential(
            {str(provider.credential_file): Secret(source.read_bytes())}
        )
    except (OSError, ValueError, PolydevError):
        return None  # its CLI is between two states; what is stored stays good meanwhile


def encode_files(files: Mapping[str, Secret[bytes]]) -> bytes:
    return json.dumps(
        {path: base64.b64encode(content.reveal()).decode() for path, content in files.items()}
    ).encode()


def decode_files(content: Secret[bytes]) -> dict[str, Secret[bytes]]:
    files = json.loads(content.reveal())
    return {path: Secret(base64.b64decode(text)) for path, text in files.items()}


def _expires_within(credential: Credential, span: timedelta) -> bool:
    return credential.expires_at is not None and credential.expires_at <= datetime.now(UTC) + span


def _is_newer(found: Credential, held: Credential) -> bool:
    if found.access_token == held.access_token:
        return False
    if found.expires_at is None or held.expires_at is None:
        return True
    return found.expires_at > held.expires_at


def _no_credential(connection: Connection) -> NoConnection:
    return NoConnection(
        f"The connection {connection.id} has no credential any more.",
        remedy=f"Connect it again: `polydev connect {connection.provider} --from FILE`.",
        provider=connection.provider,
    )
