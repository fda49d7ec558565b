"""Tokens and credential files of the stand-ins for Anthropic and ChatGPT, in the CLIs' own forms.

The values say that they are made up. They differ for each serial and cannot be guessed from it.
"""

import json
import secrets
from datetime import UTC, datetime, timedelta

from polydev.sim.state import Account, Minting, TokenPair
from polydev.sim.wire import iso, unsigned_jwt

CLAUDE_SCOPES = (
    "user:file_upload",
    "user:inference",
    "user:mcp_servers",
    "user:profile",
    "user:sessions:claude_code",
)
CODEX_CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"

_CLAUDE_KINDS = {"access": "oat01", "refresh": "ort01", "api_key": "api03", "id": "id01"}


def claude_token(minting: Minting) -> str:
    return (
        f"sk-ant-{_CLAUDE_KINDS[minting.kind]}-made-up-{minting.serial}-{secrets.token_urlsafe(48)}"
    )


def claude_file(account: Account, pair: TokenPair) -> str:
    expires_at = pair.access.expires_at or datetime.now(UTC)
    return json.dumps(
        {
            "claudeAiOauth": {
                "accessToken": pair.access.value,
                "refreshToken": pair.refresh.value,
                "expiresAt": round(expires_at.timestamp() * 1000),
                "scopes": list(CLAUDE_SCOPES),
                "subscriptionType": account.plan,
                "rateLimitTier": "default_claude_max_5x",
            }
        }
    )


def codex_token(minting: Minting) -> str:
    account, kind, serial = minting.account, minting.kind, minting.serial
    if kind == "refresh":
        return f"rt_made-up.{serial}.{secrets.token_urlsafe(48)}"
    if kind == "api_key":
        return f"sk-proj-made-up-{serial}-{secrets.token_urlsafe(32)}"
    expires_at = minting.expires_at or minting.issued_at + timedelta(days=10)
    claims = {
        "iss": "https://auth.openai.com",
        "sub": f"auth0|{account.id}",
        "iat": round(minting.issued_at.timestamp()),
        "exp": round(expires_at.timestamp()),
        "jti": f"{serial}-{secrets.token_hex(8)}",
        "https://api.openai.com/auth": {
            "chatgpt_account_id": account.id,
            "chatgpt_account_user_id": f"user-{account.id}__{account.id}",
            "chatgpt_plan_type": account.plan,
            "chatgpt_user_id": f"user-{account.id}",
            "user_id": f"user-{account.id}",
        },
        "https://api.openai.com/profile": {"email": account.email, "email_verified": True},
    }
    if kind == "id":
        claims |= {
            "aud": [CODEX_CLIENT_ID],
            "email": account.email,
            "email_verified": True,
            "name": account.name,
        }
    else:
        claims |= {
            "aud": ["https://api.openai.com/v1"],
            "client_id": CODEX_CLIENT_ID,
            "scp": ["openid", "profile", "email", "offline_access"],
        }
    return unsigned_jwt(claims)


def codex_file(account: Account, pair: TokenPair) -> str:
    return json.dumps(
        {
            "auth_mode": "chatgpt",
            "OPENAI_API_KEY": None,
            "tokens": {
                "id_token": pair.id_token,
                "access_token": pair.access.value,
                "refresh_token": pair.refresh.value,
                "account_id": account.id,
            },
            "last_refresh": iso(pair.access.issued_at),
        },
        indent=2,
    )
