"""Logins, on the owner's socket: asked for, followed, answered, cancelled."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from polydev.api import sse
from polydev.api.dependencies import ServicesDependency
from polydev.api.owner import ProxyText, said
from polydev.models.logins import Login, LoginMethod, LoginState, LoginTrouble

router = APIRouter(prefix="/owner/logins")


class Way(BaseModel):
    """One method of a provider; command: what it runs."""

    method: LoginMethod
    command: str


class LoginRequest(BaseModel):
    """proxy: the outbound proxy that the login and then its connection leave by; `none` for none."""

    user: str | None = None
    provider: str
    method: LoginMethod | None = None
    proxy: ProxyText | None = None


class Answer(BaseModel):
    """What the person pasted: a code, a key, or the address of the page that cannot be reached."""

    text: str = Field(max_length=8192)


class LoginRecord(BaseModel):
    """link, user_code: what the person needs, while it waits for them; wants_code: it takes one."""

    id: str
    user_id: str
    provider: str
    method: LoginMethod
    state: LoginState
    reason: LoginTrouble | None
    message: str
    command: str
    link: str
    user_code: str
    connection_id: str | None
    created_at: datetime
    expires_at: datetime
    changed_at: datetime
    finished_at: datetime | None


class LineRecord(BaseModel):
    at: datetime
    text: str


@router.get("/ways/{provider}")
async def ways(provider: str, services: ServicesDependency) -> list[Way]:
    """The methods of a provider, best first."""
    return [Way(method=way.method, command=way.command) for way in services.logins.ways(provider)]


@router.post("", status_code=201)
async def start(body: LoginRequest, services: ServicesDependency) -> LoginRecord:
    """A login under way: the person's live one, or a new one."""
    user = await services.accounts.user_named(body.user)
    proxy = said(body.proxy)
    return record(await services.logins.start(user, body.provider, body.method, proxy))


@router.get("")
async def latest(services: ServicesDependency, user: str | None = None) -> list[LoginRecord]:
    """Newest first."""
    person = await services.accounts.user_named(user)
    return [record(login) for login in await services.logins.of_user(person)]


@router.get("/{login_id}")
async def get(login_id: str, services: ServicesDependency, user: str | None = None) -> LoginRecord:
    person = await services.accounts.user_named(user)
    return record(await services.logins.get(person, login_id))


@router.get("/{login_id}/log")
async def log(
    login_id: str, services: ServicesDependency, user: str | None = None
) -> list[LineRecord]:
    """What the CLI said and polydev saw, masked."""
    person = await services.accounts.user_named(user)
    lines = await services.logins.log(person, login_id)
    return [LineRecord(at=line.at, text=line.text) for line in lines]


@router.get("/{login_id}/events", response_class=StreamingResponse, responses=sse.DESCRIBED)
async def follow(login_id: str, services: ServicesDependency, user: str | None = None) -> Response:
    """The login at each change, to its end, as server-sent events."""
    person = await services.accounts.user_named(user)
    return sse.EventStream(_lines(await services.logins.follow(person, login_id)), {})


@router.post("/{login_id}/answer")
async def answer(
    login_id: str, body: Answer, services: ServicesDependency, user: str | None = None
) -> LoginRecord:
    """Hands what was pasted to the CLI that waits for it."""
    person = await services.accounts.user_named(user)
    return record(await services.logins.answer(person, login_id, body.text))


@router.delete("/{login_id}")
async def cancel(
    login_id: str, services: ServicesDependency, user: str | None = None
) -> LoginRecord:
    person = await services.accounts.user_named(user)
    return record(await services.logins.cancel(person, login_id))


def record(login: Login) -> LoginRecord:
    return LoginRecord(**asdict(login))


async def _lines(changes: AsyncIterator[Login]) -> AsyncIterator[bytes]:
    async for login in changes:
        yield sse.event("login", record(login).model_dump(mode="json"))
