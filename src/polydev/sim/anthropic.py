"""The stand-in for Anthropic: inference, the OAuth token endpoint, and what claude asks beside.

Every answer carries the vendor's `request-id`, and inference answers carry the window headers
`anthropic-ratelimit-unified-*`. Errors have the vendor's JSON form and status.
"""

import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim import anthropic_login
from polydev.sim.anthropic_messages import message, prompt_of, stream_frames
from polydev.sim.credentials import claude_file, claude_token
from polydev.sim.speech import answer, count_tokens
from polydev.sim.state import (
    Account,
    RefreshRejected,
    TokenRejected,
    Vendor,
    World,
)
from polydev.sim.wire import EventStream, Failure, Fault, bearer, delay, fault, fields, iso

PROVIDER = "claude"
MODELS = (
    ("claude-opus-4-8", "Claude Opus 4.8"),
    ("claude-sonnet-5", "Claude Sonnet 5"),
    ("claude-haiku-4-5-20251001", "Claude Haiku 4.5"),
)

_SHORT_NAMES = {"five_hour": "5h", "seven_day": "7d"}
_REFUSALS = {
    "missing": (401, "authentication_error", "x-api-key header is required"),
    "unknown": (401, "authentication_error", "Invalid bearer token"),
    "expired": (
        401,
        "authentication_error",
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
    ),
    "revoked": (
        403,
        "permission_error",
        "OAuth token has been revoked. Please obtain a new token.",
    ),
    "no_beta": (
        401,
        "authentication_error",
        "OAuth authentication is currently not supported.",
    ),
}


def routes(world: World) -> list[BaseRoute]:
    """What is answered on the vendor's hosts."""
    stand_in = _Anthropic(world)
    return [
        Route("/v1/messages", stand_in.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", stand_in.count_tokens, methods=["POST"]),
        Route("/v1/models", stand_in.models, methods=["GET"]),
        Route("/v1/oauth/token", stand_in.token, methods=["POST"]),
        Route("/v1/oauth/token/revoke", stand_in.empty, methods=["POST"]),
        Route("/api/oauth/profile", stand_in.profile, methods=["GET"]),
        Route("/api/oauth/usage", stand_in.usage, methods=["GET"]),
        Route("/api/oauth/claude_cli/roles", stand_in.roles, methods=["GET"]),
        Route("/api/oauth/claude_cli/create_api_key", stand_in.create_api_key, methods=["POST"]),
        Route("/api/oauth/account/settings", stand_in.empty, methods=["GET", "PATCH"]),
        Route("/api/claude_cli/bootstrap", stand_in.empty, methods=["GET", "POST"]),
        Route(
            "/api/claude_code/organizations/metrics_enabled", stand_in.no_metrics, methods=["GET"]
        ),
        Route("/api/event_logging/{rest:path}", stand_in.empty, methods=["POST"]),
        Route("/v1/mcp_servers", stand_in.no_servers, methods=["GET"]),
        Route("/api/hello", stand_in.hello, methods=["GET", "HEAD"]),
        *anthropic_login.routes(world),
    ]


class _Anthropic:
    def __init__(self, world: World) -> None:
        self._world = world

    async def messages(self, request: Request) -> Response:
        account = self._account(request, inference=True)
        if isinstance(account, Response):
            return account
        knobs = self._world.knobs(account)
        await delay(knobs.first_byte_seconds)
        refused = self._refusal(account)
        if refused is not None:
            return refused
        body = await fields(request)
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            return _error(400, "invalid_request_error", "messages: Field required")
        if not isinstance(body.get("model"), str) or not body["model"]:
            return _error(400, "invalid_request_error", "model: Field required")
        self._world.use_windows(account)
        said = answer(prompt_of(body))
        headers = self._window_headers(account)
        if body.get("stream"):
            return EventStream(
                stream_frames(body, said), knobs=knobs, account=account, headers=headers
            )
        return JSONResponse(message(body, said), headers=headers)

    async def count_tokens(self, request: Request) -> Response:
        account = self._account(request, inference=True)
        if isinstance(account, Response):
            return account
        prompt = prompt_of(await fields(request))
        total = count_tokens(prompt.system) + sum(count_tokens(turn.text) for turn in prompt.turns)
        return _json({"input_tokens": max(1, total)})

    async def models(self, request: Request) -> Response:
        account = self._account(request, inference=True)
        if isinstance(account, Response):
            return account
        data = [
            {
                "type": "model",
                "id": id_,
                "display_name": name,
                "created_at": "2026-01-01T00:00:00Z",
            }
            for id_, name in MODELS
        ]
        return _json(
            {"data": data, "has_more": False, "first_id": MODELS[0][0], "last_id": MODELS[-1][0]}
        )

    async def token(self, request: Request) -> Response:
        body = await fields(request)
        if body.get("grant_type") == "authorization_code":
            answered = await anthropic_login.exchange(self._world, body)
            if isinstance(answered, Failure):
                return _json(answered.body, answered.status)
            return _json(answered)
        value = str(body.get("refresh_token", ""))
        if body.get("grant_type") != "refresh_token" or not value:
            return _json(
                {"error": "invalid_request", "error_description": "Invalid request format"}, 400
            )
        owner = self._world.refresh_owner(PROVIDER, value)
        await delay(self._world.knobs(owner).refresh_delay_seconds)
        try:
            pair = self._world.refresh(PROVIDER, value)
        except RefreshRejected:
            return _json(
                {
                    "error": "invalid_grant",
                    "error_description": "Refresh token not found or invalid",
                },
                400,
            )
        return _json(anthropic_login.token_answer(self._world.accounts[pair.access.account], pair))

    async def profile(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return _json(
            {
                "account": {
                    "uuid": account.id,
                    "full_name": account.name,
                    "display_name": account.name,
                    "email": account.email,
                    "has_claude_max": account.plan == "max",
                    "has_claude_pro": account.plan == "pro",
                    "created_at": "2026-01-01T00:00:00Z",
                },
                "organization": {
                    "uuid": account.organization_id,
                    "name": f"{account.email}'s Organization",
                    "organization_type": f"claude_{account.plan}",
                    "billing_type": "stripe_subscription",
                    "rate_limit_tier": "default_claude_max_5x",
                    "has_extra_usage_enabled": False,
                    "subscription_status": "active",
                    "subscription_created_at": "2026-01-01T00:00:00Z",
                },
            }
        )

    async def usage(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        self._world.exhausted(account)
        windows: dict[str, Any] = {
            window.kind: {
                "utilization": round(100 * window.used_fraction, 1),
                "resets_at": iso(window.resets_at),
            }
            for window in account.windows.values()
        }
        return _json(
            {
                **windows,
                "seven_day_oauth_apps": None,
                "seven_day_opus": None,
                "seven_day_sonnet": None,
                "extra_usage": None,
            }
        )

    async def roles(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return _json(
            {
                "organization_uuid": account.organization_id,
                "organization_name": f"{account.email}'s Organization",
                "organization_role": "admin",
                "workspace_role": None,
            }
        )

    async def create_api_key(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return _json({"raw_key": self._world.give_api_key(account).value})

    async def no_metrics(self, request: Request) -> Response:
        return _json({"metrics_logging_enabled": False})

    async def no_servers(self, request: Request) -> Response:
        return _json({"data": [], "has_more": False})

    async def hello(self, request: Request) -> Response:
        return _json({"message": "hello"})

    async def empty(self, request: Request) -> Response:
        return _json({})

    def _account(self, request: Request, *, inference: bool = False) -> Account | Response:
        key = request.headers.get("x-api-key", "")
        try:
            account = self._world.authenticate(PROVIDER, bearer(request) or key)
        except TokenRejected as rejected:
            return _error(*_REFUSALS[rejected.reason])
        betas = ",".join(request.headers.getlist("anthropic-beta"))
        if inference and bearer(request) and "oauth-" not in betas:
            return _error(*_REFUSALS["no_beta"])
        return account

    def _refusal(self, account: Account) -> Response | None:
        knobs = self._world.knobs(account)
        match fault(self._world, account):
            case Fault.SERVER_ERROR:
                return _error(knobs.server_error or 500, "api_error", "Internal server error")
            case Fault.OVERLOADED:
                return _error(529, "overloaded_error", "Overloaded")
            case Fault.RATE_LIMITED:
                return _error(
                    429,
                    "rate_limit_error",
                    "This request would exceed the rate limit of your organization. "
                    "Please try again later.",
                    {"retry-after": str(knobs.retry_after_seconds)},
                )
            case Fault.LIMIT_REACHED:
                window = self._world.exhausted(account)
                assert window is not None
                seconds = max(1, round((window.resets_at - datetime.now(UTC)).total_seconds()))
                return _error(
                    429,
                    "rate_limit_error",
                    "This request would exceed your account's rate limit. Please try again later.",
                    {**self._window_headers(account), "retry-after": str(seconds)},
                )
        return None

    def _window_headers(self, account: Account) -> dict[str, str]:
        stopped = self._world.exhausted(account)
        leading = stopped or max(account.windows.values(), key=lambda one: one.used_fraction)
        prefix = "anthropic-ratelimit-unified"
        headers = {
            f"{prefix}-status": "rejected" if stopped else "allowed",
            f"{prefix}-reset": str(round(leading.resets_at.timestamp())),
            f"{prefix}-representative-claim": leading.kind,
            f"{prefix}-fallback-percentage": "0.5",
            f"{prefix}-overage-status": "rejected",
            f"{prefix}-overage-disabled-reason": "org_level_disabled",
            "anthropic-organization-id": account.organization_id,
            "request-id": _request_id(),
        }
        for window in account.windows.values():
            name = f"{prefix}-{_SHORT_NAMES[window.kind]}"
            headers[f"{name}-status"] = "rejected" if window is stopped else "allowed"
            headers[f"{name}-reset"] = str(round(window.resets_at.timestamp()))
            headers[f"{name}-utilization"] = f"{window.used_fraction:.3f}"
        return headers


def _request_id() -> str:
    return f"req_{uuid.uuid4().hex[:24]}"


def _json(content: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers={"request-id": _request_id()})


def _error(
    status: int, kind: str, text: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    headers = {"request-id": _request_id(), **(headers or {})}
    return JSONResponse(
        {
            "type": "error",
            "error": {"type": kind, "message": text},
            "request_id": headers["request-id"],
        },
        status,
        headers=headers,
    )


VENDOR = Vendor(
    provider=PROVIDER,
    hosts=("api.anthropic.com", *anthropic_login.HOSTS),
    credential_path="claude/.credentials.json",
    rotates_refresh_tokens=True,
    plan="max",
    windows={"five_hour": 5 * 3600, "seven_day": 7 * 86400},
    mint=claude_token,
    credential=claude_file,
    routes=routes,
)
