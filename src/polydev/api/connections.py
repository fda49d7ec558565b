"""The caller's own connections: how they are, what is left of their windows, what changes."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.responses import Response

from polydev.api import sse
from polydev.api.dependencies import CallerDependency, Services, ServicesDependency
from polydev.models.accounts import Connection, ConnectionState, Ownership, User
from polydev.models.notices import Topic
from polydev.models.windows import Window

router = APIRouter()


class WindowRecord(BaseModel):
    """A limit period as the provider last reported it; kind is the provider's own word."""

    kind: str
    used_fraction: float | None
    resets_at: datetime | None
    observed_at: datetime


class ConnectionRecord(BaseModel):
    """proxy: the outbound proxy that it leaves by, without user and password; null: directly."""

    id: str
    user: str
    provider: str
    state: ConnectionState
    reason: str
    account: str
    plan: str
    ownership: Ownership
    source: str | None
    proxy: str | None
    created_at: datetime
    expires_at: datetime | None
    refreshed_at: datetime | None
    checked_at: datetime | None
    windows: list[WindowRecord] = []


@router.get("/v1/connections", tags=["Connections"])
async def connections(
    caller: CallerDependency, services: ServicesDependency
) -> list[ConnectionRecord]:
    """The caller's connections, oldest first, with the windows that their providers reported."""
    return await _own(caller.user, services)


@router.get(
    "/v1/connections/events",
    tags=["Connections"],
    response_class=StreamingResponse,
    responses=sse.DESCRIBED,
)
async def events(caller: CallerDependency, services: ServicesDependency) -> Response:
    """What becomes of the caller's connections, as server-sent events until the reader leaves.

    Each as it is at first (`connection.seen`), then `connection.changed`, `connection.needs_login`
    and `connection.ended`.
    """
    return sse.EventStream(_changes(caller.user, services), {})


def record(connection: Connection, user: str, windows: Sequence[Window] = ()) -> ConnectionRecord:
    return ConnectionRecord(
        id=connection.id,
        user=user,
        provider=connection.provider,
        state=connection.state,
        reason=connection.reason,
        account=connection.account,
        plan=connection.plan,
        ownership=connection.ownership,
        source=connection.source,
        proxy=connection.proxy,
        created_at=connection.created_at,
        expires_at=connection.expires_at,
        refreshed_at=connection.refreshed_at,
        checked_at=connection.checked_at,
        windows=[
            WindowRecord(
                kind=window.kind,
                used_fraction=window.used_fraction,
                resets_at=window.resets_at,
                observed_at=window.observed_at,
            )
            for window in windows
        ],
    )


async def _own(user: User, services: Services) -> list[ConnectionRecord]:
    return [
        record(connection, user.name, await services.windows.of(connection.id))
        for connection in await services.connections.of_user(user)
    ]


async def _changes(user: User, services: Services) -> AsyncIterator[bytes]:
    with services.notices.listen(user.id) as listener:
        known: dict[str, ConnectionRecord] = {}
        topics: frozenset[Topic] | None = frozenset({Topic.CONNECTIONS})
        first = True
        while topics is not None:
            if Topic.CONNECTIONS in topics:
                now = {one.id: one for one in await _own(user, services)}
                for event in _differences(known, now, first=first):
                    yield event
                known, first = now, False
            topics = await listener.changed()


def _differences(
    before: dict[str, ConnectionRecord], now: dict[str, ConnectionRecord], *, first: bool
) -> list[bytes]:
    events = []
    for id, one in now.items():
        old = before.get(id)
        if one == old:
            continue
        name = "seen" if first else "changed"
        needs_login = one.state is ConnectionState.NEEDS_LOGIN
        if needs_login and (old is None or old.state is not ConnectionState.NEEDS_LOGIN):
            name = "needs_login"
        events.append(sse.event(f"connection.{name}", one.model_dump(mode="json")))
    events += [
        sse.event("connection.ended", one.model_dump(mode="json"))
        for id, one in before.items()
        if id not in now
    ]
    return events
