"""One JSON object a line: how every CLI here is spoken with."""

import json
from typing import Any

from polydev.errors import RunFailed


def to_line(message: dict[str, Any]) -> bytes:
    """Without the line's end."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def from_line(line: bytes, provider: str) -> dict[str, Any]:
    """Raises RunFailed for anything but an object."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise unexpected(line, provider) from error
    if not isinstance(message, dict):
        raise unexpected(line, provider)
    return message


def fields(container: dict[str, Any], name: str) -> dict[str, Any]:
    """The object of that name; an empty one when there is none."""
    value = container.get(name)
    return value if isinstance(value, dict) else {}


def unexpected(line: bytes, provider: str) -> RunFailed:
    return RunFailed(
        f"{provider} printed a line of {len(line)} bytes that is not one of its messages.",
        remedy="Run `polydev doctor`: another program may be installed in its place.",
        reason="unexpected_output",
        provider=provider,
    )
