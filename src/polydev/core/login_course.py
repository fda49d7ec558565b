"""How one login is carried out: from what it was asked for to its one end."""

import asyncio

import structlog

from polydev.config import LoginSettings
from polydev.core.active_login import ActiveLogin
from polydev.core.connecting import Connecting, NewConnection, Proof
from polydev.core.desktops import Desktops
from polydev.core.login_attempt import Attempt, AttemptOrder, CliAttempt, KeyAttempt
from polydev.core.login_desktop import DesktopAttempt
from polydev.core.login_files import Files
from polydev.core.programs import Programs
from polydev.core.proxies import Proxies, Route
from polydev.egress.client import Egress
from polydev.errors import (
    EgressProblem,
    LoginFailed,
    NeedsLogin,
    PolydevError,
    ProgramMissing,
    ProxyProblem,
    SandboxUnavailable,
    StoreProblem,
)
from polydev.models.accounts import Ownership, User, UserState
from polydev.models.logins import LoginMethod, LoginState, LoginTrouble
from polydev.proc import to_the_end
from polydev.providers.base import Provider
from polydev.providers.login import KeyWay, LoginWay
from polydev.providers.registry import provider_named
from polydev.sandboxes.abc import Sandboxes
from polydev.store import Store

log = structlog.get_logger()

# A CLI that was started a moment ago is as good as one that would be started now.
_PREPARE_SECONDS = 2.0

_TROUBLES: tuple[tuple[type[PolydevError], LoginTrouble], ...] = (
    (ProgramMissing, LoginTrouble.CLI_MISSING),
    (SandboxUnavailable, LoginTrouble.NO_SANDBOX),
    (EgressProblem, LoginTrouble.NO_NETWORK),
    (ProxyProblem, LoginTrouble.PROXY_FAILED),
    (StoreProblem, LoginTrouble.NOT_STORED),
)


class LoginCourse:
    def __init__(
        self,
        *,
        store: Store,
        programs: Programs,
        sandboxes: Sandboxes,
        desktops: Desktops,
        egress: Egress,
        proxies: Proxies,
        connecting: Connecting,
        settings: LoginSettings,
    ) -> None:
        self._store = store
        self._programs = programs
        self._sandboxes = sandboxes
        self._desktops = desktops
        self._egress = egress
        self._proxies = proxies
        self._connecting = connecting
        self._settings = settings

    async def run(
        self, active: ActiveLogin, user: User, way: LoginWay | KeyWay, before: ActiveLogin | None
    ) -> None:
        """To be a task of its own, which is cancelled to cancel the login.

        before: the person's other login, which is ended first.
        """
        try:
            if before is not None:
                await before.end()
            login, provider = active.login, provider_named(active.login.provider)
            active.route = await self._proxies.for_login(
                login.id, user.id, provider.name, active.proxy
            )
            await self._store.logins.add(login)
        except (asyncio.CancelledError, Exception) as error:
            active.did_not_begin(error)
            return
        leaves = f"by {active.route.shown()}" if active.route.proxy else "directly"
        active.note(f"leaves {leaves}")
        active.attempt = self._attempt(active, provider, way, active.route)
        active.has_begun()
        try:
            await self._to_its_end(active, user)
        except PolydevError as error:
            # Its end is known here and to whoever follows it; a restart stores another.
            log.error("the end of a login cannot be stored", login=login.id, why=str(error))

    async def _to_its_end(self, active: ActiveLogin, user: User) -> None:
        try:
            await self._carry_out(active, user)
        except TimeoutError:
            assert active.attempt is not None
            why = active.attempt.unreachable()
            if why is None:
                await active.to(LoginState.EXPIRED, "The time for this login is over. Try again.")
            else:
                await active.to(LoginState.FAILED, str(why), reason=_trouble(why))
        except asyncio.CancelledError:
            await to_the_end(asyncio.ensure_future(self._cancelled(active)))
        except NeedsLogin as error:
            message = f"The provider refused it: {error.message} Nothing was stored."
            await active.to(LoginState.FAILED, message, reason=LoginTrouble.DENIED)
        except PolydevError as error:
            await active.to(LoginState.FAILED, str(error), reason=_trouble(error))
        except Exception:
            log.exception("a login's task failed", login=active.login.id)
            message = "polydev made a mistake; its log says which."
            await active.to(LoginState.FAILED, message, reason=LoginTrouble.INTERNAL)

    async def _carry_out(self, active: ActiveLogin, user: User) -> None:
        assert active.attempt is not None
        preparing = asyncio.create_task(self._prepare(active))
        try:
            async with asyncio.timeout(self._settings.seconds):
                files = await active.attempt.run()
            await self._connect(active, user, files, preparing)
        finally:
            await to_the_end(asyncio.ensure_future(_given_up(preparing)))

    async def _prepare(self, active: ActiveLogin) -> Proof | None:
        """Has the CLI that will prove the login start while its person is busy logging in."""
        if active.login.method is LoginMethod.API_KEY:
            return None
        async for login in active.follow():
            if login.state is LoginState.WAITING_FOR_USER:
                return await self._connecting.prepare(provider_named(login.provider))
            if login.state in (LoginState.CREDENTIAL_SEEN, LoginState.PROVED):
                break
        return None

    async def _connect(
        self,
        active: ActiveLogin,
        user: User,
        files: Files,
        preparing: asyncio.Task[Proof | None],
    ) -> None:
        now = await self._store.users.get(user.id)
        if now is None or now.state is not UserState.ACTIVE:
            raise LoginFailed(
                "The user was disabled meanwhile.",
                remedy="Nothing was stored.",
                reason=LoginTrouble.DENIED,
            )
        provider = provider_named(active.login.provider)
        await asyncio.wait({preparing}, timeout=_PREPARE_SECONDS)
        connection, message = await self._connecting.connect(
            NewConnection(
                user=user,
                provider=provider.name,
                files=files,
                ownership=Ownership.TAKE,
                source=None,
                proxy=active.proxy,
                login_route=active.route,
                renews=active.renews,
                proof=_prepared(preparing),
            )
        )
        await active.to(LoginState.PROVED, message, connection_id=connection.id)
        plan = f", plan {connection.plan}" if connection.plan else ""
        account = connection.account or "account not named"
        await active.to(
            LoginState.CONNECTED, f"Successfully connected {provider.title}: {account}{plan}."
        )

    async def _cancelled(self, active: ActiveLogin) -> None:
        if active.stopping:
            await active.to(
                LoginState.FAILED,
                "The gateway was stopped while the login was under way. Try again.",
                reason=LoginTrouble.GATEWAY_STOPPED,
            )
        else:
            await active.to(LoginState.CANCELLED, "The login was cancelled. Nothing was stored.")

    def _attempt(
        self, active: ActiveLogin, provider: Provider, way: LoginWay | KeyWay, route: Route
    ) -> Attempt:
        if isinstance(way, KeyWay):
            return KeyAttempt(provider, way, active)
        order = AttemptOrder(
            login_id=active.login.id,
            provider=provider,
            way=way,
            programs=self._programs,
            egress=self._egress,
            proxy=route.proxy,
            progress=active,
        )
        if way.method is LoginMethod.REMOTE_DESKTOP:
            return DesktopAttempt(order, self._desktops)
        return CliAttempt(order, self._sandboxes)


def _prepared(preparing: asyncio.Task[Proof | None]) -> Proof | None:
    """None also when it could not be: then it is started when it is needed."""
    if not preparing.done() or preparing.cancelled() or preparing.exception() is not None:
        return None
    return preparing.result()


async def _given_up(preparing: asyncio.Task[Proof | None]) -> None:
    preparing.cancel()
    await asyncio.wait({preparing})
    proof = _prepared(preparing)
    if proof is not None:
        await proof.close()


def _trouble(error: PolydevError) -> LoginTrouble:
    if isinstance(error, LoginFailed):
        return LoginTrouble(error.reason)
    for kind, trouble in _TROUBLES:
        if isinstance(error, kind):
            return trouble
    return LoginTrouble.NOT_PROVED
