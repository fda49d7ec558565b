"""What outlives the process, in SQLite or PostgreSQL. See `store.py`."""

from polydev.store.connections import SealedCredential
from polydev.store.facts import VAULT_CHECK
from polydev.store.runs import EventBatch
from polydev.store.sealed import SealedValue
from polydev.store.store import Store

__all__ = ["VAULT_CHECK", "EventBatch", "SealedCredential", "SealedValue", "Store"]
