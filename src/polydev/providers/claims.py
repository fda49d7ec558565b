"""What a JSON web token says of itself: read for names and plans, never believed."""

import base64
import json
from typing import Any


def claims_of(token: str) -> dict[str, Any]:
    """The claims, unverified; nothing for any other text."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        value = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
