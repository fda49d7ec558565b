"""What routes are given: the services, and who asks."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from polydev.core.accounts import Accounts, Caller
from polydev.core.connections import Connections
from polydev.core.metrics import Metrics
from polydev.core.quotas import Quotas
from polydev.core.runs import Runs
from polydev.errors import PolydevError


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    accounts: Accounts
    connections: Connections
    quotas: Quotas
    runs: Runs
    metrics: Metrics


def services(connection: HTTPConnection) -> Services:
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


async def caller(connection: HTTPConnection) -> Caller:
    """Who sent the request. Raises Unauthenticated, Forbidden, TooManyRequests.

    On the owner's own socket there is no key: whoever may open it owns this installation.
    """
    found = services(connection)
    if connection.app.state.is_owners_socket:
        name = connection.headers.get("polydev-user")
        return Caller(user=await found.accounts.user_named(name), key=None)
    try:
        known = await found.accounts.caller(presented_key(connection))
    except PolydevError as error:
        found.metrics.refused.labels(code=error.code).inc()
        raise
    assert known.key is not None
    found.quotas.count_request(known.key)
    return known


def presented_key(connection: HTTPConnection) -> str:
    """The key in `Authorization: Bearer` or `x-api-key`; empty when there is none."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return connection.headers.get("x-api-key", "").strip()


CallerDependency = Annotated[Caller, Depends(caller)]
ServicesDependency = Annotated[Services, Depends(services)]
