"""Logins at the stand-in for Anthropic: the authorize pages, the page with the code to paste, and
what a code is traded for.

claude.com and claude.ai give out what a subscription allows, platform.claude.com what makes an
API key. The state that comes with a code must be the one of its authorization.
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
from polydev.sim.credentials import CLAUDE_SCOPES
from polydev.sim.state import Account, TokenPair, World
from polydev.sim.wire import Failure

APPLICATION = Application(
    provider="claude",
    title="Claude",
    name="Claude Code",
    client_id="9d1c250a-e61b-44d9-88ed-5944d1962f5e",
)
HOSTS = ("platform.claude.com", "claude.com", "claude.ai", "console.anthropic.com")

_CONSOLE_HOSTS = ("platform.claude.com", "console.anthropic.com")
_CONSOLE_SCOPES = ("org:create_api_key", "user:profile")
_REDIRECTS = re.compile(
    r"https://(?:platform\.claude|console\.anthropic)\.com/oauth/code/callback"
    r"|http://localhost:\d{1,5}/callback"
)
_LONGEST_LIFETIME_SECONDS = 366 * 86400.0


def routes(world: World) -> list[BaseRoute]:
    subscription = logins.authorize(world, _door(CLAUDE_SCOPES))
    console = logins.authorize(world, _door(_CONSOLE_SCOPES))

    async def authorize(request: Request) -> Response:
        is_console = (request.url.hostname or "") in _CONSOLE_HOSTS
        return await (console if is_console else subscription)(request)

    return [
        Route("/cai/oauth/authorize", subscription, methods=["GET"]),
        Route("/oauth/authorize", authorize, methods=["GET"]),
        Route("/oauth/code/callback", _paste, methods=["GET"]),
        Route("/oauth/code/success", _success, methods=["GET"]),
        Route("/buy_credits", _success, methods=["GET"]),
        *logins.routes(world),
    ]


async def exchange(world: World, body: Mapping[str, Any]) -> dict[str, Any] | Failure:
    """The token endpoint's answer to an authorization code."""
    try:
        account, authorization = await logins.redeem(world, APPLICATION, body, with_state=True)
    except CodeRefused as refused:
        words = "redirect_uri" if refused.reason == "redirect" else "code"
        return Failure(
            status=400,
            body={"error": "invalid_grant", "error_description": f"Invalid '{words}' in request."},
        )
    asked = body.get("expires_in")
    lifetime = min(float(asked), _LONGEST_LIFETIME_SECONDS) if isinstance(asked, int) else None
    pair = world.log_in(account, lifetime_seconds=lifetime)
    return token_answer(account, pair, authorization.scope)


def token_answer(
    account: Account, pair: TokenPair, scope: str = " ".join(CLAUDE_SCOPES)
) -> dict[str, Any]:
    """What the token endpoint answers to a login and to a refresh."""
    expires_at = pair.access.expires_at or datetime.now(UTC)
    return {
        "token_type": "Bearer",
        "access_token": pair.access.value,
        "expires_in": round((expires_at - pair.access.issued_at).total_seconds()),
        "refresh_token": pair.refresh.value,
        "scope": scope,
        "organization": {
            "uuid": account.organization_id,
            "name": f"{account.email}'s Organization",
        },
        "account": {"uuid": account.id, "email_address": account.email},
    }


async def _paste(request: Request) -> Response:
    code, state = (request.query_params.get(name, "") for name in ("code", "state"))
    if not code:
        error = request.query_params.get("error", "there is no code")
        return pages.notice("Claude did not sign you in", f"Not authorized: {error}.", status=400)
    return pages.code("Claude", f"{code}#{state}")


async def _success(request: Request) -> Response:
    return pages.notice("You are signed in to Claude", "You may close this page.")


def _door(scopes: tuple[str, ...]) -> logins.Door:
    return logins.Door(
        application=APPLICATION,
        redirects=_REDIRECTS,
        needs_challenge=True,
        scopes=frozenset(scopes),
    )
