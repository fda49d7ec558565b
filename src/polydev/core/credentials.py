"""Credentials, opened: from the vault or from the file that is followed, and handed to egress.

A credential is replaced by comparing and swapping its version; an emptied or older one never
replaces a good one.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from polydev.egress.client import Egress
from polydev.errors import NoConnection, PolydevError
from polydev.models.accounts import Connection, Credential, Ownership
from polydev.models.seals import credential_context
from polydev.providers.base import Provider
from polydev.providers.registry import provider_named
from polydev.secret import Secret
from polydev.store import Store
from polydev.vault import Vault

log = structlog.get_logger()


class Credentials:
    def __init__(self, store: Store, vault: Vault, egress: Egress) -> None:
        self._store = store
        self._vault = vault
        self._egress = egress
        self._opened: dict[str, tuple[int, Credential]] = {}  # with its version, by connection

    async def add(
        self, connection: Connection, credential: Credential, own_proxy: bytes | None
    ) -> Connection:
        """Stores a new connection with its first credential."""
        sealed = self._sealed(connection, credential)
        return await self._store.connections.add(connection, sealed, own_proxy)

    async def current(self, connection: Connection, *, publish: bool = True) -> Credential:
        """The stored credential, or the followed file's when that is newer.

        Egress holds it then, unless `publish` is false. Raises NoConnection, VaultProblem.
        """
        known = self._opened.get(connection.id)
        if known is None or known[0] != connection.credential_version:
            stored = await self._store.connections.credential(connection.id)
            if stored is None:
                raise _none(connection)
            sealed = self._vault.open(stored.sealed, credential_context(connection))
            provider = provider_named(connection.provider)
            known = (stored.version, provider.read_credential(decode_files(sealed)))
            if publish:
                await self._publish(connection.id, *known)
        if connection.ownership is Ownership.FOLLOW:
            return await self._follow(connection, *known)
        return known[1]

    async def replace(
        self, connection: Connection, version: int, renewed: Credential, at: datetime | None = None
    ) -> bool:
        """Whether the credential was still `version`, and is now `renewed`, held by egress.

        at: when the provider renewed it; None for one that its own CLI did.
        """
        swapped = await self._store.connections.swap_credential(
            connection.id,
            version,
            self._sealed(connection, renewed),
            expires_at=renewed.expires_at,
            refreshed_at=at,
            plan=renewed.plan or None,
        )
        if swapped:
            await self._publish(connection.id, version + 1, renewed)
        return swapped

    def expire(self, connection: Connection, used: Credential) -> None:
        """Takes a credential for expired, unless it has been renewed since it was `used`."""
        known = self._opened.get(connection.id)
        if known is not None and known[1].access_token == used.access_token:
            over = replace(known[1], expires_at=datetime.now(UTC))
            self._opened[connection.id] = (known[0], over)

    async def forget(self, connection_id: str) -> None:
        """Drops what is in memory of a connection, here and in egress."""
        self._opened.pop(connection_id, None)
        await self._egress.forget(connection_id)

    async def _follow(
        self, connection: Connection, version: int, credential: Credential
    ) -> Credential:
        provider = provider_named(connection.provider)
        assert connection.source is not None
        found = await asyncio.to_thread(read_followed, provider, Path(connection.source))
        if found is None or not _is_newer(found, credential):
            return credential
        if not await self.replace(connection, version, found):
            return credential
        log.info("the followed login was renewed by its CLI", connection=connection.id)
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


def _is_newer(found: Credential, held: Credential) -> bool:
    if found.access_token == held.access_token:
        return False
    if found.expires_at is None or held.expires_at is None:
        return True
    return found.expires_at > held.expires_at


def _none(connection: Connection) -> NoConnection:
    return NoConnection(
        f"The connection {connection.id} has no credential any more.",
        remedy=f"Connect it again: `polydev connect {connection.provider}`.",
        provider=connection.provider,
    )
