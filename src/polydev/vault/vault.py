"""Seals and opens values for one context each.

Layout of a sealed value: one byte of version, 8 bytes of key id, then what `sealing.seal_bytes`
gives. Version, key id and context are authenticated with it. A value that is damaged, was sealed
for another context or with a key that is not held raises VaultProblem and gives nothing.
"""

from polydev.errors import VaultProblem
from polydev.models.seals import CHECK_CONTEXT, SealContext
from polydev.sealing import open_bytes, seal_bytes
from polydev.secret import Secret
from polydev.vault.keys import KEY_ID_BYTES, KeyRing, MasterKey, join_unambiguously

_VERSION = b"\x01"
_HEADER_BYTES = len(_VERSION) + KEY_ID_BYTES
_CHECK = b"polydev"


class Vault:
    """Everything secret that is kept goes through here. Does no IO."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._sealing_keys = _sealing_keys(keyring)

    @property
    def keyring(self) -> KeyRing:
        return self._keyring

    def use(self, keyring: KeyRing) -> None:
        """From now on the keys of `keyring`; a rotation in a running gateway calls it."""
        self._keyring, self._sealing_keys = keyring, _sealing_keys(keyring)

    def seal(self, content: bytes, context: SealContext) -> bytes:
        header = _VERSION + self._keyring.first.id
        key = self._sealing_keys[self._keyring.first.id]
        return header + seal_bytes(key, content, _bound_to(header, context))

    def open(self, sealed: bytes, context: SealContext) -> Secret[bytes]:
        header = sealed[:_HEADER_BYTES]
        if len(header) < _HEADER_BYTES or header[:1] != _VERSION:
            raise VaultProblem(
                "A sealed value cannot be opened: it is damaged, or a newer polydev made it.",
                remedy="Restore the database from its backup, or use the newer polydev.",
                reason="damaged",
            )
        key = self._sealing_keys.get(header[1:])
        if key is None:
            raise VaultProblem(
                f"A sealed value needs the master key {header[1:].hex()}, which is not held.",
                remedy="Add that key after the present one in POLYDEV_MASTER_KEY or master.key.",
                reason="unknown_key",
            )
        return Secret(open_bytes(key, sealed[_HEADER_BYTES:], _bound_to(header, context)))

    def is_current(self, sealed: bytes) -> bool:
        """Whether it is sealed with the first key."""
        return sealed[:_HEADER_BYTES] == _VERSION + self._keyring.first.id

    def reseal(self, sealed: bytes, context: SealContext) -> bytes | None:
        """The same value under the first key; None when it is already."""
        if self.is_current(sealed):
            return None
        return self.seal(self.open(sealed, context).reveal(), context)

    def derive(self, purpose: str, id: str) -> Secret[bytes]:
        """A key of 32 bytes for something outside the vault, the same whenever it is asked for."""
        return _derived(self._keyring.first, purpose, id)

    def derive_all(self, purpose: str, id: str) -> tuple[Secret[bytes], ...]:
        """What `derive` gives now, then what it gave under the older keys, newest first."""
        return tuple(_derived(key, purpose, id) for key in self._keyring.keys)

    def check_value(self) -> bytes:
        """To be kept beside the sealed values; see `verify`."""
        return self.seal(_CHECK, CHECK_CONTEXT)

    def verify(self, check_value: bytes) -> None:
        """Raises VaultProblem unless these keys are the ones that the check value's vault had."""
        if self._sealing_keys.get(check_value[1:_HEADER_BYTES]) is None:
            held = ", ".join(key.id.hex() for key in self._keyring.keys)
            raise VaultProblem(
                "The master key is not the one that this database was sealed with "
                f"(held: {held}; needed: {check_value[1:_HEADER_BYTES].hex()}).",
                remedy="Set POLYDEV_MASTER_KEY to the right key, or restore master.key in the "
                "data directory. Nothing has been changed.",
                reason="wrong_key",
            )
        self.open(check_value, CHECK_CONTEXT)


def _sealing_keys(keyring: KeyRing) -> dict[bytes, Secret[bytes]]:
    return {key.id: key.derive("seal") for key in keyring.keys}


def _derived(key: MasterKey, purpose: str, id: str) -> Secret[bytes]:
    return key.derive("derive", purpose, id)


def _bound_to(header: bytes, context: SealContext) -> bytes:
    return header + join_unambiguously(
        (
            context.purpose,
            context.user_id,
            context.connection_id,
            context.provider,
            context.subject,
        )
    )
