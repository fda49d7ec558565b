"""Logins at the stand-in for Google: the authorize page, the page with the code to paste, and what
a code is traded for.

PKCE is held to where the CLI uses it: with a code to paste, but not with its own listener.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from polydev.sim import login_pages as pages
from polydev.sim import logins
from polydev.sim.codes import Application, CodeRefused
from polydev.sim.google_credentials import CLIENT_ID, SCOPE
from polydev.sim.state import TokenPair, World
from polydev.sim.wire import Failure

APPLICATION = Application(provider="gemini", title="Google", name="Gemini CLI", client_id=CLIENT_ID)
HOSTS = ("accounts.google.com", "codeassist.google.com", "developers.google.com")

_DOOR = logins.Door(
    application=APPLICATION,
    redirects=re.compile(
        r"https://codeassist\.google\.com/authcode"
        r"|http://(?:localhost|127\.0\.0\.1):\d{1,5}/oauth2callback"
    ),
    needs_challenge=False,
    tells_scope=True,
)


def routes(world: World) -> list[BaseRoute]:
    return [
        Route("/o/oauth2/v2/auth", logins.authorize(world, _DOOR), methods=["GET"]),
        Route("/authcode", _paste, methods=["GET"]),
        Route("/gemini-code-assist/auth_success_gemini", _success, methods=["GET"]),
        Route("/gemini-code-assist/auth_failure_gemini", _no_success, methods=["GET"]),
        *logins.routes(world),
    ]


async def exchange(world: World, body: Mapping[str, Any]) -> dict[str, Any] | Failure:
    """The token endpoint's answer to an authorization code."""
    try:
        account, _ = await logins.redeem(world, APPLICATION, body)
    except CodeRefused as refused:
        match refused.reason:
            case "redirect":
                return _failure("redirect_uri_mismatch", "Bad Request")
            case "verifier":
                return _failure("invalid_grant", "Invalid code verifier.")
            case _:
                return _failure("invalid_grant", "Malformed auth code.")
    pair = world.log_in(account)
    return token_answer(pair) | {"refresh_token": pair.refresh.value}


def token_answer(pair: TokenPair) -> dict[str, Any]:
    """What the token endpoint answers to a refresh; to a login there is a refresh token too."""
    expires_at = pair.access.expires_at or datetime.now(UTC)
    seconds = (expires_at - pair.access.issued_at).total_seconds()
    return {
        "access_token": pair.access.value,
        "expires_in": max(0, round(seconds) - 1),
        "scope": SCOPE,
        "token_type": "Bearer",
        "id_token": pair.id_token,
    }


async def _paste(request: Request) -> Response:
    code = request.query_params.get("code", "")
    if not code:
        error = request.query_params.get("error", "there is no code")
        return pages.notice("Google did not sign you in", f"Not authorized: {error}.", status=400)
    return pages.code("Google", code)


async def _success(request: Request) -> Response:
    return pages.notice("You are signed in to Gemini Code Assist", "You may close this page.")


async def _no_success(request: Request) -> Response:
    return pages.notice("Gemini Code Assist did not sign you in", "Go back and try again.")


def _failure(error: str, text: str) -> Failure:
    return Failure(status=400, body={"error": error, "error_description": text})
