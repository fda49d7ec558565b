"""One refresh of one credential: by the CLI itself, in a sandbox of its own, without a prompt.

Egress seals the token endpoint's answer on disk before the CLI receives it, so from the moment
the provider has answered, nothing that is killed costs the login.
"""

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum

import structlog

from polydev.core.programs import Programs
from polydev.egress.binding import Binding
from polydev.egress.client import Egress
from polydev.egress.spool import SpooledAnswer
from polydev.errors import ProviderProblem, ProxyProblem
from polydev.models.accounts import Connection, Credential
from polydev.models.egress import Purpose
from polydev.models.places import Launch, Place
from polydev.models.proxies import Proxy
from polydev.proc import Process
from polydev.providers.base import LaunchOrder, Provider
from polydev.sandboxes.abc import Sandboxes
from polydev.secret import Secret, mask_tokens

log = structlog.get_logger()

_SECONDS = 45.0
# What token endpoints answer when the login itself is over (RFC 6749, section 5.2), in contrast
# to an outage of theirs.
_FINAL_STATUSES = frozenset({400, 401, 403})


class Verdict(StrEnum):
    RENEWED = "renewed"
    REFUSED = "refused"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str = ""


def judge(answer: SpooledAnswer) -> Judgement:
    """What a token endpoint's answer means for the login."""
    if 200 <= answer.status < 300:
        return Judgement(verdict=Verdict.RENEWED)
    reason = _error_text(answer.body.reveal())
    if answer.status in _FINAL_STATUSES:
        return Judgement(verdict=Verdict.REFUSED, reason=reason or f"status {answer.status}")
    return Judgement(verdict=Verdict.UNCLEAR, reason=reason or f"status {answer.status}")


async def run_refresh(
    *,
    connection: Connection,
    credential: Credential,
    provider: Provider,
    programs: Programs,
    sandboxes: Sandboxes,
    egress: Egress,
    proxy: Proxy | None,
    seal_key: Secret[bytes],
) -> Binding:
    """Has the CLI refresh once; the binding then holds the sealed answer, if there was one.

    Raises ProviderProblem (ProxyProblem where the proxy is to blame) when no answer came; the credential is then what it was before.
    """
    programs.require(provider.program)

    def launch(place: Place) -> Launch:
        return provider.launch(
            LaunchOrder(
                purpose=Purpose.KEEPER,
                place=place,
                program=programs.inside(provider.program, place),
                node=programs.node(place),
                identity=connection.identity,
                sentinel=Secret(""),
                credential=credential,
            )
        )

    unreachable = asyncio.Event()
    async with await sandboxes.open(launch) as sandbox:
        binding = await egress.bind(
            connection_id=connection.id,
            policy=provider.policy(Purpose.KEEPER, credential.kind),
            listeners=sandbox.listeners,
            sentinel=None,
            proxy=proxy,
            seal_key=seal_key,
            on_exchange=lambda exchange: unreachable.set() if exchange.unreachable else None,
        )
        async with binding:
            process = await sandbox.start()
            # `launch` is pure: asked again, it gives the same opening.
            await process.send(launch(sandbox.place).opening)
            await _until_answered(process, binding.sealed, unreachable)
    if not binding.sealed.is_set():
        failed = next((e for e in binding.exchanges if e.unreachable), None)
        reason = failed.unreachable if failed else ""
        problem = ProxyProblem if failed and failed.proxy_failed else ProviderProblem
        raise problem(
            f"{provider.title} did not answer a refresh: "
            f"{reason or mask_tokens(process.stderr_tail().strip()[-200:]) or 'no request'}.",
            remedy="The login is unchanged; it is tried again by itself.",
            provider=provider.name,
        )
    return binding


async def _until_answered(
    process: Process, sealed: asyncio.Event, unreachable: asyncio.Event
) -> None:
    """Until an answer is sealed, the CLI has ended, or the time is up.

    Also when a request came to nothing: some CLIs go on trying for minutes, and asking again with
    a refresh token that may have arrived could cost the login.
    """
    waits = {
        asyncio.create_task(sealed.wait()),
        asyncio.create_task(unreachable.wait()),
        asyncio.create_task(_read_away(process)),
    }
    try:
        await asyncio.wait(waits, timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _read_away(process: Process) -> None:
    """Takes what the CLI prints (it may hold tokens: nothing of it is kept)."""
    async for _ in process.lines():
        pass


def _error_text(body: bytes) -> str:
    try:
        fields = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(fields, dict):
        return ""
    error = fields.get("error")
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or error.get("type")
    words = [str(word) for word in (error, fields.get("error_description")) if word]
    return mask_tokens(": ".join(words))[:300]
