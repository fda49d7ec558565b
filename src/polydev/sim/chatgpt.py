"""The stand-in for ChatGPT as codex uses it: inference over POST and WebSocket, accounts, usage,
and the token endpoint of auth.openai.com.

Inference answers carry the window headers `x-codex-*`; over the WebSocket they come as the event
`codex.rate_limits`. An account id beside a bearer that is not the bearer's own is refused: an
egress that mixes two people up must not pass here.
"""

from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from polydev.sim import chatgpt_login
from polydev.sim.chatgpt_responses import events_of, prompt_of, turns_of
from polydev.sim.chatgpt_socket import Conversation
from polydev.sim.credentials import codex_file, codex_token
from polydev.sim.speech import answer
from polydev.sim.state import Account, RefreshRejected, TokenRejected, Vendor, World
from polydev.sim.wire import (
    EventStream,
    Failure,
    Fault,
    Frame,
    bearer,
    delay,
    fault,
    fields,
    server_event,
)

PROVIDER = "codex"

_PREFIX = "/backend-api"
_REFUSALS = {
    "missing": ("token_missing", "Missing bearer authentication in header."),
    "unknown": ("token_invalid", "Could not parse your authentication token. Please sign in."),
    "expired": (
        "token_expired",
        "Provided authentication token is expired. Please try signing in again.",
    ),
    "revoked": (
        "token_revoked",
        "Your authentication token has been invalidated. Please try signing in again.",
    ),
    "other_account": ("account_mismatch", "The account id is not one of this token's."),
}
_REFRESH_REFUSALS = {
    "unknown": ("refresh_token_invalidated", "Your refresh token is not valid."),
    "denied": ("refresh_token_expired", "Your refresh token has expired."),
    "reused": ("refresh_token_reused", "Your refresh token has already been used."),
    "revoked": ("refresh_token_invalidated", "Your refresh token has been revoked."),
}


def routes(world: World) -> list[BaseRoute]:
    """What is answered on the vendor's hosts."""
    stand_in = _ChatGPT(world)
    return [
        WebSocketRoute(f"{_PREFIX}/codex/responses", stand_in.socket),
        Route(f"{_PREFIX}/codex/responses", stand_in.responses, methods=["POST"]),
        Route(f"{_PREFIX}/codex/models", stand_in.models, methods=["GET"]),
        Route(f"{_PREFIX}/wham/accounts/check", stand_in.accounts, methods=["GET"]),
        Route(f"{_PREFIX}/wham/usage", stand_in.usage, methods=["GET"]),
        Route(f"{_PREFIX}/wham/settings/user", stand_in.settings, methods=["GET"]),
        Route("/oauth/token", stand_in.token, methods=["POST"]),
        *chatgpt_login.routes(world),
    ]


class _ChatGPT:
    def __init__(self, world: World) -> None:
        self._world = world

    async def responses(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        knobs = self._world.knobs(account)
        await delay(knobs.first_byte_seconds)
        failure = self.failure(account)
        if failure is not None:
            return JSONResponse(failure.body, failure.status, headers=failure.headers)
        body = await fields(request)
        if not isinstance(body.get("input"), list) or not body.get("model"):
            return JSONResponse({"detail": "Input and model are required."}, 400)
        if not body.get("stream"):
            return JSONResponse({"detail": "Stream must be set to true"}, 400)
        self._world.use_windows(account)
        said = answer(prompt_of(body, turns_of(body["input"])))
        frames = [
            Frame(content=server_event(event), is_text=is_text)
            for event, is_text in events_of(body, said)
        ]
        return EventStream(
            frames, knobs=knobs, account=account, headers=self._window_headers(account)
        )

    async def socket(self, websocket: WebSocket) -> None:
        account = self._account(websocket)
        if isinstance(account, Response):
            await websocket.send_denial_response(account)
            return
        if self._world.knobs(account).websocket_refused:
            await websocket.send_denial_response(Response(status_code=426))
            return
        await websocket.accept(
            headers=[
                (name.encode(), value.encode())
                for name, value in self._window_headers(account).items()
            ]
        )
        await Conversation(
            websocket,
            self._world,
            account,
            failure=lambda: self.failure(account),
            windows=lambda: _windows_event(self._world, account),
        ).serve()

    async def models(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        # codex keeps the list that it was built with when this one is empty.
        return JSONResponse({"models": []}, headers={"etag": 'W/"simulator"'})

    async def accounts(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return JSONResponse(
            {
                "accounts": [
                    {
                        "id": account.id,
                        "account_user_id": f"user-{account.id}__{account.id}",
                        "structure": "personal",
                        "plan_type": account.plan,
                        "name": None,
                        "profile_picture_url": None,
                        "workspace_backend_origin": "https://chatgpt.com",
                        "account_routing_override": "NO_CONSTRAINT",
                    }
                ],
                "default_account_id": account.id,
                "account_ordering": [account.id],
            }
        )

    async def usage(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        stopped = self._world.exhausted(account)
        now = datetime.now(UTC)
        windows = {
            f"{kind}_window": {
                "used_percent": round(100 * window.used_fraction),
                "limit_window_seconds": round(window.length_seconds),
                "reset_after_seconds": max(0, round((window.resets_at - now).total_seconds())),
                "reset_at": round(window.resets_at.timestamp()),
            }
            for kind, window in account.windows.items()
        }
        return JSONResponse(
            {
                "user_id": f"user-{account.id}",
                "account_id": account.id,
                "email": account.email,
                "plan_type": account.plan,
                "rate_limit": {
                    "allowed": stopped is None,
                    "limit_reached": stopped is not None,
                    **windows,
                },
                "code_review_rate_limit": None,
                "additional_rate_limits": None,
                "credits": {"has_credits": False, "unlimited": False, "balance": None},
                "rate_limit_reached_type": None,
            }
        )

    async def settings(self, request: Request) -> Response:
        account = self._account(request)
        return account if isinstance(account, Response) else JSONResponse({})

    async def token(self, request: Request) -> Response:
        body = await fields(request)
        match body.get("grant_type"):
            case "authorization_code":
                return _answered(await chatgpt_login.exchange(self._world, body))
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                return _answered(chatgpt_login.no_api_key())
        value = str(body.get("refresh_token", ""))
        if body.get("grant_type") != "refresh_token" or not value:
            return _error(400, "invalid_request", "The request is missing a refresh token.")
        owner = self._world.refresh_owner(PROVIDER, value)
        await delay(self._world.knobs(owner).refresh_delay_seconds)
        try:
            pair = self._world.refresh(PROVIDER, value)
        except RefreshRejected as rejected:
            return _error(401, *_REFRESH_REFUSALS[rejected.reason])
        return JSONResponse(chatgpt_login.token_answer(pair))

    def failure(self, account: Account) -> Failure | None:
        """What the account's knobs make of a model request."""
        knobs = self._world.knobs(account)
        match fault(self._world, account):
            case Fault.SERVER_ERROR:
                status = knobs.server_error or 500
                text = "An error occurred while processing your request."
                return _failure(status, "server_error", text)
            case Fault.OVERLOADED:
                return _failure(
                    503,
                    "server_is_overloaded",
                    "Our servers are currently overloaded. Please try again later.",
                )
            case Fault.RATE_LIMITED:
                return _failure(
                    429,
                    "rate_limit_exceeded",
                    f"Rate limit reached. Please try again in {knobs.retry_after_seconds}s.",
                    {"retry-after": str(knobs.retry_after_seconds)},
                )
            case Fault.LIMIT_REACHED:
                window = self._world.exhausted(account)
                assert window is not None
                seconds = max(1, round((window.resets_at - datetime.now(UTC)).total_seconds()))
                return Failure(
                    status=429,
                    body={
                        "error": {
                            "type": "usage_limit_reached",
                            "message": "The usage limit has been reached",
                            "plan_type": account.plan,
                            "resets_at": round(window.resets_at.timestamp()),
                            "resets_in_seconds": seconds,
                        }
                    },
                    headers=self._window_headers(account),
                )
        return None

    def _account(self, connection: HTTPConnection) -> Account | Response:
        try:
            account = self._world.authenticate(PROVIDER, bearer(connection))
        except TokenRejected as rejected:
            return _error(401, *_REFUSALS[rejected.reason])
        if connection.headers.get("chatgpt-account-id", account.id) != account.id:
            return _error(401, *_REFUSALS["other_account"])
        return account

    def _window_headers(self, account: Account) -> dict[str, str]:
        headers = {
            "x-codex-plan-type": account.plan,
            "x-codex-credits-has-credits": "False",
            "x-codex-credits-unlimited": "False",
            "x-codex-credits-balance": "",
        }
        now = datetime.now(UTC)
        self._world.exhausted(account)
        for kind, window in account.windows.items():
            left = max(0, round((window.resets_at - now).total_seconds()))
            headers |= {
                f"x-codex-{kind}-used-percent": f"{100 * window.used_fraction:.1f}",
                f"x-codex-{kind}-window-minutes": str(round(window.length_seconds / 60)),
                f"x-codex-{kind}-reset-after-seconds": str(left),
                f"x-codex-{kind}-reset-at": str(round(window.resets_at.timestamp())),
            }
        return headers


def _windows_event(world: World, account: Account) -> dict[str, Any]:
    stopped = world.exhausted(account)
    windows = {
        kind: {
            "used_percent": round(100 * window.used_fraction, 1),
            "window_minutes": round(window.length_seconds / 60),
            "reset_at": round(window.resets_at.timestamp()),
        }
        for kind, window in account.windows.items()
    }
    return {
        "type": "codex.rate_limits",
        "plan_type": account.plan,
        "rate_limits": {
            "allowed": stopped is None,
            "limit_reached": stopped is not None,
            **windows,
        },
        "code_review_rate_limits": None,
        "credits": {"has_credits": False, "unlimited": False, "balance": None},
        "promo": None,
    }


def _failure(status: int, code: str, text: str, headers: dict[str, str] | None = None) -> Failure:
    error = {"message": text, "type": code, "param": None, "code": code}
    return Failure(status=status, body={"error": error}, headers=headers or {})


def _answered(answer: dict[str, Any] | Failure) -> JSONResponse:
    if isinstance(answer, Failure):
        return JSONResponse(answer.body, answer.status)
    return JSONResponse(answer)


def _error(status: int, code: str, text: str) -> JSONResponse:
    return JSONResponse(
        {
            "error": {
                "message": text,
                "type": "invalid_request_error",
                "param": None,
                "code": code,
            }
        },
        status,
    )


VENDOR = Vendor(
    provider=PROVIDER,
    hosts=("chatgpt.com", "auth.openai.com", "api.openai.com"),
    credential_path="codex/auth.json",
    rotates_refresh_tokens=True,
    plan="plus",
    windows={"primary": 5 * 3600, "secondary": 7 * 86400},
    mint=codex_token,
    credential=codex_file,
    routes=routes,
    mints_id_token=True,
)
