"""What a person's notices are about: that something of theirs changed, never what."""

from collections.abc import Callable
from enum import StrEnum


class Topic(StrEnum):
    CONNECTIONS = "connections"  # their windows among them
    LOGINS = "logins"
    RUNS = "runs"
    KEYS = "keys"
    SIGN_INS = "sign_ins"


# Called with a user's id. Never blocks and never fails: it is called where things change.
Publish = Callable[[str, Topic], None]


def publish_nothing(user_id: str, topic: Topic) -> None:
    """Where nobody listens."""
