"""Logging in from the page: the methods, one login as it goes, and the logins of before."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from polydev.errors import InvalidRequest, NotFound, PolydevError
from polydev.models.logins import STATE_MARK, Login, LoginLine, LoginMethod, LoginState
from polydev.web.dependencies import (
    FormDependency,
    Visit,
    VisitDependency,
    WebServices,
    WebServicesDependency,
)
from polydev.web.pages import done, page, provider_titles
from polydev.web.usage import curl_line

router = APIRouter()

_TITLES = {
    LoginMethod.THIS_MACHINE: (
        "In this browser",
        "Nothing to copy: your browser leads back by itself. For a browser on this same computer.",
    ),
    LoginMethod.DEVICE_CODE: (
        "With a short code",
        "You type a code on the provider's page, in any browser on any device.",
    ),
    LoginMethod.PASTE_CODE: (
        "Paste a code",
        "The provider's page shows a code, which you paste here. Any browser will do.",
    ),
    LoginMethod.RELAYED_CALLBACK: (
        "Paste an address",
        "The last page cannot be reached by your browser; you paste its address here.",
    ),
    LoginMethod.API_KEY: ("With an API key", "A key that you make on the provider's page."),
    LoginMethod.REMOTE_DESKTOP: (
        "In a remote desktop",
        "A browser and a terminal on the machine that polydev runs on, shown in this page.",
    ),
}
_STEPS = (
    (LoginState.STARTING, "A place of its own is made"),
    (LoginState.READY, "The login command runs"),
    (LoginState.WAITING_FOR_USER, "You log in"),
    (LoginState.CREDENTIAL_SEEN, "The login is written"),
    (LoginState.PROVED, "A live call is answered with it"),
    (LoginState.CONNECTED, "Connected"),
)
_PASTED = {
    LoginMethod.THIS_MACHINE: "Address of the last page, if it could not be reached",
    LoginMethod.PASTE_CODE: "Code",
    LoginMethod.RELAYED_CALLBACK: "Address of the page that could not be reached",
    LoginMethod.API_KEY: "API key",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A method to choose. here: it works in the browser that asks."""

    method: LoginMethod
    title: str
    words: str
    command: str
    here: bool


@router.get("/connect/{provider}")
async def connect(
    provider: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    """The methods, best first; a login that is under way in their place."""
    if provider not in provider_titles():
        raise NotFound(f"There is no provider {provider[:64]!r}.", remedy="See: /connections")
    live = await _live(visit, services, provider)
    if live is not None:
        return RedirectResponse(f"/logins/{live.id}", status_code=303)
    offers = _offers(services, provider, here=_is_here(request))
    renews = request.query_params.get("renews", "")
    return page(request, "connect.html", provider=provider, offers=offers, renews=renews)


@router.post("/connect/{provider}")
async def start(
    provider: str,
    request: Request,
    visit: VisitDependency,
    form: FormDependency,
    services: WebServicesDependency,
) -> Response:
    try:
        method = LoginMethod(form["method"]) if form.get("method") else None
    except ValueError:
        raise InvalidRequest("There is no such method.", remedy="Choose one of the page.") from None
    renews = form.get("renews") or None
    login = await services.logins.start(visit.user, provider, method, renews=renews)
    to = f"/logins/{login.id}"
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"hx-redirect": to})
    return RedirectResponse(to, status_code=303)


@router.get("/logins")
async def logins(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "logins.html", logins=await services.logins.of_user(visit.user))


@router.get("/logins/list")
async def login_list(
    request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    found = await services.logins.of_user(visit.user)
    return page(request, "fragments/logins.html", logins=found)


@router.get("/logins/{login_id}")
async def login(
    login_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "login.html", **await _shown(visit, services, login_id))


@router.get("/logins/{login_id}/state")
async def state(
    login_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "fragments/login.html", **await _shown(visit, services, login_id))


@router.get("/logins/{login_id}/log")
async def log(
    login_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    return page(request, "fragments/login_log.html", **await _shown(visit, services, login_id))


@router.post("/logins/{login_id}/answer")
async def answer(
    login_id: str,
    request: Request,
    visit: VisitDependency,
    form: FormDependency,
    services: WebServicesDependency,
) -> Response:
    await services.logins.answer(visit.user, login_id, form.get("text", ""))
    return done(request, "It was handed over.", f"/logins/{login_id}")


@router.post("/logins/{login_id}/cancel")
async def cancel(
    login_id: str, request: Request, visit: VisitDependency, services: WebServicesDependency
) -> Response:
    ended = await services.logins.cancel(visit.user, login_id)
    good = ended.state in (LoginState.CANCELLED, LoginState.CONNECTED)
    return done(request, ended.message, f"/logins/{login_id}", good=good)


async def _live(visit: Visit, services: WebServices, provider: str) -> Login | None:
    for login in await services.logins.of_user(visit.user, limit=20):
        if login.provider == provider and not login.state.is_final:
            return login
    return None


def _offers(services: WebServices, provider: str, *, here: bool) -> list[Offer]:
    offers = [
        Offer(
            method=way.method,
            title=_TITLES[way.method][0],
            words=_TITLES[way.method][1],
            command=way.command,
            here=here or way.method is not LoginMethod.THIS_MACHINE,
        )
        for way in services.logins.ways(provider)
    ]
    return sorted(offers, key=lambda offer: not offer.here)


def _is_here(request: Request) -> bool:
    """Whether the browser seems to be on this computer. A tunnel from elsewhere looks the same."""
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _shown(visit: Visit, services: WebServices, login_id: str) -> dict[str, Any]:
    login = await services.logins.get(visit.user, login_id)
    lines = await services.logins.log(visit.user, login_id)
    connection = None
    if login.connection_id is not None:
        try:
            connection = await services.connections.own(visit.user, login.connection_id)
        except PolydevError:
            connection = None  # disconnected since
    return {
        "login": login,
        "title": _TITLES[login.method][0],
        "steps": _steps(login, lines),
        "pasted": _PASTED.get(login.method, ""),
        "lines": lines,
        "connection": connection,
        "curl": curl_line(services.address.url, login.provider),
    }


def _steps(login: Login, lines: tuple[LoginLine, ...]) -> list[tuple[str, str]]:
    """Each step's words and how it stands: done, now, failed, or empty."""
    reached = {
        line.text.removeprefix(STATE_MARK).partition(":")[0]
        for line in lines
        if line.text.startswith(STATE_MARK)
    }
    steps: list[tuple[str, str]] = []
    now = "failed" if login.state.is_final and login.state is not LoginState.CONNECTED else "now"
    for number, (step, words) in enumerate(_STEPS):
        later = {state.value for state, _ in _STEPS[number + 1 :]}
        if later & reached or LoginState.CONNECTED.value in reached:
            steps.append((words, "done"))
        elif step.value in reached or (number == 0 and not reached & {s.value for s, _ in _STEPS}):
            steps.append((words, now))
        else:
            steps.append((words, ""))
    return steps
