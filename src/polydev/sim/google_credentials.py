"""Tokens and the credential file of the stand-in for Google, in the CLI's own form.

The values say that they are made up. They differ for each serial and cannot be guessed from it.
"""

import json
import secrets
from datetime import UTC, datetime, timedelta

from polydev.sim.state import Account, Minting, TokenPair
from polydev.sim.wire import unsigned_jwt

# The gemini CLI's own client; its id is no secret.
CLIENT_ID = "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com"
SCOPE = (
    "https://www.googleapis.com/auth/cloud-platform "
    "https://www.googleapis.com/auth/userinfo.email "
    "https://www.googleapis.com/auth/userinfo.profile openid"
)


def subject_of(account: Account) -> str:
    """Google's number for an account: 21 digits."""
    return f"1{int(account.id.replace('-', ''), 16) % 10**20:020d}"


def project_of(account: Account) -> str:
    """The cloud project that Code Assist keeps for an account."""
    return f"made-up-project-{account.id[:8]}"


def google_token(minting: Minting) -> str:
    account, kind, serial = minting.account, minting.kind, minting.serial
    if kind == "access":
        return f"ya29.made-up-{serial}-{secrets.token_urlsafe(48)}"
    if kind == "refresh":
        return f"1//made-up-{serial}-{secrets.token_urlsafe(48)}"
    if kind == "api_key":
        return f"AIzaMadeUp{serial:04d}{secrets.token_hex(12)}"[:39]
    expires_at = minting.expires_at or minting.issued_at + timedelta(hours=1)
    return unsigned_jwt(
        {
            "iss": "https://accounts.google.com",
            "azp": CLIENT_ID,
            "aud": CLIENT_ID,
            "sub": subject_of(account),
            "email": account.email,
            "email_verified": True,
            "name": account.name,
            "iat": round(minting.issued_at.timestamp()),
            "exp": round(expires_at.timestamp()),
            "jti": f"{serial}-{secrets.token_hex(8)}",
        }
    )


def google_file(_account: Account, pair: TokenPair) -> str:
    expires_at = pair.access.expires_at or datetime.now(UTC)
    return json.dumps(
        {
            "access_token": pair.access.value,
            "scope": SCOPE,
            "token_type": "Bearer",
            "id_token": pair.id_token,
            "expiry_date": round(expires_at.timestamp() * 1000),
            "refresh_token": pair.refresh.value,
        },
        indent=2,
    )
