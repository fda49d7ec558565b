"""Logins at the stand-in for auth.openai.com: the browser's way, and device codes.

A device code is typed at /codex/device. Who polls for it is answered 403 until it is allowed, then
once with a code and the PKCE verifier that the provider itself made; a denied or expired one is
400, which codex takes as the end.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim import login_pages as pages
from polydev.sim import logins
from polydev.sim.codes import Answer, Application, Authorization, CodeRefused, challenge_of
from polydev.sim.credentials import CODEX_CLIENT_ID
from polydev.sim.state import TokenPair, World
from polydev.sim.wire import Failure, delay, fields, iso

APPLICATION = Application(
    provider="codex", title="ChatGPT", name="Codex CLI", client_id=CODEX_CLIENT_ID
)
DEVICE_PATH = "/codex/device"
DEVICE_REDIRECT = "https://auth.openai.com/deviceauth/callback"

_SCOPE = "openid profile email offline_access"
_DOOR = logins.Door(
    application=APPLICATION,
    redirects=re.compile(r"http://(?:localhost|127\.0\.0\.1):\d{1,5}/auth/callback"),
    needs_challenge=True,
    tells_scope=True,
)
_REFUSALS = {
    "used": ("authorization_code_used", "The authorization code was already used."),
    "expired": ("authorization_code_expired", "The authorization code has expired."),
    "verifier": ("invalid_grant", "The code verifier does not match the code challenge."),
    "redirect": ("invalid_grant", "The redirect_uri does not match the authorization request."),
}


def routes(world: World) -> list[BaseRoute]:
    device = _Device(world)
    accounts = "/api/accounts/deviceauth"
    return [
        Route("/oauth/authorize", logins.authorize(world, _DOOR), methods=["GET"]),
        Route(DEVICE_PATH, device.page, methods=["GET"]),
        Route(DEVICE_PATH, device.typed, methods=["POST"]),
        Route(f"{accounts}/usercode", device.start, methods=["POST"]),
        Route(f"{accounts}/token", device.poll, methods=["POST"]),
        *logins.routes(world),
    ]


async def exchange(world: World, body: Mapping[str, Any]) -> dict[str, Any] | Failure:
    """The token endpoint's answer to an authorization code."""
    try:
        account, _ = await logins.redeem(world, APPLICATION, body)
    except CodeRefused as refused:
        code, text = _REFUSALS.get(refused.reason, ("invalid_grant", "The code is not valid."))
        return _failure(401, code, text)
    return token_answer(world.log_in(account))


def no_api_key() -> Failure:
    """The answer to who asks for an API key beside the login: a subscription has none."""
    return _failure(401, "invalid_subject_token", "The id token names no organization.")


def token_answer(pair: TokenPair) -> dict[str, Any]:
    """What the token endpoint answers to a login and to a refresh."""
    expires_at = pair.access.expires_at or datetime.now(UTC)
    return {
        "id_token": pair.id_token,
        "access_token": pair.access.value,
        "refresh_token": pair.refresh.value,
        "token_type": "Bearer",
        "scope": _SCOPE,
        "expires_in": round((expires_at - pair.access.issued_at).total_seconds()),
    }


class _Device:
    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self, request: Request) -> Response:
        knobs = self._world.knobs()
        if knobs.device_login_disabled:
            return _answered(_failure(404, "not_found", "Device codes are not enabled."))
        if (await fields(request)).get("client_id") != CODEX_CLIENT_ID:
            return _answered(_failure(400, "invalid_client", "The client is not known."))
        device = self._world.codes.start_device(
            APPLICATION, lifetime_seconds=knobs.device_code_lifetime_seconds
        )
        return JSONResponse(
            {
                "device_auth_id": device.id,
                "user_code": device.user_code,
                "interval": str(knobs.device_poll_seconds),
                "expires_at": iso(device.expires_at),
            }
        )

    async def poll(self, request: Request) -> Response:
        body = await fields(request)
        device = self._world.codes.device(str(body.get("device_auth_id", "")))
        if device is None or device.user_code != body.get("user_code"):
            return _answered(_failure(400, "invalid_grant", "The device code is not known."))
        authorization = device.authorization
        if authorization is not None and authorization.answer is Answer.DENIED:
            return _answered(_failure(400, "access_denied", "The user denied the request."))
        if device.is_expired or device.is_collected:
            return _answered(_failure(400, "expired_token", "The device code is over."))
        if authorization is None or authorization.answer is not Answer.ALLOWED:
            return _answered(_failure(403, "authorization_pending", "Nobody has allowed it yet."))
        device.is_collected = True
        account = self._world.accounts.get(authorization.account)
        code = self._world.codes.give(
            authorization,
            lifetime_seconds=self._world.knobs(account).login_code_lifetime_seconds,
        )
        return JSONResponse(
            {
                "status": "authorized",
                "authorization_code": code.value,
                "code_challenge": authorization.challenge,
                "code_verifier": device.verifier,
            }
        )

    async def page(self, request: Request) -> Response:
        await delay(self._world.knobs().login_page_seconds)
        return pages.device(APPLICATION.title, DEVICE_PATH, error="")

    async def typed(self, request: Request) -> Response:
        await delay(self._world.knobs().login_page_seconds)
        device = self._world.codes.typed(str((await fields(request)).get("user_code", "")))
        error = ""
        if device is None:
            error = "This code is not known. Look at your device again."
        elif device.is_expired:
            error = "This device code has expired. Begin again on your device."
        elif device.authorization is not None and device.authorization.answer is not Answer.OPEN:
            error = "This code was used already. Begin again on your device."
        if error or device is None:
            return pages.device(APPLICATION.title, DEVICE_PATH, error=error)
        if device.authorization is None:
            device.authorization = Authorization(
                application=APPLICATION,
                redirect_uri=DEVICE_REDIRECT,
                challenge=challenge_of(device.verifier),
                scope=_SCOPE,
                device=device,
            )
        return logins.first_page(self._world, device.authorization)


def _failure(status: int, code: str, text: str) -> Failure:
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
    return Failure(status=status, body={"error": error})


def _answered(failure: Failure) -> Response:
    return JSONResponse(failure.body, failure.status)
