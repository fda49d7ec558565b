"""`Retry-After`, as RFC 9110 has it: seconds, or a date."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


def retry_after(value: str | None, now: datetime) -> datetime | None:
    """When to try again; None for a missing or senseless value."""
    if not value:
        return None
    if value.strip().isdigit():
        return now + timedelta(seconds=min(int(value), 10**8))
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
