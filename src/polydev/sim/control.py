"""How the simulator is steered and asked while it runs: `/_sim/` on any of its hosts.

    GET    /_sim/accounts                  every account: knobs in force, counters, windows
    POST   /_sim/accounts                  {provider, name?, lifetime_seconds?} → its credential
    GET    /_sim/accounts/{name}           one of them
    POST   /_sim/accounts/{name}/login     {lifetime_seconds?} → a further credential of the account
    POST   /_sim/accounts/{name}/expire    its access tokens are over, its refresh tokens are not
    POST   /_sim/accounts/{name}/revoke    every token it has is dead
    PUT    /_sim/accounts/{name}/knobs     {knob: value, …}; null takes one back
    PUT    /_sim/accounts/{name}/windows   {kind: {used_fraction?, resets_in_seconds?}, …}
    GET    /_sim/knobs, PUT /_sim/knobs    the defaults of all accounts
    GET    /_sim/requests                  ?after=NUMBER&host=&path=&account=&method=
    DELETE /_sim/requests                  forgets them
    GET    /_sim/counters                  per account, and `requests` in total

Bad input is 400 (with what is wrong), an unknown account 404, a taken name 409. It listens on
loopback with the rest and has no key: everything in it is made up.
"""

import dataclasses
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polydev.sim.records import Record
from polydev.sim.state import Account, World
from polydev.sim.wire import iso


class _NewAccount(BaseModel):
    model_config = ConfigDict(extra="forbid")
    provider: str
    name: str = Field("", max_length=64, pattern=r"^[a-z0-9-]*$")
    lifetime_seconds: float | None = None


class _Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lifetime_seconds: float | None = None


class _WindowChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    used_fraction: float | None = Field(None, ge=0, le=1)
    resets_in_seconds: float | None = None


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_Handler = Callable[[Request], Awaitable[dict[str, Any]]]


def routes(world: World) -> list[BaseRoute]:
    control = _Control(world)

    def route(method: str, path: str, handler: _Handler) -> Route:
        return Route(f"/_sim{path}", _answering(handler), methods=[method])

    return [
        route("GET", "/accounts", control.accounts),
        route("POST", "/accounts", control.create),
        route("GET", "/accounts/{name}", control.account),
        route("POST", "/accounts/{name}/login", control.log_in),
        route("POST", "/accounts/{name}/expire", control.expire),
        route("POST", "/accounts/{name}/revoke", control.revoke),
        route("PUT", "/accounts/{name}/knobs", control.turn_account),
        route("PUT", "/accounts/{name}/windows", control.change_windows),
        route("GET", "/knobs", control.knobs),
        route("PUT", "/knobs", control.turn_defaults),
        route("GET", "/requests", control.requests),
        route("DELETE", "/requests", control.forget),
        route("GET", "/counters", control.counters),
    ]


def credential_of(world: World, account: Account, lifetime_seconds: float | None) -> str:
    """The credential file of a new login of `account`, as its CLI writes it."""
    pair = world.log_in(account, lifetime_seconds=lifetime_seconds)
    return world.vendors[account.provider].credential(account, pair)


class _Control:
    def __init__(self, world: World) -> None:
        self._world = world

    async def accounts(self, request: Request) -> dict[str, Any]:
        return {"accounts": [self._shown(account) for account in self._world.accounts.values()]}

    async def create(self, request: Request) -> dict[str, Any]:
        asked = _NewAccount(**await _object(request))
        if asked.provider not in self._world.vendors:
            known = ", ".join(self._world.vendors)
            raise _Refused(400, f"There is no provider {asked.provider!r}; there are {known}.")
        try:
            account = self._world.create_account(asked.provider, asked.name)
        except ValueError as error:
            raise _Refused(409, str(error)) from error
        credential = credential_of(self._world, account, asked.lifetime_seconds)
        return {"account": self._shown(account), "credential": credential}

    async def account(self, request: Request) -> dict[str, Any]:
        return {"account": self._shown(self._named(request))}

    async def log_in(self, request: Request) -> dict[str, Any]:
        account = self._named(request)
        asked = _Login(**await _object(request))
        return {"credential": credential_of(self._world, account, asked.lifetime_seconds)}

    async def expire(self, request: Request) -> dict[str, Any]:
        account = self._named(request)
        self._world.expire_tokens(account)
        return {"account": self._shown(account)}

    async def revoke(self, request: Request) -> dict[str, Any]:
        account = self._named(request)
        self._world.revoke(account)
        return {"account": self._shown(account)}

    async def turn_account(self, request: Request) -> dict[str, Any]:
        account = self._named(request)
        self._world.turn(account, await _object(request))
        return {"account": self._shown(account)}

    async def change_windows(self, request: Request) -> dict[str, Any]:
        account = self._named(request)
        changes = {
            kind: _WindowChange.model_validate(change)
            for kind, change in (await _object(request)).items()
        }
        for kind in changes:
            if kind not in account.windows:
                known = ", ".join(account.windows)
                raise _Refused(400, f"There is no window {kind!r}; there are {known}.")
        for kind, change in changes.items():
            window = account.windows[kind]
            if change.used_fraction is not None:
                window.used_fraction = change.used_fraction
            if change.resets_in_seconds is not None:
                window.resets_at = datetime.now(UTC) + timedelta(seconds=change.resets_in_seconds)
        return {"account": self._shown(account)}

    async def knobs(self, request: Request) -> dict[str, Any]:
        return {"knobs": self._world.knobs().model_dump()}

    async def turn_defaults(self, request: Request) -> dict[str, Any]:
        return {"knobs": self._world.turn(None, await _object(request)).model_dump()}

    async def requests(self, request: Request) -> dict[str, Any]:
        asked = request.query_params
        after = asked.get("after", "0")
        if not after.isdigit():
            raise _Refused(400, "`after` must be a number.")
        kept = self._world.records.all(
            after=int(after),
            host=asked.get("host", ""),
            path=asked.get("path", ""),
            account=asked.get("account", ""),
            method=asked.get("method", ""),
        )
        return {
            "total": self._world.records.total,
            "requests": [_shown_record(record) for record in kept],
        }

    async def forget(self, request: Request) -> dict[str, Any]:
        self._world.records.clear()
        return {"total": self._world.records.total}

    async def counters(self, request: Request) -> dict[str, Any]:
        accounts = self._world.accounts
        return {
            "requests": self._world.records.total,
            "accounts": {name: account.counters for name, account in accounts.items()},
        }

    def _named(self, request: Request) -> Account:
        name = request.path_params["name"]
        account = self._world.accounts.get(name)
        if account is None:
            known = ", ".join(self._world.accounts) or "none"
            raise _Refused(404, f"There is no account {name!r}; there are: {known}.")
        return account

    def _shown(self, account: Account) -> dict[str, Any]:
        return {
            "name": account.name,
            "provider": account.provider,
            "email": account.email,
            "id": account.id,
            "plan": account.plan,
            "knobs": self._world.knobs(account).model_dump(),
            "counters": account.counters,
            "windows": {
                window.kind: {
                    "length_seconds": window.length_seconds,
                    "used_fraction": window.used_fraction,
                    "resets_at": iso(window.resets_at),
                }
                for window in account.windows.values()
            },
        }


def _answering(handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        try:
            return JSONResponse(await handler(request))
        except _Refused as refused:
            return JSONResponse({"error": {"message": str(refused)}}, refused.status)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
            )
            return JSONResponse({"error": {"message": wrong}}, 400)

    return answered


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise _Refused(400, f"The body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _Refused(400, "The body must be a JSON object.")
    return value


def _shown_record(record: Record) -> dict[str, Any]:
    return {**dataclasses.asdict(record), "received_at": iso(record.received_at)}
