"""Gemini, through Google's `gemini` CLI: with a Google login, or with a Gemini API key.

A login is `.gemini/oauth_creds.json` (`access_token`, `refresh_token`, `id_token`, `expiry_date`
in milliseconds). A key is `GEMINI_API_KEY` in `.gemini/.env`, where the CLI itself looks for it;
either content is known by its form, under whatever name it is handed over.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from polydev.errors import CredentialUnreadable
from polydev.events import EndReason
from polydev.models.accounts import Credential
from polydev.models.egress import AddedHeader, Rule
from polydev.models.logins import LoginMethod
from polydev.models.places import Launch
from polydev.models.runs import Image, Part, Text
from polydev.providers.acp.agent import Agent, Files, Guard, History, Login, Past, Refresh
from polydev.providers.acp.login import AcpLogin, opening
from polydev.providers.base import Catalogue, Program
from polydev.providers.claims import claims_of
from polydev.providers.files import (
    encode_environment,
    encode_object,
    read_environment,
    read_object,
)
from polydev.providers.login import InTerminal, KeyWay, LoginOrder, LoginWay, opener
from polydev.secret import Secret

CREDENTIAL_FILE = PurePosixPath(".gemini/oauth_creds.json")
KEY_FILE = PurePosixPath(".gemini/.env")
_KEY_VARIABLE = "GEMINI_API_KEY"
_KEPT = (
    "access_token",
    "refresh_token",
    "id_token",
    "expiry_date",
    "scope",
    "token_type",
)

_GENERATE = ":streamGenerateContent"
_CODE_ASSIST = (
    "loadCodeAssist",
    "retrieveUserQuota",
    "listExperiments",
    "fetchAdminControls",
    "countTokens",
    "streamGenerateContent",
)
_LOGIN_ASKS = (
    Rule(method="POST", host="oauth2.googleapis.com", path="/(token|tokeninfo)"),
    Rule(method="GET", host="www.googleapis.com", path="/oauth2/v2/userinfo"),
    # Who logs in for the first time is given a project.
    Rule(
        method="POST",
        host="cloudcode-pa.googleapis.com",
        path="/v1internal:(loadCodeAssist|onboardUser|retrieveUserQuota|listExperiments)",
    ),
)
_OAUTH = Login(
    host="cloudcode-pa.googleapis.com",
    asks=(("POST", f"/v1internal:({'|'.join(_CODE_ASSIST)})"),),
    answers=f"/v1internal:loadCodeAssist|/v1internal{_GENERATE}",
    header=AddedHeader(name="authorization", value="Bearer {access_token}"),
    environment={
        "GOOGLE_GENAI_USE_GCA": "true",
        "GOOGLE_CLOUD_ACCESS_TOKEN": "{sentinel}",
        "CODE_ASSIST_ENDPOINT": "{url}",
    },
    settings={"security": {"auth": {"selectedType": "oauth-personal"}}},
)
_API_KEY = Login(
    host="generativelanguage.googleapis.com",
    asks=(("POST", r"/v1beta/models/[a-z0-9.-]+:(streamGenerateContent|countTokens)"),),
    answers=f"/v1beta/models/[^/]+{_GENERATE}",
    header=AddedHeader(name="x-goog-api-key", value="{access_token}"),
    environment={
        _KEY_VARIABLE: "{sentinel}",
        "GOOGLE_GEMINI_BASE_URL": "{url}",
    },
    settings={"security": {"auth": {"selectedType": "gemini-api-key"}}},
    # The CLI would send a system prompt with an empty text.
    no_system="\N{WORD JOINER}",
)

_SETTINGS: dict[str, Any] = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {
        # Limits and outages go to the caller at once; a used-up quota would be waited for hours.
        "maxAttempts": 1,
        "enableAutoUpdate": False,
        "enableAutoUpdateNotification": False,
        "checkpointing": {"enabled": False},
        # Otherwise session files with an old date are deleted at the start.
        "sessionRetention": {"enabled": False},
    },
    "tools": {"core": [], "useRipgrep": False},
    "context": {"includeDirectoryTree": False, "discoveryMaxDirs": 0},
    "skills": {"enabled": False},
    "experimental": {"enableAgents": False},
    # Either would ask the model once more behind an answer.
    "model": {"skipNextSpeakerCheck": True, "disableLoopDetection": True},
}

# The id by which the CLI knows its own description of the surroundings: a session whose first
# turn bears it gets none put in front.
_SURROUNDINGS = hashlib.sha256(b"environment-context").hexdigest()[:32]
# Never looked at again, and constant, so that the same prompt is the same bytes.
_WRITTEN_AT = "2026-01-01T00:00:00.000Z"


def read_credential(files: Files) -> Credential:
    """Raises CredentialUnreadable when there is neither a Google login nor a key."""
    for name in (CREDENTIAL_FILE, KEY_FILE):
        content = files.get(str(name))
        login = read_object(content)
        if login is not None:
            return _login(login)
        key = read_environment(content).get(_KEY_VARIABLE)
        if key:
            return Credential(
                files={str(KEY_FILE): encode_environment({_KEY_VARIABLE: key})},
                access_token=Secret(key),
                kind="api_key",
                plan="API key",
            )
    raise _unreadable("holds neither a Google login nor a GEMINI_API_KEY")


def renewed(credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
    """Google leaves the refresh token out of its answer: the one that there is stays good."""
    new = read_object(answer)
    held = read_object(credential.files.get(str(CREDENTIAL_FILE)))
    if new is None or held is None or not new.get("access_token"):
        raise _unreadable("was renewed without an access token")
    login = {**held, **{name: new[name] for name in _KEPT if new.get(name)}}
    seconds = new.get("expires_in")
    if isinstance(seconds, (int, float)):
        login["expiry_date"] = int((now + timedelta(seconds=seconds)).timestamp() * 1000)
    return _login(login)


def due(credential: Credential) -> Files:
    """The same login with an expiry in the past: the CLI refreshes one of these at its start."""
    login = read_object(credential.files.get(str(CREDENTIAL_FILE)))
    if login is None:
        return credential.files
    return {str(CREDENTIAL_FILE): encode_object({**login, "expiry_date": 1})}


def session_file(past: Past) -> tuple[str, bytes]:
    """The CLI finds a project's sessions by the name of its directory, and each by its id."""
    head = {
        "sessionId": past.session_id,
        "projectHash": hashlib.sha256(str(past.workspace).encode()).hexdigest(),
        "startTime": _WRITTEN_AT,
        "lastUpdated": _WRITTEN_AT,
        "kind": "main",
    }
    turns = [
        {
            "id": f"turn-{number}" if number else _SURROUNDINGS,
            "timestamp": _WRITTEN_AT,
            "type": "user" if turn.role == "user" else "gemini",
            "content": [_part(part) for part in turn.parts],
        }
        for number, turn in enumerate(past.turns)
    ]
    lines = [json.dumps(line, ensure_ascii=False) for line in (head, *turns)]
    path = f".gemini/tmp/{past.workspace.name}/chats/session-{past.session_id}.jsonl"
    return path, "".join(f"{line}\n" for line in lines).encode()


def _login_launch(order: LoginOrder, *, browser: bool) -> Launch:
    place = order.place
    opened = opener(place) if browser else Launch(argv=(), environment={"NO_BROWSER": "true"})
    return Launch(
        argv=(str(order.node), str(order.program), "--acp"),
        environment={
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "GEMINI_CLI_NO_RELAUNCH": "true",
            **opened.environment,
            "HTTPS_PROXY": place.egress_url,
            "NODE_EXTRA_CA_CERTS": str(place.authority),
        },
        files={
            ".gemini/settings.json": Secret(json.dumps(_SETTINGS).encode()),
            **opened.files,
        },
        executable=opened.executable,
        needs_port=True,
        opening=opening("oauth-personal"),
    )


def _desktop_launch(order: LoginOrder) -> Launch:
    trust = {"NODE_EXTRA_CA_CERTS": str(order.authority)} if order.authority else {}
    return Launch(
        argv=(str(order.node), str(order.program)),
        environment={
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "GEMINI_CLI_NO_RELAUNCH": "true",
            "HTTPS_PROXY": order.place.egress_url,
            **trust,
        },
        files={".gemini/settings.json": Secret(json.dumps(_SETTINGS).encode())},
        needs_port=True,
    )


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"text": text}
        case Image(media_type=media_type, data=data):
            return {"inlineData": {"mimeType": media_type, "data": data}}


def _login(login: dict[str, Any]) -> Credential:
    if not login.get("access_token"):
        raise _unreadable("holds no access token")
    expires, refresh = login.get("expiry_date"), login.get("refresh_token")
    kept = {name: login[name] for name in _KEPT if name in login}
    return Credential(
        files={str(CREDENTIAL_FILE): encode_object(kept)},
        access_token=Secret(str(login["access_token"])),
        refresh_token=Secret(str(refresh)) if refresh else None,
        expires_at=_instant(expires),
        account=str(claims_of(str(login.get("id_token") or "")).get("email") or ""),
    )


def _instant(milliseconds: Any) -> datetime | None:
    if not isinstance(milliseconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _unreadable(what: str) -> CredentialUnreadable:
    return CredentialUnreadable(
        f"The Gemini credential {what}.",
        remedy="Log in with `gemini` and connect its .gemini/oauth_creds.json, or put "
        f"{_KEY_VARIABLE}=… into .gemini/.env and connect that.",
        provider="gemini",
    )


GEMINI = Agent(
    name="gemini",
    title="Gemini",
    program=Program(
        package="@google/gemini-cli",
        file="@google/gemini-cli/bundle/gemini.js",
        needs_node=True,
    ),
    arguments=("--acp", "-m", "{model}"),
    environment={
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_CLI_NO_RELAUNCH": "true",
        "GEMINI_SYSTEM_MD": "{home}/.gemini/polydev-system.md",
    },
    settings_file=".gemini/settings.json",
    settings=_SETTINGS,
    system_file=".gemini/polydev-system.md",
    # What the CLI offers in its own list; `auto` is left out, for it asks a model which to ask.
    catalogue=Catalogue(
        names=(
            "gemini-2.5-pro",  # the default: not every login is offered the newer ones
            "gemini-3-pro-preview",
            "gemini-3-flash-preview",
            "gemini-3.5-flash",
            "gemini-3.1-flash-lite",
            "gemini-2.5-flash",
        ),
        aliases={
            "default": "gemini-2.5-pro",
            "pro": "gemini-3-pro-preview",
            "flash": "gemini-3-flash-preview",
            "flash-lite": "gemini-3.1-flash-lite",
        },
        prefixes=("gemini-",),
    ),
    credential_file=CREDENTIAL_FILE,
    login_command="gemini",
    login_ways=(
        LoginWay(
            method=LoginMethod.THIS_MACHINE,
            command="gemini",
            launch=lambda order: _login_launch(order, browser=True),
            dialogue=lambda: AcpLogin("Gemini"),
        ),
        LoginWay(
            method=LoginMethod.PASTE_CODE,
            command="gemini",
            launch=lambda order: _login_launch(order, browser=False),
            dialogue=lambda: AcpLogin("Gemini"),
        ),
        LoginWay(
            method=LoginMethod.RELAYED_CALLBACK,
            command="gemini",
            launch=lambda order: _login_launch(order, browser=True),
            dialogue=lambda: AcpLogin("Gemini"),
        ),
        LoginWay(
            method=LoginMethod.REMOTE_DESKTOP,
            command="gemini",
            launch=_desktop_launch,
            dialogue=lambda: InTerminal("Gemini"),
        ),
        KeyWay(
            page="https://aistudio.google.com/apikey",
            pattern=r"[A-Za-z0-9._-]{20,200}",
            files=lambda key: {str(KEY_FILE): encode_environment({_KEY_VARIABLE: key.reveal()})},
        ),
    ),
    login_asks=_LOGIN_ASKS,
    logins={"oauth": _OAUTH, "api_key": _API_KEY},
    read_credential=read_credential,
    refresh=Refresh(
        asks=(Rule(method="POST", host="oauth2.googleapis.com", path="/token", sealed=True),),
        due=due,
        renewed=renewed,
    ),
    # What it falls back to where the quota it is told lists no such model.
    chooses=r"auto\b.*",
    history=History(method="session/load", file=session_file, replays=True, always=True),
    guard=Guard(
        question=("/", "$"),
        history=("/", "?", "<session_context>", "<hook_context>"),
        substituted=r"\$\{(?:AgentSkills|SubAgents|AvailableTools|\w+_ToolName)\}",
    ),
    phrases=(
        (r"exhausted your (?:capacity|daily quota)", EndReason.WINDOW_EXHAUSTED),
        ("API_KEY_INVALID|API key (?:not valid|expired)", EndReason.NEEDS_LOGIN),
        # The CLI makes a 500 of this 404.
        (r"models/\S+ is not found", EndReason.INVALID_REQUEST),
    ),
)
