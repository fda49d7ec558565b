"""One prompt, one sandbox, one process: joins a provider to a sandbox and to egress.

This is the only place where the pure side (what to start, what lines mean) and the side that acts
(processes, sockets) meet. Whatever happens, `execute` ends with exactly one `RunFinished` given
to `emit`, and with the sandbox gone. It raises only CancelledError, and then has given no end:
who cancels says why.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from polydev.config import RunSettings
from polydev.core.answer_limit import AnswerLimit
from polydev.core.first_start import FirstStarts
from polydev.core.outcomes import end_from, our_mistake
from polydev.core.patience import Patience
from polydev.core.programs import Programs
from polydev.core.proxies import Proxies
from polydev.egress.binding import Binding
from polydev.egress.client import Egress
from polydev.errors import PolydevError
from polydev.events import EndReason, Event, RunFinished, TextDelta, UsageReported
from polydev.models.accounts import Connection, Credential
from polydev.models.egress import Exchange, Purpose
from polydev.models.places import Launch, Place
from polydev.models.runs import Prompt
from polydev.proc import Process
from polydev.providers.base import OUTCOMES, Dialogue, LaunchOrder, Observation, Provider, finished
from polydev.sandboxes.abc import Sandbox, Sandboxes
from polydev.secret import Secret

log = structlog.get_logger()

# Longer than any limit period; keeps a senseless span from being no date at all.
_LONGEST_RETRY_SECONDS = 366 * 86400.0

Emit = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What the runner needs to execute one run."""

    run_id: str
    provider: Provider
    connection: Connection
    credential: Credential
    prompt: Prompt
    stop: tuple[str, ...] = ()
    timeout_seconds: float
    started: "Started | None" = None


@dataclass(kw_only=True, slots=True)
class Started:
    """A CLI that was started for one prompt before anybody's credential was known.

    It has been sent nothing, reaches nothing, and belongs to nobody until it is bound. Whoever
    had it started closes it.
    """

    sandbox: Sandbox
    process: Process
    opening: tuple[bytes, ...]
    sentinel: Secret[str]

    async def close(self) -> None:
        await self.sandbox.close(0)


class Runner:
    def __init__(
        self,
        *,
        programs: Programs,
        first_starts: FirstStarts,
        sandboxes: Sandboxes,
        egress: Egress,
        proxies: Proxies,
        settings: RunSettings,
    ) -> None:
        self._programs = programs
        self._first_starts = first_starts
        self._sandboxes = sandboxes
        self._egress = egress
        self._proxies = proxies
        self._settings = settings

    def require(self, provider: Provider) -> None:
        """Raises ProgramMissing when the provider's CLI is not installed."""
        self._programs.require(provider.program)

    async def execute(self, order: Order, emit: Emit) -> None:
        """Runs `order` to its end, telling `emit` what happens."""
        try:
            end = await self._execute(order, emit)
        except TimeoutError:
            seconds = order.timeout_seconds
            end = finished(
                EndReason.TIMED_OUT,
                f"The run took longer than its {seconds:g} s and was stopped.",
            )
        except PolydevError as error:
            end = end_from(error)
        except Exception:
            # The outermost boundary of a run: a mistake of ours must not leave it without an end.
            log.exception("run failed unexpectedly", run=order.run_id)
            end = our_mistake()
        emit(end)

    async def start_alone(self, provider: Provider, prompt: Prompt, identity: str) -> Started:
        """Starts a provider's CLI that `starts_alone`, for a login with an account behind it."""
        nobodys = Credential(files={}, access_token=Secret(""))
        return await self._started(provider, prompt, identity, nobodys)

    async def _execute(self, order: Order, emit: Emit) -> RunFinished:
        provider = order.provider
        self.require(provider)
        patience = Patience(provider, self._settings.silence_seconds)
        async with asyncio.timeout(order.timeout_seconds), AsyncExitStack() as stack:
            started = order.started
            if started is None or started.process.returncode is not None:
                started = await self._started(
                    provider, order.prompt, order.connection.identity, order.credential
                )
            stack.push_async_callback(started.sandbox.close)
            binding = await stack.enter_async_context(
                await self._egress.bind(
                    connection_id=order.connection.id,
                    policy=provider.policy(Purpose.RUN, order.credential.kind),
                    listeners=started.sandbox.listeners,
                    sentinel=started.sentinel,
                    proxy=await self._proxies.of(order.connection.id),
                    on_exchange=patience.saw,
                )
            )
            await started.process.send(started.opening)
            dialogue = provider.dialogue(order.prompt)
            end = await self._converse(started.process, dialogue, order, patience, emit)
            return self._explained(end, provider, binding, emit)

    async def _started(
        self, provider: Provider, prompt: Prompt, identity: str, credential: Credential
    ) -> Started:
        sentinel = Secret(f"polydev-{secrets.token_hex(16)}")
        opening: tuple[bytes, ...] = ()

        def launch(place: Place) -> Launch:
            nonlocal opening
            launched = provider.launch(
                LaunchOrder(
                    purpose=Purpose.RUN,
                    place=place,
                    program=self._programs.inside(provider.program, place),
                    node=self._programs.node(place),
                    identity=identity,
                    sentinel=sentinel,
                    credential=credential,
                    prompt=prompt,
                )
            )
            opening = launched.opening
            return self._first_starts.add_to(launched, provider)

        sandbox = await self._sandboxes.open(launch)
        try:
            process = await sandbox.start()
        except BaseException:
            await sandbox.close(0)
            raise
        return Started(sandbox=sandbox, process=process, opening=opening, sentinel=sentinel)

    async def _converse(
        self,
        process: Process,
        dialogue: Dialogue,
        order: Order,
        patience: Patience,
        emit: Emit,
    ) -> RunFinished:
        """Speaks the dialogue to its end."""
        limit = AnswerLimit(
            order.stop, order.prompt.max_tokens if order.provider.ignores_max_tokens else None
        )
        usage = UsageReported(input_tokens=0, output_tokens=0)
        await process.send(dialogue.open())
        lines = process.lines()
        while True:
            line = await patience.next(lines)
            if isinstance(line, RunFinished):
                return line
            if line is None:
                return dialogue.ended(await process.wait(), process.stderr_tail())
            step = dialogue.receive(line)
            for event in step.events:
                if isinstance(event, RunFinished):
                    rest = limit.rest()
                    if event.outcome is not OUTCOMES[EndReason.STOP]:
                        return _dated(event, step.retry_after_seconds)
                    if rest:
                        emit(TextDelta(text=rest))
                    return finished(EndReason.LENGTH) if limit.reached else event
                if isinstance(event, TextDelta):
                    shown = limit.feed(event.text)
                    if shown:
                        emit(TextDelta(text=shown))
                    if limit.reached:
                        # The CLI's own count comes with the end of an answer, which is not
                        # waited for.
                        emit(replace(usage, output_tokens=limit.estimated_tokens))
                        return replace(finished(limit.reached), stop_sequence=limit.matched or "")
                else:
                    if isinstance(event, UsageReported):
                        usage = event
                    emit(event)
            if step.send:
                await process.send(step.send)

    def _explained(
        self, end: RunFinished, provider: Provider, binding: Binding, emit: Emit
    ) -> RunFinished:
        """`end`, with what egress saw and the CLI did not pass on: windows, why, retry_at."""
        now = datetime.now(UTC)
        observed: Observation | None = None
        unreachable: Exchange | None = None
        for exchange in binding.exchanges:
            if exchange.unreachable:
                unreachable = exchange
                continue
            if exchange.refused:
                continue
            observed = provider.observe(exchange, now)
            for window in observed.windows:
                emit(window)
        if end.reason in (EndReason.STOP, EndReason.LENGTH, EndReason.REFUSAL):
            return end
        if observed is not None and observed.trouble is not None:
            return replace(
                end,
                reason=observed.trouble,
                outcome=finished(observed.trouble).outcome,
                retry_at=end.retry_at or observed.retry_at,
            )
        if unreachable is not None:
            message = f"{provider.title} could not be reached: {unreachable.unreachable}."
            by_proxy = unreachable.proxy_failed
            return finished(
                EndReason.PROXY_FAILED if by_proxy else EndReason.PROVIDER_ERROR, message
            )
        return end


def _dated(end: RunFinished, retry_after_seconds: float | None) -> RunFinished:
    """`end` with the span that the CLI told as the moment when it is over."""
    if end.retry_at is not None or retry_after_seconds is None:
        return end
    seconds = min(retry_after_seconds, _LONGEST_RETRY_SECONDS)
    return replace(end, retry_at=datetime.now(UTC) + timedelta(seconds=seconds))
