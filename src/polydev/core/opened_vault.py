"""The vault of an installation: its keys and its database belong together."""

from polydev.config import Settings
from polydev.store import Store
from polydev.store.facts import VAULT_CHECK
from polydev.vault import Vault, load_keyring


async def opened_vault(settings: Settings, store: Store) -> Vault:
    """The vault of this installation, proved to be the one its database was sealed with."""
    check = await store.facts.get(VAULT_CHECK)
    keyring = load_keyring(settings.master_key, settings.data, may_create=check is None)
    vault = Vault(keyring)
    if check is None:
        check = await store.facts.keep(VAULT_CHECK, vault.check_value())
    vault.verify(check)
    return vault
