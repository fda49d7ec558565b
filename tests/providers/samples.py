"""What the suite needs to know of each provider, beside the provider itself."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from polydev.models.accounts import Credential
from polydev.models.egress import Exchange, Purpose
from polydev.models.places import Place
from polydev.models.runs import Prompt, Text, Turn
from polydev.providers.base import LaunchOrder, Provider
from polydev.secret import Secret
from polydev.sim.app import VENDORS
from polydev.sim.state import World


@dataclass(frozen=True, kw_only=True)
class Sample:
    """host, path: where the provider is asked for an answer.

    login: the kind of the login that the simulator gives.
    repeats: its CLI asks again by itself after a 429 or a 5xx; runs end before that, by what
        egress saw, so there is no recording of it.
    kind, window_headers: a window, and an answer's headers that say that half of it is used.
    full_headers: those of a 429 when it is used up; both reset at `RESETS_AT`. Without either the
        provider's headers say nothing of windows, and what a 429 means only its CLI tells.
    """

    host: str
    path: str
    login: str = "oauth"
    repeats: bool = False
    kind: str = ""
    window_headers: Mapping[str, str] = field(default_factory=dict)
    full_headers: Mapping[str, str] = field(default_factory=dict)


RESETS_AT = 1_800_000_000

SAMPLES: Mapping[str, Sample] = {
    "claude": Sample(
        host="api.anthropic.com",
        path="/v1/messages",
        kind="five_hour",
        window_headers={
            "anthropic-ratelimit-unified-5h-utilization": "0.5",
            "anthropic-ratelimit-unified-5h-reset": str(RESETS_AT),
        },
        full_headers={
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(RESETS_AT),
            "anthropic-ratelimit-unified-5h-utilization": "1.0",
            "anthropic-ratelimit-unified-5h-reset": str(RESETS_AT),
        },
    ),
    "codex": Sample(
        host="chatgpt.com",
        path="/backend-api/codex/responses",
        kind="primary",
        window_headers={
            "x-codex-primary-used-percent": "50.0",
            "x-codex-primary-window-minutes": "300",
            "x-codex-primary-reset-at": str(RESETS_AT),
        },
        full_headers={
            "x-codex-primary-used-percent": "100.0",
            "x-codex-primary-reset-at": str(RESETS_AT),
            "x-codex-secondary-used-percent": "30.0",
            "x-codex-secondary-reset-at": str(RESETS_AT + 9999),
        },
    ),
    "gemini": Sample(
        host="cloudcode-pa.googleapis.com",
        path="/v1internal:streamGenerateContent",
    ),
    "qwen": Sample(
        host="coding-intl.dashscope.aliyuncs.com",
        path="/v1/chat/completions",
        login="coding_plan",
        repeats=True,
    ),
}

SENTINEL = Secret("polydev-made-up-sentinel")
PLACE = Place(
    home=PurePosixPath("/home/user"),
    workspace=PurePosixPath("/workspace"),
    programs=PurePosixPath("/programs"),
    egress_socket=PurePosixPath("/run/egress.sock"),
    egress_port=8080,
    authority=PurePosixPath("/run/authority.pem"),
)


def credential_files(provider: Provider) -> dict[str, Secret[bytes]]:
    """A fresh login as the provider's CLI writes it."""
    world = World(VENDORS)
    account = world.create_account(provider.name)
    content = world.vendors[provider.name].credential(account, world.log_in(account))
    return {str(provider.credential_file): Secret(content.encode())}


def prompt(provider: Provider, text: str = "hello") -> Prompt:
    turn = Turn(role="user", parts=(Text(text=text),))
    return Prompt(model=provider.catalogue.default, system="You answer briefly.", turns=(turn,))


def order(
    provider: Provider, credential: Credential, purpose: Purpose, **changes: Any
) -> LaunchOrder:
    fields: dict[str, Any] = {
        "purpose": purpose,
        "place": PLACE,
        "program": PurePosixPath("/programs/node_modules/cli"),
        "node": PurePosixPath("/programs/node_modules/node/bin/node"),
        "identity": "00000000-0000-4000-8000-000000000001",
        "sentinel": SENTINEL,
        "credential": credential,
        "prompt": prompt(provider) if purpose is Purpose.RUN else None,
    }
    return LaunchOrder(**(fields | changes))


def exchange(provider: Provider, status: int, headers: Mapping[str, str] | None = None) -> Exchange:
    sample = SAMPLES[provider.name]
    return Exchange(
        binding="b",
        method="POST",
        host=sample.host,
        path=sample.path,
        status=status,
        headers=tuple((headers or {}).items()),
    )


def secrets_in(files: Mapping[str, Secret[bytes]]) -> set[str]:
    """Every string of a credential file that opens something."""
    found: set[str] = set()

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, key)
        elif isinstance(value, str) and "token" in name.lower() and len(value) > 20:
            found.add(value)

    for content in files.values():
        text = content.reveal().decode()
        if text.startswith("{"):
            walk(json.loads(text), "")
        else:
            found |= {value for value in re.findall(r"KEY=(.*)", text) if len(value) > 20}
    return found
