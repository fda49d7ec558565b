"""Sealing and opening of everything secret that is kept, and the rotation of the master key.

Knows no database: it turns bytes into sealed bytes and back. What was sealed for one person,
connection, provider and purpose opens for exactly those. Every failure is a VaultProblem.
"""

from polydev.vault.keys import (
    KEY_FILE,
    KeyRing,
    MasterKey,
    add_key,
    drop_old_keys,
    load_keyring,
    parse_keyring,
)
from polydev.vault.vault import Vault

__all__ = [
    "KEY_FILE",
    "KeyRing",
    "MasterKey",
    "Vault",
    "add_key",
    "drop_old_keys",
    "load_keyring",
    "parse_keyring",
]
