"""The two forms that credential files have: JSON objects and environment files."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from polydev.errors import CredentialUnreadable
from polydev.secret import Secret

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r"""(["'])(.*?)\1.*""", re.DOTALL)


def read_object(content: Secret[bytes] | None) -> dict[str, Any] | None:
    """The JSON object in a file; None when it is anything else."""
    try:
        value = json.loads(content.reveal()) if content is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def require_object(
    content: Secret[bytes] | None, what: str, unreadable: Callable[[str], CredentialUnreadable]
) -> dict[str, Any]:
    """The JSON object in a file; raises `unreadable` of what is wrong with it."""
    if content is None:
        raise unreadable("is missing")
    value = read_object(content)
    if value is None:
        raise unreadable(f"cannot be read: {what} is not a JSON object")
    return value


def read_environment(content: Secret[bytes] | None) -> dict[str, str]:
    """The variables of an environment file: `NAME=value` lines, as `.env` files have them."""
    found: dict[str, str] = {}
    text = content.reveal().decode("utf-8", "replace") if content is not None else ""
    for line in text.splitlines():
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            continue
        quoted = _QUOTED.fullmatch(match[2])
        found[match[1]] = quoted[2] if quoted else match[2].partition(" #")[0].strip()
    return found


def encode_object(value: Mapping[str, Any]) -> Secret[bytes]:
    return Secret(json.dumps(value).encode())


def encode_environment(variables: Mapping[str, str]) -> Secret[bytes]:
    return Secret("".join(f"{name}={value}\n" for name, value in variables.items()).encode())
