"""What routes are given: the services, and who asks."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from polydev.core.accounts import Accounts, Caller
from polydev.core.connecting import Connecting
from polydev.core.connections import Connections
from polydev.core.logins import Logins
from polydev.core.metrics import Metrics
from polydev.core.notices import Notices
from polydev.core.proxies import Proxies
from polydev.core.quotas import Quotas
from polydev.core.runs import Runs
from polydev.core.sign_ins import SignIns
from polydev.core.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    accounts: Accounts
    connections: Connections
    connecting: Connecting
    proxies: Proxies
    logins: Logins
    windows: Windows
    quotas: Quotas
    runs: Runs
    sign_ins: SignIns
    metrics: Metrics
    notices: Notices


def services(connection: HTTPConnection) -> Services:
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


def caller(connection: HTTPConnection) -> Caller:
    """Who sent the request; `KeyFirst` found out before the route was looked for."""
    found = connection.state.caller
    assert isinstance(found, Caller)
    return found


CallerDependency = Annotated[Caller, Depends(caller)]
ServicesDependency = Annotated[Services, Depends(services)]
