"""claude's credential file, `.claude/.credentials.json`, and what its token endpoint answers.

The file: `{"claudeAiOauth": {"accessToken", "refreshToken", "expiresAt" (milliseconds),
"scopes", "subscriptionType", …}}`. Beside it, `.claude.json` names the account.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from polydev.errors import CredentialUnreadable
from polydev.models.accounts import Credential
from polydev.providers.files import encode_object, require_object
from polydev.providers.instants import instant
from polydev.secret import Secret

CREDENTIAL_FILE = PurePosixPath(".claude/.credentials.json")
ACCOUNT_FILE = PurePosixPath(".claude.json")


def read_credential(files: Mapping[str, Secret[bytes]]) -> Credential:
    """Raises CredentialUnreadable when the file holds no usable login."""
    document = require_object(files.get(str(CREDENTIAL_FILE)), "the credential file", _unreadable)
    oauth = document.get("claudeAiOauth")
    if not isinstance(oauth, dict) or not oauth.get("accessToken"):
        raise _unreadable("holds no access token")
    account = _account(files.get(str(ACCOUNT_FILE)))
    # Only the login is kept: the file may also hold tokens of MCP servers, which are not ours.
    kept = {str(CREDENTIAL_FILE): encode_object({"claudeAiOauth": oauth})}
    if account:
        kept[str(ACCOUNT_FILE)] = encode_object({"oauthAccount": account})
    attributes = {
        name: str(account[key])
        for name, key in (("account_uuid", "accountUuid"),)
        if account.get(key)
    }
    expires = oauth.get("expiresAt")
    refresh = oauth.get("refreshToken")
    return Credential(
        files=kept,
        access_token=Secret(str(oauth["accessToken"])),
        refresh_token=Secret(str(refresh)) if refresh else None,
        expires_at=instant(expires),
        attributes=attributes,
        account=str(account.get("emailAddress") or ""),
        plan=str(oauth.get("subscriptionType") or ""),
    )


def renew(credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
    """The credential after `answer`, the token endpoint's JSON."""
    tokens = require_object(answer, "the token endpoint's answer", _unreadable)
    if not tokens.get("access_token"):
        raise _unreadable("was renewed without an access token")
    document = require_object(
        credential.files[str(CREDENTIAL_FILE)], "the credential file", _unreadable
    )
    oauth = dict(document["claudeAiOauth"])
    oauth["accessToken"] = tokens["access_token"]
    # A provider that rotates sends a new refresh token; one that does not leaves the old one good.
    if tokens.get("refresh_token"):
        oauth["refreshToken"] = tokens["refresh_token"]
    seconds = tokens.get("expires_in")
    if isinstance(seconds, (int, float)):
        oauth["expiresAt"] = int((now + timedelta(seconds=seconds)).timestamp() * 1000)
    if isinstance(tokens.get("scope"), str):
        oauth["scopes"] = tokens["scope"].split()
    files = dict(credential.files) | {str(CREDENTIAL_FILE): encode_object({"claudeAiOauth": oauth})}
    return read_credential(files)


def expired(credential: Credential) -> Credential:
    """The same login with an expiry in the past: the CLI refreshes one of these at its start."""
    document = require_object(
        credential.files[str(CREDENTIAL_FILE)], "the credential file", _unreadable
    )
    oauth = dict(document["claudeAiOauth"]) | {"expiresAt": 1}
    files = dict(credential.files) | {str(CREDENTIAL_FILE): encode_object({"claudeAiOauth": oauth})}
    return replace(credential, files=files)


def _account(content: Secret[bytes] | None) -> dict[str, Any]:
    if content is None:
        return {}
    account = require_object(content, "the account file", _unreadable).get("oauthAccount")
    kept = ("accountUuid", "emailAddress", "organizationUuid")
    return (
        {key: account[key] for key in kept if key in account} if isinstance(account, dict) else {}
    )


def _unreadable(what: str) -> CredentialUnreadable:
    return CredentialUnreadable(
        f"The Claude login {what}.",
        remedy="Log in with `claude auth login` and connect its .claude/.credentials.json again.",
        provider="claude",
    )
