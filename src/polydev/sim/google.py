"""The stand-in for Google: Code Assist, the Gemini API, the OAuth token endpoint, who one is.

Code Assist takes an OAuth bearer, the Gemini API an API key. Errors have Google's JSON form:
`{"error": {code, message, status, details}}`; unlike other vendors it tells a limit's reset in
`details` and sends no header for it. Google does not rotate refresh tokens.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim import google_login
from polydev.sim.google_content import has_text, prompt_of, responses, whole
from polydev.sim.google_credentials import (
    CLIENT_ID,
    SCOPE,
    google_file,
    google_token,
    project_of,
    subject_of,
)
from polydev.sim.google_failures import failure, refusal
from polydev.sim.speech import answer, count_tokens
from polydev.sim.state import Account, RefreshRejected, TokenRejected, Vendor, World
from polydev.sim.wire import (
    EventStream,
    Failure,
    Frame,
    bearer,
    delay,
    fault,
    fields,
    iso,
    server_event,
)

PROVIDER = "gemini"
CODE_ASSIST = "cloudcode-pa.googleapis.com"
GEMINI_API = "generativelanguage.googleapis.com"
MODELS = (
    "gemini-3.1-pro-preview",
    "gemini-3-pro-preview",
    "gemini-3-flash-preview",
    "gemini-3.5-flash",
    "gemini-3.1-flash-lite",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
)

# grant type → the parameter that it needs
_GRANTS = {"authorization_code": "code", "refresh_token": "refresh_token"}

_Handler = Callable[[Request], Awaitable[Response]]


def routes(world: World) -> list[BaseRoute]:
    """What is answered on the vendor's hosts."""
    assist, api, identity = _CodeAssist(world), _GeminiApi(world), _Identity(world)

    def internal(method: str, handler: _Handler) -> Route:
        return Route(f"/v1internal:{method}", handler, methods=["POST"])

    return [
        internal("loadCodeAssist", assist.load),
        internal("onboardUser", assist.onboard),
        internal("retrieveUserQuota", assist.quota),
        internal("listExperiments", assist.experiments),
        internal("fetchAdminControls", assist.empty),
        internal("recordCodeAssistMetrics", assist.empty),
        internal("streamGenerateContent", assist.stream),
        internal("generateContent", assist.generate),
        internal("countTokens", assist.count),
        Route("/v1internal:getCodeAssistGlobalUserSetting", assist.empty, methods=["GET"]),
        Route("/v1beta/models", api.models, methods=["GET"]),
        Route("/v1beta/models/{model}:streamGenerateContent", api.stream, methods=["POST"]),
        Route("/v1beta/models/{model}:generateContent", api.generate, methods=["POST"]),
        Route("/v1beta/models/{model}:countTokens", api.count, methods=["POST"]),
        Route("/token", identity.token, methods=["POST"]),
        Route("/revoke", identity.revoke, methods=["POST"]),
        Route("/tokeninfo", identity.token_info, methods=["GET", "POST"]),
        Route("/oauth2/v2/userinfo", identity.user_info, methods=["GET"]),
        *google_login.routes(world),
    ]


class _Speaker:
    """What the two doors to the same models share; they differ in key and wrapping."""

    service = ""

    def __init__(self, world: World) -> None:
        self._world = world

    def _credential(self, request: Request) -> str:
        raise NotImplementedError

    def _wrapped(self, response: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _account(self, request: Request) -> Account | Response:
        try:
            return self._world.authenticate(PROVIDER, self._credential(request))
        except TokenRejected as rejected:
            return refusal(rejected.reason, self.service)

    async def _speak(
        self, request: Request, body: Mapping[str, Any], model: str, *, streaming: bool
    ) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        knobs = self._world.knobs(account)
        await delay(knobs.first_byte_seconds)
        wrong = fault(self._world, account)
        if wrong is not None:
            window = self._world.exhausted(account)
            resets_at = window.resets_at if window else datetime.now(UTC)
            return failure(wrong, self.service, knobs, model=model, resets_at=resets_at)
        if not isinstance(body.get("contents"), list) or not body["contents"]:
            return _error(400, "INVALID_ARGUMENT", "* GenerateContentRequest.contents: missing")
        if not model.startswith("gemini-"):
            return _error(404, "NOT_FOUND", f"models/{model[:80]} is not found.")
        self._world.use_windows(account)
        said = answer(prompt_of(body))
        if not streaming:
            return JSONResponse(self._wrapped(whole(body, said, model)))
        many = responses(body, said, model)
        if request.query_params.get("alt") != "sse":
            return JSONResponse([self._wrapped(one) for one in many])
        frames = [
            Frame(content=server_event(self._wrapped(one), named=False), is_text=has_text(one))
            for one in many
        ]
        return EventStream(
            frames, knobs=knobs, account=account, headers={}, content_type="text/event-stream"
        )

    def _counted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        prompt = prompt_of(body)
        total = count_tokens(prompt.system) + sum(count_tokens(turn.text) for turn in prompt.turns)
        return {"totalTokens": max(1, total)}


class _CodeAssist(_Speaker):
    service = CODE_ASSIST

    def _credential(self, request: Request) -> str:
        return bearer(request)

    def _wrapped(self, response: dict[str, Any]) -> dict[str, Any]:
        return {"response": response, "traceId": f"made-up-{response['responseId']}"}

    async def stream(self, request: Request) -> Response:
        return await self._unwrapped(request, streaming=True)

    async def generate(self, request: Request) -> Response:
        return await self._unwrapped(request, streaming=False)

    async def count(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return JSONResponse(self._counted(_inner(await fields(request))))

    async def load(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        tier = {
            "id": "standard-tier",
            "name": "Gemini Code Assist",
            "description": "Unlimited coding assistant with the most powerful Gemini models",
            "userDefinedCloudaicompanionProject": True,
            "isDefault": True,
        }
        return JSONResponse(
            {
                "currentTier": tier,
                "allowedTiers": [tier],
                "cloudaicompanionProject": project_of(account),
                "gcpManaged": False,
                "paidTier": {"id": account.plan, "name": "Google One AI Pro"},
            }
        )

    async def onboard(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        project = {"id": project_of(account), "name": project_of(account)}
        return JSONResponse({"done": True, "response": {"cloudaicompanionProject": project}})

    async def quota(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        self._world.exhausted(account)
        window = next(iter(account.windows.values()))
        buckets = [
            {
                "resetTime": iso(window.resets_at),
                "tokenType": "REQUESTS",
                "modelId": model,
                "remainingFraction": round(1 - window.used_fraction, 6),
            }
            for model in MODELS
        ]
        return JSONResponse({"buckets": buckets})

    async def experiments(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return JSONResponse({"experimentIds": [], "flags": []})

    async def empty(self, request: Request) -> Response:
        account = self._account(request)
        return account if isinstance(account, Response) else JSONResponse({})

    async def _unwrapped(self, request: Request, *, streaming: bool) -> Response:
        body = await fields(request)
        model = str(body.get("model") or "").removeprefix("models/")
        return await self._speak(request, _inner(body), model, streaming=streaming)


class _GeminiApi(_Speaker):
    service = GEMINI_API

    def _credential(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key") or request.query_params.get("key") or ""

    def _wrapped(self, response: dict[str, Any]) -> dict[str, Any]:
        return response

    async def stream(self, request: Request) -> Response:
        model = request.path_params["model"]
        return await self._speak(request, await fields(request), model, streaming=True)

    async def generate(self, request: Request) -> Response:
        model = request.path_params["model"]
        return await self._speak(request, await fields(request), model, streaming=False)

    async def count(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        return JSONResponse(self._counted(await fields(request)))

    async def models(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        methods = ["generateContent", "countTokens"]
        listed = [
            {"name": f"models/{name}", "version": "001", "supportedGenerationMethods": methods}
            for name in MODELS
        ]
        return JSONResponse({"models": listed})


class _Identity:
    """The token endpoint, and what tells whose a token is."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def token(self, request: Request) -> Response:
        body = await fields(request)
        needed = _GRANTS.get(str(body.get("grant_type", "")), "grant_type")
        value = str(body.get(needed, ""))
        if not value or needed == "grant_type":
            return _oauth_error("invalid_request", f"Missing required parameter: {needed}")
        if body.get("client_id") != CLIENT_ID:
            return _oauth_error("invalid_client", "The OAuth client was not found.", 401)
        if needed == "code":
            answered = await google_login.exchange(self._world, body)
            if isinstance(answered, Failure):
                return JSONResponse(answered.body, answered.status)
            return JSONResponse(answered)
        owner = self._world.refresh_owner(PROVIDER, value)
        await delay(self._world.knobs(owner).refresh_delay_seconds)
        try:
            pair = self._world.refresh(PROVIDER, value)
        except RefreshRejected as rejected:
            dead = rejected.reason in ("revoked", "denied")
            text = "Token has been expired or revoked." if dead else "Bad Request"
            return _oauth_error("invalid_grant", text)
        return JSONResponse(google_login.token_answer(pair))

    async def revoke(self, request: Request) -> Response:
        body = await fields(request)
        owner = self._world.refresh_owner(PROVIDER, str(body.get("token", "")))
        if owner is None:
            return _oauth_error("invalid_token", "Token expired or revoked")
        self._world.revoke(owner)
        return JSONResponse({})

    async def token_info(self, request: Request) -> Response:
        value = bearer(request) or request.query_params.get("access_token") or ""
        value = value or str((await fields(request)).get("access_token", ""))
        try:
            account = self._world.authenticate(PROVIDER, value)
        except TokenRejected:
            return _oauth_error("invalid_token", "Invalid Value")
        return JSONResponse(
            {
                "azp": CLIENT_ID,
                "aud": CLIENT_ID,
                "sub": subject_of(account),
                "scope": SCOPE,
                "exp": str(round((datetime.now(UTC) + timedelta(hours=1)).timestamp())),
                "expires_in": "3599",
                "email": account.email,
                "email_verified": "true",
                "access_type": "offline",
            }
        )

    async def user_info(self, request: Request) -> Response:
        try:
            account = self._world.authenticate(PROVIDER, bearer(request))
        except TokenRejected as rejected:
            return refusal(rejected.reason, "www.googleapis.com")
        return JSONResponse(
            {
                "id": subject_of(account),
                "email": account.email,
                "verified_email": True,
                "name": account.name,
                "given_name": account.name,
                "picture": "",
            }
        )


def _inner(body: Mapping[str, Any]) -> dict[str, Any]:
    inner = body.get("request")
    return inner if isinstance(inner, dict) else {}


def _error(code: int, status: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "status": status}}, code)


def _oauth_error(error: str, description: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": description}, status)


VENDOR = Vendor(
    provider=PROVIDER,
    hosts=(
        CODE_ASSIST,
        GEMINI_API,
        "oauth2.googleapis.com",
        "www.googleapis.com",
        *google_login.HOSTS,
    ),
    credential_path="gemini/oauth_creds.json",
    rotates_refresh_tokens=False,
    plan="g1-pro-tier",
    windows={"requests_per_day": 86400},
    mint=google_token,
    credential=google_file,
    routes=routes,
    mints_id_token=True,
)
