"""Identifiers: a prefix that says what it names, then 26 characters that sort by time of making.

The characters are a millisecond clock (48 bits) and randomness (80 bits) in Crockford's base 32,
lower case. Two made in the same millisecond sort by chance. An identifier is no secret.
"""

import os
import time
from typing import Literal

Prefix = Literal["usr", "key", "con", "run", "lgn"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26


def new_id(prefix: Prefix) -> str:
    """For example `run_01kajv3m8w2x5h7d9q4t6y0zbc`."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    characters = (_ALPHABET[number >> shift & 31] for shift in range(5 * _LENGTH - 5, -1, -5))
    return f"{prefix}_{''.join(characters)}"
