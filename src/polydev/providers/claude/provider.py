"""What to start for Claude, and what it may ask of the network."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from polydev.events import EndReason, WindowObserved
from polydev.models.accounts import Credential
from polydev.models.egress import AddedHeader, EgressMode, EgressPolicy, Exchange, Purpose, Rule
from polydev.models.logins import LoginMethod
from polydev.models.places import Launch
from polydev.models.runs import Prompt
from polydev.providers.base import Catalogue, FirstStart, LaunchOrder, Observation, Program
from polydev.providers.claude import credential as credentials
from polydev.providers.claude.dialogue import ClaudeDialogue
from polydev.providers.claude.login import ClaudeLogin
from polydev.providers.instants import instant
from polydev.providers.login import InTerminal, KeyWay, LoginOrder, LoginWay, opener
from polydev.providers.retry import retry_after
from polydev.secret import Secret

_API = "api.anthropic.com"
_MESSAGES = "/v1/messages"
_TOKENS = "platform.claude.com"
# Plans whose organisation may send settings that the CLI must obey; it asks for them at start.
_MANAGED_PLANS = frozenset({"team", "enterprise"})

_RUN_RULES = (
    # Once, for whatever reason it asks again: no prompt is answered twice.
    Rule(method="POST", host=_API, path=_MESSAGES, once=True),
    Rule(method="GET", host=_API, path="/api/claude_code/(settings|policy_limits)"),
)
_KEEPER_RULES = (Rule(method="POST", host=_TOKENS, path="/v1/oauth/token", sealed=True),)
_LOGIN_RULES = (
    Rule(method="POST", host=_TOKENS, path="/v1/oauth/token"),
    Rule(method="GET", host=_API, path="/api/oauth/(profile|claude_cli/roles|account/settings)"),
)

_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    # Limits and outages go to the caller at once; whether to try again is the caller's decision.
    "CLAUDE_CODE_MAX_RETRIES": "0",
    # Otherwise a stream that was cut off is asked again without streaming.
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    # As on the API, thinking is off unless asked for. The newer models know no budget of zero.
    "CLAUDE_CODE_DISABLE_THINKING": "1",
    "MAX_THINKING_TOKENS": "0",
}
# Where it is told to look for the system prompt; an `initialize` request costs 10 ms more.
_SYSTEM_FILE = ".claude/system-prompt.md"
_ARGUMENTS = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--include-partial-messages",
    "--tools=",
    "--setting-sources=",
    "--strict-mcp-config",
    "--disable-slash-commands",
    "--no-session-persistence",
)
# What its first start notes in its state file: without them it migrates in every run, for 30 ms.
_MIGRATED: Mapping[str, object] = {
    "migrationVersion": 15,
    "opusProMigrationComplete": True,
    "opusProMigrationTimestamp": 1_795_000_000_000,
    "hasResetAutoModeOptInForDefaultOffer": True,
    "seenNotifications": {},
}
_WINDOW_HEADER = re.compile(r"anthropic-ratelimit-unified-(\w+)-(utilization|reset)")
_WINDOW_NAMES = {"5h": "five_hour", "7d": "seven_day"}


class ClaudeProvider:
    """See polydev.providers.base.Provider."""

    name = "claude"
    title = "Claude"
    program = Program(
        package="@anthropic-ai/claude-code",
        file="@anthropic-ai/claude-code-{platform}/claude",
    )
    catalogue = Catalogue(
        names=("sonnet", "opus", "haiku"),
        aliases={"default": "sonnet"},
        prefixes=("claude-",),
    )
    takes_images = True
    takes_history = True
    credential_file = credentials.CREDENTIAL_FILE
    companion_files: tuple[PurePosixPath, ...] = (credentials.ACCOUNT_FILE,)
    keychain_item = "Claude Code-credentials"
    login_command = "claude auth login"
    first_start: FirstStart | None = None
    starts_alone = False
    ignores_max_tokens = False

    def __init__(self) -> None:
        def way(method: LoginMethod, *, by_callback: bool) -> LoginWay:
            return LoginWay(
                method=method,
                command=self.login_command,
                launch=_login_launch,
                dialogue=lambda: ClaudeLogin(by_callback=by_callback),
            )

        self.login_ways: tuple[LoginWay | KeyWay, ...] = (
            way(LoginMethod.THIS_MACHINE, by_callback=True),
            way(LoginMethod.PASTE_CODE, by_callback=False),
            way(LoginMethod.RELAYED_CALLBACK, by_callback=True),
            LoginWay(
                method=LoginMethod.REMOTE_DESKTOP,
                command=self.login_command,
                launch=_desktop_launch,
                dialogue=lambda: InTerminal(self.title),
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
            added=(AddedHeader(name="authorization", value="Bearer {access_token}"),),
            # It asks again after a 503 whatever its settings say, but not against this header.
            on_failure=(AddedHeader(name="x-should-retry", value="false"),),
            observed=("anthropic-ratelimit-unified-",),
        )

    def launch(self, order: LaunchOrder) -> Launch:
        place = order.place
        program = str(order.program)
        if order.purpose is Purpose.KEEPER:
            # `auth status` refreshes an expired login at once and prompts nothing (0.3 s).
            return Launch(
                argv=(program, "auth", "status", "--json"),
                environment=_ENVIRONMENT
                | {
                    "HTTPS_PROXY": place.egress_url,
                    "NODE_EXTRA_CA_CERTS": str(place.authority),
                },
                files=credentials.expired(order.credential).files,
                needs_port=True,
            )
        assert order.prompt is not None
        environment = _ENVIRONMENT | {
            "CLAUDE_CODE_OAUTH_TOKEN": order.sentinel.reveal(),
            # Through the socket the CLI keeps its first-party behaviour, prompt caching with it.
            "ANTHROPIC_UNIX_SOCKET": str(place.egress_socket),
            "ANTHROPIC_BASE_URL": f"http://{_API}",
            # Without it the CLI asks for an organisation's settings for up to 17 s first.
            "CLAUDE_CODE_SUBSCRIPTION_TYPE": order.credential.plan or "pro",
        }
        managed = order.credential.plan in _MANAGED_PLANS
        if managed:
            environment["HTTPS_PROXY"] = place.egress_url
            environment["NODE_EXTRA_CA_CERTS"] = str(place.authority)
        if order.prompt.max_tokens is not None:
            environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(order.prompt.max_tokens)
        return Launch(
            argv=(
                program,
                *_ARGUMENTS,
                f"--model={order.prompt.model}",
                f"--system-prompt-file={place.home / _SYSTEM_FILE}",
            ),
            environment=environment,
            files={
                ".claude.json": Secret(_identity(order)),
                _SYSTEM_FILE: Secret(order.prompt.system.encode()),
            },
            needs_port=managed,
        )

    def dialogue(self, prompt: Prompt) -> ClaudeDialogue:
        return ClaudeDialogue(prompt)

    def read_credential(self, files: Mapping[str, Secret[bytes]]) -> Credential:
        return credentials.read_credential(files)

    def renew(self, credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
        return credentials.renew(credential, answer, now)

    def observe(self, exchange: Exchange, now: datetime) -> Observation:
        if exchange.path != _MESSAGES:
            return Observation()  # what else it asks decides nothing about a run
        headers = dict(exchange.headers)
        retry_at = retry_after(headers.get("retry-after"), now)
        windows = _windows(headers)
        if exchange.status in (401, 403):
            return Observation(windows=windows, trouble=EndReason.NEEDS_LOGIN)
        if exchange.status in (429, 529):
            if headers.get("anthropic-ratelimit-unified-status") == "rejected":
                reset = instant(headers.get("anthropic-ratelimit-unified-reset"))
                return Observation(
                    windows=windows,
                    trouble=EndReason.WINDOW_EXHAUSTED,
                    retry_at=reset or retry_at,
                )
            default = now + timedelta(seconds=10)
            return Observation(
                windows=windows, trouble=EndReason.RATE_LIMITED, retry_at=retry_at or default
            )
        if exchange.status >= 500:
            return Observation(windows=windows, trouble=EndReason.PROVIDER_ERROR, retry_at=retry_at)
        return Observation(windows=windows)


def _login_launch(order: LoginOrder) -> Launch:
    place, browser = order.place, opener(order.place)
    return Launch(
        argv=(str(order.program), "auth", "login"),
        environment={
            **_ENVIRONMENT,
            **browser.environment,
            "HTTPS_PROXY": place.egress_url,
            "NODE_EXTRA_CA_CERTS": str(place.authority),
        },
        files=browser.files,
        executable=browser.executable,
        needs_port=True,
    )


def _desktop_launch(order: LoginOrder) -> Launch:
    trust = {"NODE_EXTRA_CA_CERTS": str(order.authority)} if order.authority else {}
    return Launch(
        argv=(str(order.program), "auth", "login"),
        environment={**_ENVIRONMENT, "HTTPS_PROXY": order.place.egress_url, **trust},
        needs_port=True,
    )


def _identity(order: LaunchOrder) -> bytes:
    """The CLI's own state file, with the ids that it would otherwise make anew in every run."""

    def derived(what: bytes) -> str:
        return hashlib.sha256(b"claude %b " % what + order.identity.encode()).hexdigest()

    state: dict[str, object] = {
        "userID": derived(b"device"),
        "machineID": derived(b"machine"),
        "hasCompletedOnboarding": True,
        **_MIGRATED,
    }
    account = order.credential.attributes.get("account_uuid")
    if account:
        state["oauthAccount"] = {"accountUuid": account}
    return json.dumps(state).encode()


def _windows(headers: Mapping[str, str]) -> tuple[WindowObserved, ...]:
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        match = _WINDOW_HEADER.fullmatch(name)
        if match:
            found.setdefault(match[1], {})[match[2]] = value
    return tuple(
        WindowObserved(
            kind=_WINDOW_NAMES.get(kind, kind),
            used_fraction=_fraction(values.get("utilization")),
            resets_at=instant(values.get("reset")),
            source="header",
        )
        for kind, values in found.items()
    )


def _fraction(value: str | None) -> float | None:
    try:
        return min(1.0, max(0.0, float(value or "")))
    except ValueError:
        return None
