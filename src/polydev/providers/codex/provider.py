"""What to start for Codex, and what it may ask of the network."""

import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from polydev import __version__
from polydev.events import EndReason, WindowObserved
from polydev.models.accounts import Credential
from polydev.models.egress import AddedHeader, EgressMode, EgressPolicy, Exchange, Purpose, Rule
from polydev.models.logins import LoginMethod
from polydev.models.places import Launch
from polydev.models.runs import Prompt
from polydev.providers.base import Catalogue, FirstStart, LaunchOrder, Observation, Program
from polydev.providers.codex import credential as credentials
from polydev.providers.codex import login
from polydev.providers.codex.dialogue import RENEWAL_URL, CodexDialogue
from polydev.providers.login import InTerminal, KeyWay, LoginOrder, LoginWay
from polydev.providers.retry import retry_after
from polydev.secret import Secret

_API = "chatgpt.com"
_TOKENS = "auth.openai.com"
_INFERENCE = "/backend-api/codex/responses"

_RUN_RULES = (
    Rule(method="POST", host=_API, path=f"{_INFERENCE}(/compact)?"),
    Rule(method="GET", host=_API, path="/backend-api/codex/models"),
    Rule(method="GET", host=_API, path="/backend-api/wham/accounts/check"),
    Rule(method="GET", host=_API, path="/backend-api/wham/settings/user"),
    # What an organisation asks of the CLI; it does not start without when the plan has such.
    Rule(method="GET", host=_API, path="/backend-api/wham/config/bundle"),
)
_KEEPER_RULES = (Rule(method="POST", host=_TOKENS, path="/oauth/token", sealed=True),)
_LOGIN_RULES = (
    Rule(method="POST", host=_TOKENS, path="/oauth/token"),
    Rule(method="POST", host=_TOKENS, path="/api/accounts/deviceauth/(usercode|token)"),
    Rule(method="GET", host=_API, path="/backend-api/wham/accounts/check"),
)

# Everything that would offer the model tools, start helpers, or ask the network for more.
_FEATURES_OFF = (
    "apps",
    "browser_use",
    "computer_use",
    "goals",
    "hooks",
    "image_generation",
    "in_app_browser",
    "plugins",
    "remote_plugin",
    "shell_snapshot",
    "shell_tool",
    "skill_search",
    "sleep_tool",
    "tool_suggest",
    "unified_exec",
    "view_image",
    "workspace_dependencies",
)
_LEAN = f"""\
analytics.enabled = false
check_for_update_on_startup = false
cli_auth_credentials_store = "file"
include_apps_instructions = false
include_collaboration_mode_instructions = false
include_environment_context = false
include_permissions_instructions = false
project_doc_max_bytes = 0
web_search = "disabled"
history.persistence = "none"
skills.include_instructions = false
agents.enabled = false
features = {{ {", ".join(f"{name} = false" for name in _FEATURES_OFF)} }}
"""
_NOWHERE = "http://127.0.0.1:9"
_PROVIDER = """\
chatgpt_base_url = "{url}/backend-api"
model_provider = "polydev"
[model_providers.polydev]
name = "polydev"
base_url = "{url}/backend-api/codex"
wire_api = "responses"
requires_openai_auth = true
supports_websockets = false
stream_max_retries = 0
request_max_retries = 0
"""
_ENVIRONMENT = {
    # The CLI looks for programs at its start (bwrap, lsb_release, git), runs those that it finds
    # and waits for them: 40 ms until the first token, for tools that a run does not have.
    "PATH": "/nonexistent",
    "NO_COLOR": "1",
}
_WINDOW_HEADER = re.compile(
    r"x-(codex(?:-[a-z0-9-]+)?)-(primary|secondary)-(used-percent|reset-at)"
)


def _desktop_launch(order: LoginOrder) -> Launch:
    trusted = str(order.authority) if order.authority else ""
    trust = {"SSL_CERT_FILE": trusted, "CODEX_CA_CERTIFICATE": trusted} if trusted else {}
    return Launch(
        argv=(str(order.program), "login"),
        environment={"HTTPS_PROXY": order.place.egress_url, **trust},
        files={".codex/config.toml": Secret(_LEAN.encode())},
        needs_port=True,
    )


class CodexProvider:
    """See polydev.providers.base.Provider."""

    name = "codex"
    title = "Codex"
    program = Program(
        package="@openai/codex",
        file="@openai/codex-{platform}/vendor/{target}/bin/codex",
        targets={
            "linux-x64": "x86_64-unknown-linux-musl",
            "linux-arm64": "aarch64-unknown-linux-musl",
            "darwin-x64": "x86_64-apple-darwin",
            "darwin-arm64": "aarch64-apple-darwin",
        },
    )
    catalogue = Catalogue(
        names=(
            "gpt-6.1-sol",
            "gpt-6-astra",
            "gpt-6-sol",
            "gpt-6-luna",
            "gpt-6.1-terra",
            "gpt-5.6-sol",
            "gpt-5.6-terra",
            "gpt-5.6-luna",
            "gpt-5.5",
        ),
        aliases={"default": "gpt-6.1-sol"},
        prefixes=("gpt-", "codex-", "o1", "o3", "o4"),
    )
    takes_images = True
    takes_history = True
    credential_file = credentials.CREDENTIAL_FILE
    companion_files: tuple[PurePosixPath, ...] = ()
    keychain_item = ""
    login_command = "codex login"
    # Its databases take 60 ms to set up. By the marker it takes its own skills for unpacked.
    first_start: FirstStart | None = FirstStart(
        arguments=("app-server",),
        keeps=(
            ".codex/*.sqlite",
            ".codex/*.sqlite-wal",
            ".codex/skills/.system/.codex-system-skills.marker",
        ),
    )
    starts_alone = False
    ignores_max_tokens = True

    login_ways: tuple[LoginWay | KeyWay, ...] = (
        LoginWay(
            method=LoginMethod.THIS_MACHINE,
            command="codex login",
            launch=lambda order: _login_launch(order, "chatgpt"),
            dialogue=login.CodexLogin,
        ),
        LoginWay(
            method=LoginMethod.DEVICE_CODE,
            command="codex login --device-auth",
            launch=lambda order: _login_launch(order, "chatgptDeviceCode"),
            dialogue=login.CodexLogin,
        ),
        LoginWay(
            method=LoginMethod.RELAYED_CALLBACK,
            command="codex login",
            launch=lambda order: _login_launch(order, "chatgpt"),
            dialogue=login.CodexLogin,
        ),
        LoginWay(
            method=LoginMethod.REMOTE_DESKTOP,
            command="codex login",
            launch=_desktop_launch,
            dialogue=lambda: InTerminal("Codex"),
        ),
    )

    def policy(self, purpose: Purpose, kind: str) -> EgressPolicy:
        if purpose is Purpose.KEEPER:
            return EgressPolicy(mode=EgressMode.WITNESS, rules=_KEEPER_RULES)
        if purpose is Purpose.LOGIN:
            return EgressPolicy(mode=EgressMode.WITNESS, rules=_LOGIN_RULES)
        return EgressPolicy(
            mode=EgressMode.INJECT,
            rules=_RUN_RULES,
            plain_host=_API,
            added=(
                AddedHeader(name="authorization", value="Bearer {access_token}"),
                AddedHeader(name="chatgpt-account-id", value="{account_id}"),
            ),
            observed=("x-codex-",),
        )

    def launch(self, order: LaunchOrder) -> Launch:
        place = order.place
        environment = {
            **_ENVIRONMENT,
            # Of the system's authorities it needs none, and reading them takes it 60 ms.
            "SSL_CERT_FILE": str(place.authority),
        }
        installation = {".codex/installation_id": Secret(_installation_id(order).encode())}
        if order.purpose is Purpose.KEEPER:
            # A login that looks fresh is renewed by the explicit request and by nothing else; one
            # that looks expired would be renewed twice, and the second time use up a token. What
            # the CLI asks of chatgpt.com meanwhile has nobody to answer it, and need not have.
            return Launch(
                argv=(str(order.program), "app-server"),
                environment={
                    **environment,
                    "HTTPS_PROXY": place.egress_url,
                    "CODEX_CA_CERTIFICATE": str(place.authority),
                },
                files={
                    **installation,
                    **credentials.renewable(order.credential),
                    ".codex/config.toml": Secret(_config(_NOWHERE)),
                },
                needs_port=True,
                opening=_RENEW,
            )
        return Launch(
            argv=(str(order.program), "app-server"),
            environment={
                **environment,
                # Else a refused token has it seek a new one, for 15 s, where it cannot get to.
                "CODEX_REFRESH_TOKEN_URL_OVERRIDE": RENEWAL_URL,
            },
            files={
                **installation,
                **credentials.made_up(
                    access_token=order.sentinel.reveal(),
                    account_id=order.credential.attributes["account_id"],
                    plan=order.credential.plan,
                ),
                ".codex/config.toml": Secret(_config(place.egress_url)),
            },
            needs_port=True,
        )

    def dialogue(self, prompt: Prompt) -> CodexDialogue:
        return CodexDialogue(prompt)

    def read_credential(self, files: Mapping[str, Secret[bytes]]) -> Credential:
        return credentials.read_credential(files)

    def renew(self, credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
        return credentials.renew(credential, answer, now)

    def observe(self, exchange: Exchange, now: datetime) -> Observation:
        headers = dict(exchange.headers)
        retry_at = retry_after(headers.get("retry-after"), now)
        windows = _windows(headers)
        if exchange.status == 401:
            return Observation(windows=windows, trouble=EndReason.NEEDS_LOGIN)
        # What is asked beside the answer itself may fail without harm to it.
        if not exchange.path.startswith(_INFERENCE):
            return Observation(windows=windows)
        if exchange.status == 403:
            return Observation(windows=windows, trouble=EndReason.NEEDS_LOGIN)
        if exchange.status == 429:
            full = [
                window.resets_at
                for window in windows
                if window.resets_at and (window.used_fraction or 0) >= 1
            ]
            if full:
                return Observation(
                    windows=windows, trouble=EndReason.WINDOW_EXHAUSTED, retry_at=max(full)
                )
            default = now + timedelta(seconds=10)
            return Observation(
                windows=windows, trouble=EndReason.RATE_LIMITED, retry_at=retry_at or default
            )
        # A 503 may be overload or outage; its body tells, which the CLI has read.
        if exchange.status >= 500 and exchange.status != 503:
            return Observation(windows=windows, trouble=EndReason.PROVIDER_ERROR, retry_at=retry_at)
        return Observation(windows=windows)


_RENEW = tuple(
    json.dumps(message).encode()
    for message in (
        {
            "id": 1,
            "method": "initialize",
            "params": {"clientInfo": {"name": "polydev", "version": __version__}},
        },
        {"method": "initialized"},
        {"id": 2, "method": "account/read", "params": {"refreshToken": True}},
    )
)


def _login_launch(order: LoginOrder, kind: str) -> Launch:
    place = order.place
    return Launch(
        argv=(str(order.program), "app-server"),
        environment={
            **_ENVIRONMENT,
            "HTTPS_PROXY": place.egress_url,
            "SSL_CERT_FILE": str(place.authority),
            "CODEX_CA_CERTIFICATE": str(place.authority),
        },
        files={".codex/config.toml": Secret(_LEAN.encode())},
        needs_port=True,
        opening=login.opening(kind),
    )


def _config(url: str) -> bytes:
    return (_LEAN + _PROVIDER.format(url=url)).encode()


def _installation_id(order: LaunchOrder) -> str:
    """What the CLI would otherwise make anew in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"codex installation {order.identity}"))


def _windows(headers: Mapping[str, str]) -> tuple[WindowObserved, ...]:
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        match = _WINDOW_HEADER.fullmatch(name)
        if match:
            limit = "" if match[1] == "codex" else match[1].replace("-", "_") + "_"
            found.setdefault(limit + match[2], {})[match[3]] = value
    return tuple(
        WindowObserved(
            kind=kind,
            used_fraction=_fraction(values.get("used-percent")),
            resets_at=_seconds(values.get("reset-at")),
            source="header",
        )
        for kind, values in found.items()
    )


def _fraction(percent: str | None) -> float | None:
    try:
        return min(1.0, max(0.0, float(percent or "") / 100))
    except ValueError:
        return None


def _seconds(value: str | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(value or ""), UTC)
    except (ValueError, OverflowError, OSError):
        return None
