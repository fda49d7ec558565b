"""codex's credential file, `.codex/auth.json`, and what its token endpoint answers.

The file: `{"auth_mode", "OPENAI_API_KEY", "tokens": {"id_token", "access_token",
"refresh_token", "account_id"}, "last_refresh"}`. The tokens of a ChatGPT login are JSON web
tokens; their claims are read here, never believed: who may do what is the provider's to say.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from polydev.errors import CredentialUnreadable
from polydev.models.accounts import Credential
from polydev.providers.claims import claims_of
from polydev.providers.files import encode_object, require_object
from polydev.secret import Secret

CREDENTIAL_FILE = PurePosixPath(".codex/auth.json")

_AUTH_CLAIM = "https://api.openai.com/auth"
_PROFILE_CLAIM = "https://api.openai.com/profile"
# The CLI renews a login that it has not renewed for so long, whatever its tokens say.
_RENEWED_EVERY = timedelta(days=8)


def read_credential(files: Mapping[str, Secret[bytes]]) -> Credential:
    """Raises CredentialUnreadable when the file holds no ChatGPT login."""
    document = require_object(files.get(str(CREDENTIAL_FILE)), "the credential file", _unreadable)
    tokens = document.get("tokens")
    if not isinstance(tokens, dict) or not tokens.get("access_token"):
        if document.get("OPENAI_API_KEY"):
            raise CredentialUnreadable(
                "The Codex login is an API key, which has no subscription behind it.",
                remedy="Log in with `codex login`, choose ChatGPT, and connect its "
                ".codex/auth.json again.",
                provider="codex",
            )
        raise _unreadable("holds no access token")
    access_token = str(tokens["access_token"])
    identity = claims_of(str(tokens.get("id_token") or ""))
    access = claims_of(access_token)
    authorisation = _part(identity, _AUTH_CLAIM) or _part(access, _AUTH_CLAIM)
    account_id = tokens.get("account_id") or authorisation.get("chatgpt_account_id")
    if not account_id:
        raise _unreadable("names no ChatGPT account")
    refresh = tokens.get("refresh_token")
    # Only the login is kept: an API key beside it is not ours.
    kept = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": tokens | {"account_id": account_id},
        "last_refresh": document.get("last_refresh"),
    }
    email = identity.get("email") or _part(access, _PROFILE_CLAIM).get("email")
    return Credential(
        files={str(CREDENTIAL_FILE): encode_object(kept)},
        access_token=Secret(access_token),
        refresh_token=Secret(str(refresh)) if refresh else None,
        expires_at=_expiry(access, document.get("last_refresh")),
        attributes={"account_id": str(account_id)},
        account=str(email or ""),
        plan=str(authorisation.get("chatgpt_plan_type") or ""),
    )


def renew(credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
    """The credential after `answer`, the token endpoint's JSON."""
    new = require_object(answer, "the token endpoint's answer", _unreadable)
    if not new.get("access_token"):
        raise _unreadable("was renewed without an access token")
    document = _document(credential)
    # What the answer leaves out stays as it was.
    names = ("id_token", "access_token", "refresh_token")
    document["tokens"] = document["tokens"] | {name: new[name] for name in names if new.get(name)}
    document["last_refresh"] = now.astimezone(UTC).isoformat()
    return read_credential({str(CREDENTIAL_FILE): encode_object(document)})


def made_up(
    *, access_token: str, account_id: str, plan: str, refresh_token: str = ""
) -> Mapping[str, Secret[bytes]]:
    """Files of a login that opens nothing: what a run's sandbox is given.

    The CLI wants an id token that it can read, for the plan and the account (which must be the
    real one: it looks for it in what the provider says of the account); the access token it
    passes on unread.
    """
    claims = {
        "email": "nobody@polydev.invalid",
        _AUTH_CLAIM: {"chatgpt_account_id": account_id, "chatgpt_plan_type": plan or "plus"},
    }
    document = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": ".".join((_segment({"alg": "none"}), _segment(claims), "made-up")),
            "access_token": access_token,
            "refresh_token": refresh_token,
            "account_id": account_id,
        },
        # Far ahead: the CLI renews what it finds old.
        "last_refresh": "2099-01-01T00:00:00Z",
    }
    return {str(CREDENTIAL_FILE): encode_object(document)}


def renewable(credential: Credential) -> Mapping[str, Secret[bytes]]:
    """Files with the refresh token alone, and nothing that makes the CLI renew by itself.

    The plan is made up too: for some the CLI first asks for an organisation's settings.
    """
    assert credential.refresh_token is not None
    return made_up(
        access_token="made-up-and-never-due",  # noqa: S106
        account_id=credential.attributes["account_id"],
        plan="",
        refresh_token=credential.refresh_token.reveal(),
    )


def _document(credential: Credential) -> dict[str, Any]:
    return require_object(
        credential.files[str(CREDENTIAL_FILE)], "the credential file", _unreadable
    )


def _part(claims: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = claims.get(name)
    return value if isinstance(value, dict) else {}


def _expiry(access: Mapping[str, Any], last_refresh: Any) -> datetime | None:
    seconds = access.get("exp")
    if isinstance(seconds, (int, float)) and 0 < seconds < 10**11:
        return datetime.fromtimestamp(seconds, UTC)
    try:
        return datetime.fromisoformat(str(last_refresh)).astimezone(UTC) + _RENEWED_EVERY
    except (ValueError, OverflowError):
        return None


def _segment(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unreadable(what: str) -> CredentialUnreadable:
    return CredentialUnreadable(
        f"The Codex login {what}.",
        remedy="Log in with `codex login` and connect its .codex/auth.json again.",
        provider="codex",
    )
