"""Logins, as far as the vendors are alike: the authorize page, sign-in, consent, taking a code.

A CLI sends a person to the authorize page. They sign in (any e-mail; an account is made for a new
one; the password `wrong` is refused), allow or deny, and are sent to the redirect address with a
code, or with `error=access_denied`. An authorize request that names no known client or an address
that is not the client's own is refused on the page: nobody is sent anywhere. The knobs `login_*`
steer it; before somebody has signed in, the defaults of the World do.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim import login_pages as pages
from polydev.sim.codes import Answer, Application, Authorization
from polydev.sim.state import Account, World
from polydev.sim.wire import delay, fields

REFUSED_PASSWORD = "wrong"  # noqa: S105
LONGEST_EMAIL = 254

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """An authorize page and whom it serves.

    redirects: what a redirect address must match as a whole.
    needs_challenge: whether PKCE is demanded.
    scopes: what is granted of what is asked for; None grants everything.
    tells_scope: whether the redirect says what was granted.
    """

    application: Application
    redirects: re.Pattern[str]
    needs_challenge: bool
    scopes: frozenset[str] | None = None
    tells_scope: bool = False


def routes(world: World) -> list[BaseRoute]:
    """The pages behind every authorize page; each vendor has them on its own hosts."""
    login = _Login(world)
    return [
        Route(pages.SIGN_IN_PATH, login.popup, methods=["GET"]),
        Route(pages.SIGN_IN_PATH, login.sign_in, methods=["POST"]),
        Route(pages.CONSENT_PATH, login.consent, methods=["GET"]),
        Route(pages.CONSENT_PATH, login.answer, methods=["POST"]),
    ]


def authorize(world: World, door: Door) -> Handler:
    """The handler of an authorize page."""

    async def authorized(request: Request) -> Response:
        await delay(world.knobs().login_page_seconds)
        asked = request.query_params
        wrong = _wrong(asked, door)
        if wrong:
            return pages.notice(f"{door.application.title} cannot sign you in", wrong, status=400)
        authorization = Authorization(
            application=door.application,
            redirect_uri=asked["redirect_uri"],
            state=asked.get("state", ""),
            challenge=asked.get("code_challenge", ""),
            scope=" ".join(
                scope
                for scope in asked.get("scope", "").split()
                if door.scopes is None or scope in door.scopes
            ),
            login_hint=asked.get("login_hint", "")[:LONGEST_EMAIL],
            tells_scope=door.tells_scope,
        )
        return first_page(world, authorization)

    return authorized


def first_page(world: World, authorization: Authorization) -> Response:
    """Where a person begins who is to answer `authorization`."""
    world.codes.open(authorization)
    title = authorization.application.title
    if world.knobs().login_popup:
        return pages.sign_in_elsewhere(title, authorization.id)
    return pages.sign_in(
        title, authorization.id, email=authorization.login_hint, error="", popup=False
    )


async def redeem(
    world: World, application: Application, body: Mapping[str, Any], *, with_state: bool = False
) -> tuple[Account, Authorization]:
    """Who allowed what, for the code in a token request's body. Raises CodeRefused."""
    value = str(body.get("code", ""))
    known = world.codes.look_up(value)
    asker = world.accounts.get(known.authorization.account) if known else None
    await delay(world.knobs(asker).login_token_seconds)
    authorization = world.codes.take(
        value,
        provider=application.provider,
        client_id=str(body.get("client_id", "")),
        redirect_uri=str(body.get("redirect_uri", "")),
        verifier=str(body.get("code_verifier", "")),
        state=str(body.get("state", "")) if with_state else None,
    )
    return world.accounts[authorization.account], authorization


def account_of(world: World, provider: str, email: str) -> Account:
    """The account that signs in with `email`, made when there is none."""
    email = email.strip()
    for account in world.accounts.values():
        if account.provider == provider and account.email.lower() == email.lower():
            return account
    stem = re.sub(r"[^a-z0-9]+", "-", email.partition("@")[0].lower()).strip("-")[:40] or "person"
    names = (
        stem,
        f"{stem}-{provider}",
        *(f"{stem}-{provider}-{number}" for number in range(2, 999)),
    )
    name = next(name for name in names if name not in world.accounts)
    return world.create_account(provider, name, email=email)


class _Login:
    """Sign-in and consent; the form field `login` names the authorization they are about."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def popup(self, request: Request) -> Response:
        authorization = self._open(request.query_params.get("login", ""))
        if isinstance(authorization, Response):
            return authorization
        await delay(self._world.knobs().login_page_seconds)
        return pages.sign_in(
            authorization.application.title,
            authorization.id,
            email=authorization.login_hint,
            error="",
            popup=True,
        )

    async def sign_in(self, request: Request) -> Response:
        form = await fields(request)
        authorization = self._open(str(form.get("login", "")))
        if isinstance(authorization, Response):
            return authorization
        await delay(self._world.knobs().login_page_seconds)
        if form.get("answer") == "deny":
            return self._denied(authorization)
        email = str(form.get("email", "")).strip()
        error = _wrong_person(email, str(form.get("password", "")))
        title, popup = authorization.application.title, form.get("popup") == "1"
        if error:
            shown = email[:LONGEST_EMAIL]
            return pages.sign_in(title, authorization.id, email=shown, error=error, popup=popup)
        account = account_of(self._world, authorization.application.provider, email)
        authorization.account = account.name
        if popup:
            return pages.signed_in_elsewhere(title, authorization.id)
        return RedirectResponse(f"{pages.CONSENT_PATH}?login={authorization.id}", 303)

    async def consent(self, request: Request) -> Response:
        found = self._signed_in(request.query_params.get("login", ""))
        if isinstance(found, Response):
            return found
        authorization, account = found
        await delay(self._world.knobs(account).login_page_seconds)
        return pages.consent(
            authorization.application.title,
            authorization.id,
            application=authorization.application.name,
            email=account.email,
            scope=authorization.scope,
        )

    async def answer(self, request: Request) -> Response:
        form = await fields(request)
        found = self._signed_in(str(form.get("login", "")))
        if isinstance(found, Response):
            return found
        authorization, account = found
        knobs = self._world.knobs(account)
        await delay(knobs.login_page_seconds)
        if form.get("answer") != "allow" or knobs.login_denied:
            return self._denied(authorization)
        title = authorization.application.title
        if authorization.device is not None and authorization.device.is_expired:
            return pages.notice(title, "This device code has expired.", status=400)
        authorization.answer = Answer.ALLOWED
        if authorization.device is not None:
            return pages.notice(title, "You are signed in. You may close this page.")
        code = self._world.codes.give(
            authorization, lifetime_seconds=knobs.login_code_lifetime_seconds
        )
        granted = {"scope": authorization.scope} if authorization.tells_scope else {}
        return _sent(authorization, {"code": code.value, **granted})

    def _open(self, id: str) -> Authorization | Response:
        authorization = self._world.codes.authorization(id)
        if authorization is None:
            return pages.notice("Nothing to do", "There is no such login. Begin again.", status=400)
        if authorization.answer is not Answer.OPEN:
            title = authorization.application.title
            return pages.notice(title, "This login was answered already. Begin again.", status=400)
        return authorization

    def _signed_in(self, id: str) -> tuple[Authorization, Account] | Response:
        authorization = self._open(id)
        if isinstance(authorization, Response):
            return authorization
        account = self._world.accounts.get(authorization.account)
        if account is None:
            title = authorization.application.title
            return pages.notice(title, "Nobody has signed in yet. Begin again.", status=400)
        return authorization, account

    def _denied(self, authorization: Authorization) -> Response:
        authorization.answer = Answer.DENIED
        if authorization.device is not None:
            return pages.notice(
                authorization.application.title, "You denied it. You may close this page."
            )
        return _sent(
            authorization,
            {"error": "access_denied", "error_description": "The user denied the request."},
        )


def _sent(authorization: Authorization, answer: dict[str, str]) -> Response:
    if authorization.state:
        answer["state"] = authorization.state
    return RedirectResponse(f"{authorization.redirect_uri}?{urlencode(answer)}", 303)


def _wrong(asked: Mapping[str, str], door: Door) -> str:
    if asked.get("client_id") != door.application.client_id:
        return "The application is not known here (invalid client_id)."
    if not door.redirects.fullmatch(asked.get("redirect_uri", "")):
        return "The address to return to is not one of the application's (invalid redirect_uri)."
    if asked.get("response_type") != "code":
        return "Only response_type=code is supported."
    challenge = asked.get("code_challenge", "")
    if (challenge or door.needs_challenge) and asked.get("code_challenge_method") != "S256":
        return "A code_challenge with the method S256 is required."
    if door.needs_challenge and not challenge:
        return "A code_challenge is required."
    return ""


def _wrong_person(email: str, password: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > LONGEST_EMAIL:
        return "Enter your e-mail address."
    if not password:
        return "Enter your password."
    return "Wrong e-mail or password." if password == REFUSED_PASSWORD else ""
