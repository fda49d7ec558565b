"""The master keys: where they come from, and adding and dropping them.

They come from `POLYDEV_MASTER_KEY`, or from the file `master.key` in the data directory, made
with mode 0600 the first time. Either holds base64 of 32 bytes, several times while a rotation is
under way: the first key seals, the others only open.

The file is replaced as a whole and synced before a function returns, so a kill leaves the old
content or the new one. Everything that is wrong with a key or its file is a VaultProblem, and
nothing has been changed then. Whoever adds or drops keys holds the data directory's lock.
"""

import base64
import binascii
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from polydev.errors import VaultProblem
from polydev.sealing import KEY_BYTES
from polydev.secret import Secret

KEY_FILE = "master.key"
KEY_ID_BYTES = 8
_FILE_LIMIT_BYTES = 64 * 1024
_VARIABLE = "POLYDEV_MASTER_KEY"
_RESTORE = "Restore the key file from its backup, or set POLYDEV_MASTER_KEY to an exported key."


class MasterKey:
    """32 bytes from which the keys that are really used are derived. Equal by its id."""

    __slots__ = ("_material", "id")

    def __init__(self, material: Secret[bytes]) -> None:
        if len(material) != KEY_BYTES:
            raise VaultProblem(
                f"A master key has {KEY_BYTES} bytes, this one has {len(material)}.",
                remedy="Make one with: openssl rand -base64 32",
            )
        self._material = material
        identity = self.derive("id").reveal()
        self.id = hashlib.sha256(identity).digest()[:KEY_ID_BYTES]

    def derive(self, *labels: str) -> Secret[bytes]:
        """A key for one use (HKDF-SHA256); different labels give unrelated keys."""
        info = join_unambiguously(("polydev", *labels))
        kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info)
        return Secret(kdf.derive(self._material.reveal()))

    def export(self) -> Secret[str]:
        """As `POLYDEV_MASTER_KEY` and the key file take it."""
        return Secret(base64.b64encode(self._material.reveal()).decode())

    def __repr__(self) -> str:
        return f"MasterKey(id={self.id.hex()})"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, MasterKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRing:
    """The keys in use, newest first; never empty.

    file: where they are kept; None when they come from the environment.
    """

    keys: tuple[MasterKey, ...]
    file: Path | None = None

    @property
    def first(self) -> MasterKey:
        return self.keys[0]

    @property
    def rotating(self) -> bool:
        """Whether older keys are still held, because values may be sealed with them."""
        return len(self.keys) > 1

    def find(self, key_id: bytes) -> MasterKey | None:
        return next((key for key in self.keys if key.id == key_id), None)


def join_unambiguously(parts: Iterable[str]) -> bytes:
    """`parts`, each preceded by its length: no two different lists give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


def load_keyring(master_key: SecretStr | None, data: Path, *, may_create: bool = True) -> KeyRing:
    """The keys of this installation.

    may_create: False where sealed values exist already, so that a lost key file is reported in
    place of being replaced by a key that opens nothing.
    """
    if master_key is not None:
        return parse_keyring(Secret(master_key.get_secret_value()))
    file = data / KEY_FILE
    if not os.path.lexists(file):
        if not may_create:
            raise VaultProblem(
                f"The master key is gone: {file} does not exist, and there are sealed values.",
                remedy=_RESTORE,
                reason="key_missing",
            )
        _create(file)
    return _read(file)


def parse_keyring(text: Secret[str]) -> KeyRing:
    """The keys in the form of `POLYDEV_MASTER_KEY`: separated by commas."""
    return KeyRing(keys=_parse(text.reveal().split(","), _VARIABLE))


def add_key(ring: KeyRing) -> KeyRing:
    """The ring with a new first key, written to its file. Until values are resealed the older
    keys stay in it.
    """
    fresh = MasterKey(Secret(os.urandom(KEY_BYTES)))
    return _rewrite(ring, (fresh, *ring.keys), "put a new key before the present one, in")


def drop_old_keys(ring: KeyRing) -> KeyRing:
    """The ring with its first key alone, written to its file.

    Only for when nothing is sealed with the older ones any more: what still is, is lost.
    """
    if not ring.rotating:
        return ring
    return _rewrite(ring, ring.keys[:1], "remove all keys but the first from")


def _rewrite(ring: KeyRing, keys: tuple[MasterKey, ...], by_hand: str) -> KeyRing:
    if ring.file is None:
        raise VaultProblem(
            f"The master key comes from {_VARIABLE}, which polydev cannot change.",
            remedy=f"Restart after you {by_hand} {_VARIABLE}.",
            reason="key_in_environment",
        )
    if _read(ring.file).keys != ring.keys:
        raise VaultProblem(
            f"{ring.file} was changed by another process since it was read; it is left as it is.",
            remedy="Try again when no other polydev works on this data directory.",
            reason="key_file_changed",
        )
    _write(ring.file, keys, replace_existing=True)
    return replace(ring, keys=keys)


def _create(file: Path) -> None:
    key = MasterKey(Secret(os.urandom(KEY_BYTES)))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(file, "cannot be made", error) from error
    # Another process may have been first: then its key is the one.
    with suppress(FileExistsError):
        _write(file, (key,), replace_existing=False)


def _write(file: Path, keys: tuple[MasterKey, ...], *, replace_existing: bool) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # 0600
        fresh = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.writelines(f"{key.export().reveal()}\n" for key in keys)
                stream.flush()
                os.fsync(stream.fileno())
            if replace_existing:
                fresh.replace(file)
            else:
                os.link(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        raise
    except OSError as error:
        raise _unusable(file, "cannot be written", error) from error


def _read(file: Path) -> KeyRing:
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(_FILE_LIMIT_BYTES)
    except OSError as error:
        raise _unusable(file, "cannot be read", error) from error
    if mode & 0o077:
        raise VaultProblem(
            f"{file} has mode {mode:04o}: others on this machine may use the master key.",
            remedy=f"chmod 600 {file}; if others could have read it, polydev vault rotate too.",
            reason="key_file_mode",
        )
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise VaultProblem(
            f"{file} does not hold a master key: it is not text.",
            remedy=_RESTORE,
            reason="key_malformed",
        ) from error
    return KeyRing(keys=_parse(lines, str(file)), file=file)


def _parse(texts: Iterable[str], origin: str) -> tuple[MasterKey, ...]:
    keys: dict[bytes, MasterKey] = {}
    for text in texts:
        if not text.strip():
            continue
        # `from None` and no echo: what is wrong here may be most of a key.
        try:
            material = base64.b64decode(text.strip().translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            material = b""
        if len(material) != KEY_BYTES:
            raise VaultProblem(
                f"{origin} does not hold a master key: expected base64 of {KEY_BYTES} bytes.",
                remedy=f"{_RESTORE} A new installation's key: openssl rand -base64 32",
                reason="key_malformed",
            ) from None
        key = MasterKey(Secret(material))
        keys.setdefault(key.id, key)
    if not keys:
        raise VaultProblem(
            f"{origin} is empty: it holds no master key.", remedy=_RESTORE, reason="key_malformed"
        )
    return tuple(keys.values())


def _unusable(file: Path, what: str, error: OSError) -> VaultProblem:
    return VaultProblem(
        f"The master key file {file} {what}: {error.strerror or error}.",
        remedy="Give this user access to the data directory, or set POLYDEV_MASTER_KEY.",
        reason="key_file_unusable",
    )


_URL_SAFE = str.maketrans("-_", "+/")
