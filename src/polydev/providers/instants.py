"""Moments as providers write them: seconds or milliseconds since 1970."""

from datetime import UTC, datetime
from typing import Any

# In seconds this is the year 5138; what is larger is meant in milliseconds.
_MILLISECONDS_FROM = 1e11


def instant(value: Any) -> datetime | None:
    """None for what is no number, or no moment of this era."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(value / (1000 if abs(value) > _MILLISECONDS_FROM else 1), UTC)
    except (ValueError, OverflowError, OSError):
        return None
