"""Qwen, through Alibaba's `qwen` CLI (qwen-code), with an API key.

The CLI has no credential file for keys; it reads `.qwen/.env`, and that is what is connected:
`BAILIAN_CODING_PLAN_API_KEY=…` (the subscription), or `OPENAI_API_KEY=…`, either with
`OPENAI_BASE_URL=…` where it is not the subscription's international address.
"""

import json
import re
import uuid
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from polydev.errors import CredentialUnreadable
from polydev.events import EndReason
from polydev.models.accounts import Credential
from polydev.models.egress import AddedHeader
from polydev.models.runs import Image, Part, Text
from polydev.providers.acp.agent import Agent, Files, Guard, History, Login, Past
from polydev.providers.base import Catalogue, Program
from polydev.providers.files import encode_environment, read_environment
from polydev.providers.login import KeyWay
from polydev.secret import Secret

CREDENTIAL_FILE = PurePosixPath(".qwen/.env")
_PLAN_VARIABLE, _KEY_VARIABLE = "BAILIAN_CODING_PLAN_API_KEY", "OPENAI_API_KEY"
_ADDRESS_VARIABLE = "OPENAI_BASE_URL"
_DEFAULT_KIND = "coding_plan"


def _api(host: str, prefix: str) -> Login:
    path = f"{prefix}/chat/completions"
    return Login(
        host=host,
        asks=(("POST", path),),
        answers=path,
        header=AddedHeader(name="authorization", value="Bearer {access_token}"),
        environment={_KEY_VARIABLE: "{sentinel}", _ADDRESS_VARIABLE: "{url}" + prefix},
    )


_COMPATIBLE = "/compatible-mode/v1"
_LOGINS = {
    _DEFAULT_KIND: _api("coding-intl.dashscope.aliyuncs.com", "/v1"),
    "coding_plan_cn": _api("coding.dashscope.aliyuncs.com", "/v1"),
    "token_plan": _api("token-plan.ap-southeast-1.maas.aliyuncs.com", _COMPATIBLE),
    "token_plan_cn": _api("token-plan.cn-beijing.maas.aliyuncs.com", _COMPATIBLE),
    "api_key": _api("dashscope-intl.aliyuncs.com", _COMPATIBLE),
    "api_key_cn": _api("dashscope.aliyuncs.com", _COMPATIBLE),
    "api_key_us": _api("dashscope-us.aliyuncs.com", _COMPATIBLE),
}

_SETTINGS: dict[str, Any] = {
    "security": {"auth": {"selectedType": "openai"}},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"enableAutoUpdate": False, "checkpointing": {"enabled": False}},
    # Each of these would ask the model once more behind an answer.
    "ui": {"enableFollowupSuggestions": False},
    "memory": {
        "enableManagedAutoMemory": False,
        "enableManagedAutoDream": False,
        "enableAutoSkill": False,
    },
    "tools": {"core": ["none"], "useRipgrep": False},
    "permissions": {"deny": ["*"]},
    "model": {"skipStartupContext": True, "generationConfig": {"maxRetries": 0}},
}
# What `--bare` leaves on, whatever the settings say.
_TOOLS = ("edit", "read_file", "run_shell_command", "notebook_edit", "get_goal", "update_goal")
_WRITTEN_AT = "2026-01-01T00:00:00.000Z"


def read_credential(files: Files) -> Credential:
    """Raises CredentialUnreadable when there is no key, or one for an unknown address."""
    variables = read_environment(files.get(str(CREDENTIAL_FILE)))
    name = next((name for name in (_PLAN_VARIABLE, _KEY_VARIABLE) if variables.get(name)), None)
    if name is None:
        raise _unreadable("holds no API key")
    address = variables.get(_ADDRESS_VARIABLE, "")
    kept = {name: variables[name]} | ({_ADDRESS_VARIABLE: address} if address else {})
    kind = _kind(address)
    return Credential(
        files={str(CREDENTIAL_FILE): encode_environment(kept)},
        access_token=Secret(variables[name]),
        kind=kind,
        plan=kind.replace("_", " "),
    )


def session_file(past: Past) -> tuple[str, bytes]:
    """The CLI finds a session by its project's path and its own id; turns form a chain."""
    lines = []
    parent: str | None = None
    for number, turn in enumerate(past.turns):
        own = str(uuid.UUID(int=number + 1))
        is_user = turn.role == "user"
        parts = [_part(part) for part in turn.parts]
        lines.append(
            {
                "uuid": own,
                "parentUuid": parent,
                "sessionId": past.session_id,
                "timestamp": _WRITTEN_AT,
                "type": "user" if is_user else "assistant",
                "cwd": str(past.workspace),
                "version": "0",
                "message": {"role": "user" if is_user else "model", "parts": parts},
            }
        )
        parent = own
    project = re.sub(r"[^A-Za-z0-9]", "-", str(past.workspace))
    path = f".qwen/projects/{project}/chats/{past.session_id}.jsonl"
    return path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"text": text}
        case Image(media_type=media_type, data=data):
            return {"inlineData": {"mimeType": media_type, "data": data}}


def _kind(address: str) -> str:
    if not address:
        return _DEFAULT_KIND
    host = urlsplit(address).hostname
    for kind, login in _LOGINS.items():
        if login.host == host:
            return kind
    known = ", ".join(login.host for login in _LOGINS.values())
    raise _unreadable(f"is for {str(host)[:100]!r}, which is none of {known}")


def _unreadable(what: str) -> CredentialUnreadable:
    return CredentialUnreadable(
        f"The Qwen credential {what}.",
        remedy=f"Put {_PLAN_VARIABLE}=… (or {_KEY_VARIABLE}=… and {_ADDRESS_VARIABLE}=…) into "
        ".qwen/.env and connect that.",
        provider="qwen",
    )


QWEN = Agent(
    name="qwen",
    title="Qwen",
    program=Program(
        package="@qwen-code/qwen-code",
        # Not its `cli-entry.js`, which only starts this one as a second process.
        file="@qwen-code/qwen-code/cli.js",
        needs_node=True,
    ),
    arguments=(
        "--acp",
        "--bare",
        "--auth-type=openai",
        "--model={model}",
        f"--exclude-tools={','.join(_TOOLS)}",
    ),
    environment={"QWEN_SYSTEM_MD": "{home}/.qwen/polydev-system.md"},
    settings_file=".qwen/settings.json",
    settings=_SETTINGS,
    system_file=".qwen/polydev-system.md",
    catalogue=Catalogue(
        names=("qwen3.5-plus", "qwen3-coder-plus", "qwen3-max"),
        aliases={"default": "qwen3.5-plus", "coder": "qwen3-coder-plus", "max": "qwen3-max"},
        prefixes=("qwen",),
    ),
    credential_file=CREDENTIAL_FILE,
    login_command="qwen",
    login_ways=(
        KeyWay(
            page="https://modelstudio.console.alibabacloud.com/",
            pattern=r"[A-Za-z0-9._-]{16,200}",
            files=lambda key: {
                str(CREDENTIAL_FILE): encode_environment({_PLAN_VARIABLE: key.reveal()})
            },
        ),
    ),
    logins=_LOGINS,
    read_credential=read_credential,
    history=History(method="session/resume", file=session_file, replays=False),
    guard=Guard(question=("/",)),
    phrases=((r"(?i)^quota exhausted", EndReason.WINDOW_EXHAUSTED),),
    repeats=True,
)
