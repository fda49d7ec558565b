"""Keys for the vault's tests: made up, and worth nothing."""

import pytest

from polydev.secret import Secret
from polydev.vault import KeyRing, MasterKey, Vault


@pytest.fixture
def vault() -> Vault:
    return Vault(KeyRing(keys=(MasterKey(Secret(b"k" * 32)),)))
