"""AES-256-GCM over bytes: the one place where polydev encrypts.

Layout of a sealed value: 12 bytes of nonce, fresh for each, then ciphertext with its 16-byte tag.
`bound_to` is authenticated with it and not stored: a value opens only for what it was sealed for.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polydev.errors import VaultProblem
from polydev.secret import Secret

KEY_BYTES = 32
_NONCE_BYTES = 12


def seal_bytes(key: Secret[bytes], content: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key.reveal()).encrypt(nonce, content, bound_to)


def open_bytes(key: Secret[bytes], sealed: bytes, bound_to: bytes) -> bytes:
    """Raises VaultProblem when the key, the binding or the bytes are not the ones of sealing."""
    try:
        return AESGCM(key.reveal()).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
    except (InvalidTag, ValueError) as error:
        raise VaultProblem(
            "A sealed value cannot be opened: it is damaged, or was sealed with another key.",
            remedy="Check POLYDEV_MASTER_KEY, or restore master.key beside the database.",
        ) from error
