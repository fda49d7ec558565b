"""What pages are given: the services, and who looks at them."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from polydev.core.accounts import Accounts, Caller
from polydev.core.connecting import Connecting
from polydev.core.connections import Connections
from polydev.core.listening import Address
from polydev.core.logins import Logins
from polydev.core.notices import Notices
from polydev.core.programs import Programs
from polydev.core.runs import Runs
from polydev.core.sign_ins import SignIns
from polydev.core.windows import Windows
from polydev.models.accounts import User
from polydev.secret import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class WebServices:
    accounts: Accounts
    connections: Connections
    connecting: Connecting
    windows: Windows
    runs: Runs
    logins: Logins
    sign_ins: SignIns
    notices: Notices
    programs: Programs
    address: Address


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """A signed-in browser. token: what its cookie holds."""

    user: User
    token: Secret[str]

    @property
    def caller(self) -> Caller:
        return Caller(user=self.user, key=None)

    @property
    def csrf(self) -> str:
        """What every change must carry; bound to this sign-in, and made of it."""
        return hmac.new(
            self.token.reveal().encode(), b"polydev dashboard", hashlib.sha256
        ).hexdigest()


def services(connection: HTTPConnection) -> WebServices:
    found = connection.app.state.services
    assert isinstance(found, WebServices)
    return found


def visit(connection: HTTPConnection) -> Visit:
    """Who looks; the guard found out before."""
    found = connection.state.visit
    assert isinstance(found, Visit)
    return found


def form(connection: HTTPConnection) -> dict[str, str]:
    """The fields of a change; the guard read them."""
    found = connection.state.form
    assert isinstance(found, dict)
    return found


WebServicesDependency = Annotated[WebServices, Depends(services)]
VisitDependency = Annotated[Visit, Depends(visit)]
FormDependency = Annotated[dict[str, str], Depends(form)]
