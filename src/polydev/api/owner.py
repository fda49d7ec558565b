"""What only the owner of this installation may do: users, keys, connections.

Served on a unix socket in the data directory that only the owner's account can open; the
`polydev` command is its client. These routes do not exist on the network.
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Base64Bytes, BaseModel, Field, SecretStr

from polydev.api.connections import ConnectionRecord, record
from polydev.api.dependencies import ServicesDependency
from polydev.core.connecting import NewConnection
from polydev.core.sign_ins import LINK_SECONDS
from polydev.errors import SetupProblem
from polydev.models.accounts import ApiKey, Ownership, User, UserState
from polydev.secret import Secret

router = APIRouter(prefix="/owner")

# It may hold a password. What is wrong with an address is said without it.
ProxyText = Annotated[SecretStr, Field(max_length=2048)]


class UserRecord(BaseModel):
    id: str
    name: str
    state: UserState
    created_at: datetime


class UserName(BaseModel):
    name: str


class KeyRecord(BaseModel):
    id: str
    user: str
    name: str
    prefix: str
    requests_per_minute: int
    concurrent_runs: int
    created_at: datetime
    revoked_at: datetime | None
    key: str | None = None  # only in the answer that creates it


class FirstKey(BaseModel):
    key: str | None  # null when there was a key already


class KeyRequest(BaseModel):
    user: str | None = None
    name: str = Field("", max_length=64)
    requests_per_minute: int | None = Field(None, gt=0)
    concurrent_runs: int | None = Field(None, gt=0)


class SignInRequest(BaseModel):
    user: str | None = None


class SignInLink(BaseModel):
    """Signs a browser in, once, within `valid_seconds`."""

    url: str
    user: str
    valid_seconds: int


class ProxyRequest(BaseModel):
    """An address, a range of ports of which it gets one, or `none`."""

    proxy: ProxyText


class ConnectRequest(BaseModel):
    """files: path under HOME → base64 of the file that the CLI wrote.

    proxy: the outbound proxy that it is to leave by, `none` for none; by default that of the
    connection it renews, else the one of the setting.
    """

    user: str | None = None
    provider: str
    files: dict[str, Base64Bytes]
    ownership: Ownership
    source: str | None = None
    proxy: ProxyText | None = None


class CheckResult(BaseModel):
    connection: ConnectionRecord
    ok: bool
    message: str


@router.get("/users")
async def users(services: ServicesDependency) -> list[UserRecord]:
    return [_user(user) for user in await services.accounts.users()]


@router.post("/users", status_code=201)
async def add_user(body: UserName, services: ServicesDependency) -> UserRecord:
    return _user(await services.accounts.add_user(body.name))


@router.post("/users/{name}/disable")
async def disable_user(name: str, services: ServicesDependency) -> UserRecord:
    return _user(await services.accounts.disable_user(name))


@router.get("/keys")
async def keys(services: ServicesDependency, user: str | None = None) -> list[KeyRecord]:
    owner = await services.accounts.user_named(user)
    return [_key(key, owner) for key in await services.accounts.keys(owner)]


@router.post("/keys", status_code=201)
async def create_key(body: KeyRequest, services: ServicesDependency) -> KeyRecord:
    owner = await services.accounts.user_named(body.user)
    key, secret = await services.accounts.create_key(
        owner,
        body.name,
        requests_per_minute=body.requests_per_minute,
        concurrent_runs=body.concurrent_runs,
    )
    return _key(key, owner, secret)


@router.post("/keys/first")
async def create_first_key(services: ServicesDependency) -> FirstKey:
    secret = await services.accounts.first_key()
    return FirstKey(key=secret.reveal() if secret else None)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(key_id: str, services: ServicesDependency) -> KeyRecord:
    key = await services.accounts.revoke_key(key_id)
    return _key(key, await services.accounts.user_named(key.user_id))


@router.post("/sign-in-links", status_code=201)
async def open_link(
    body: SignInRequest, request: Request, services: ServicesDependency
) -> SignInLink:
    url = request.app.state.dashboard_url
    if url is None:
        raise SetupProblem(
            "This gateway does not listen where a browser could reach it.",
            remedy="Start it with `polydev up`.",
        )
    user = await services.accounts.user_named(body.user)
    link = services.sign_ins.open_link(user)
    return SignInLink(
        url=f"{url}/sign-in/{link.reveal()}", user=user.name, valid_seconds=LINK_SECONDS
    )


@router.get("/connections")
async def connections(
    services: ServicesDependency, *, everything: Annotated[bool, Query(alias="all")] = False
) -> list[ConnectionRecord]:
    names = {user.id: user.name for user in await services.accounts.users()}
    found = await services.connections.list(include_disconnected=everything)
    return [
        record(connection, names[connection.user_id], await services.windows.of(connection.id))
        for connection in found
    ]


@router.post("/connections", status_code=201)
async def connect(body: ConnectRequest, services: ServicesDependency) -> CheckResult:
    user = await services.accounts.user_named(body.user)
    connection, message = await services.connecting.connect(
        NewConnection(
            user=user,
            provider=body.provider,
            files={path: Secret(bytes(content)) for path, content in body.files.items()},
            ownership=body.ownership,
            source=body.source,
            proxy=said(body.proxy),
        )
    )
    return CheckResult(connection=record(connection, user.name), ok=True, message=message)


@router.post("/connections/{connection_id}/check")
async def check(connection_id: str, services: ServicesDependency) -> CheckResult:
    connection, ok, message = await services.connecting.check(connection_id)
    user = await services.accounts.user_named(connection.user_id)
    return CheckResult(connection=record(connection, user.name), ok=ok, message=message)


@router.put("/connections/{connection_id}/proxy")
async def change_proxy(
    connection_id: str, body: ProxyRequest, services: ServicesDependency
) -> ConnectionRecord:
    """What it leaves by from now on; runs under way finish what they have begun."""
    proxy = Secret(body.proxy.get_secret_value())
    connection = await services.proxies.change(connection_id, proxy)
    user = await services.accounts.user_named(connection.user_id)
    return record(connection, user.name)


@router.delete("/connections/{connection_id}")
async def disconnect(connection_id: str, services: ServicesDependency) -> ConnectionRecord:
    connection = await services.connections.disconnect(connection_id)
    user = await services.accounts.user_named(connection.user_id)
    return record(connection, user.name)


def said(proxy: SecretStr | None) -> Secret[str] | None:
    return None if proxy is None else Secret(proxy.get_secret_value())


def _user(user: User) -> UserRecord:
    return UserRecord(id=user.id, name=user.name, state=user.state, created_at=user.created_at)


def _key(key: ApiKey, owner: User, secret: Secret[str] | None = None) -> KeyRecord:
    return KeyRecord(
        id=key.id,
        user=owner.name,
        name=key.name,
        prefix=key.prefix,
        requests_per_minute=key.requests_per_minute,
        concurrent_runs=key.concurrent_runs,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        key=secret.reveal() if secret else None,
    )
