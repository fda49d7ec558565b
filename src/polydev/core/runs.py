"""Runs: admitted, queued, executed, followed, cancelled, and ended whatever happens.

Admission answers at once: it raises, or gives an `ActiveRun` whose record is in the store. From
then on the run has exactly one end. A request is executed once; nothing here repeats one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Self

import structlog

from polydev.config import RunSettings
from polydev.core.accounts import Caller
from polydev.core.admission import check_prompt
from polydev.core.archive import Archive
from polydev.core.connections import Connections
from polydev.core.event_log import EventLog
from polydev.core.event_writer import EventWriter
from polydev.core.keeper import Keeper
from polydev.core.metrics import Metrics
from polydev.core.outcomes import end_from, our_mistake
from polydev.core.quotas import Quotas
from polydev.core.runner import Order, Runner, Started
from polydev.core.windows import Windows
from polydev.errors import Busy, NotFound, PolydevError
from polydev.events import (
    EndReason,
    ReasoningDelta,
    Recorded,
    RunFinished,
    TextDelta,
    UsageReported,
    WindowObserved,
)
from polydev.models.accounts import Connection
from polydev.models.ids import new_id
from polydev.models.notices import Publish, Topic
from polydev.models.runs import Prompt, Run, RunRequest, RunState
from polydev.providers.base import Provider, finished
from polydev.providers.registry import provider_named
from polydev.store import Store
from polydev.vault import Vault

log = structlog.get_logger()


class ActiveRun:
    """A run in flight: its record, its log, and how to end it."""

    def __init__(self, run: Run, log: EventLog) -> None:
        self.run = run
        self.log = log
        self.task: asyncio.Task[None] | None = None
        self.cancel_reason = EndReason.CANCELLED

    def cancel(self, reason: EndReason = EndReason.CANCELLED) -> None:
        """Ends the run; does nothing to one that has ended."""
        if self.task is not None and not self.log.finished and not self.task.cancelling():
            self.cancel_reason = reason
            self.task.cancel()


class Runs:
    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        connections: Connections,
        windows: Windows,
        keeper: Keeper,
        runner: Runner,
        quotas: Quotas,
        metrics: Metrics,
        settings: RunSettings,
        publish: Publish,
        obstacle: Callable[[], str] = lambda: "",
    ) -> None:
        self._store = store
        self._connections = connections
        self._windows = windows
        self._keeper = keeper
        self._runner = runner
        self._quotas = quotas
        self._metrics = metrics
        self._settings = settings
        self._publish = publish
        self._obstacle = obstacle
        self._places = asyncio.Semaphore(settings.concurrent)
        self._admitted = 0  # runs that have no end yet
        metrics.queued.set_function(lambda: max(0, self._admitted - settings.concurrent))
        self._active: dict[str, ActiveRun] = {}
        self._archive = Archive(store, vault, settings.keep_text_days)
        self._writer = EventWriter(store, vault, metrics, keep_texts=self._archive.keeps_texts)

    async def submit(self, caller: Caller, request: RunRequest) -> ActiveRun:
        """Admits a run and starts it.

        Raises what speaks against it: ProgramMissing, PromptTooLarge, InvalidRequest,
        NoConnection, NeedsLogin, TooManyRequests (the key's limits), Busy (the queue),
        StoreProblem.
        """
        provider = provider_named(request.provider)
        self._runner.require(provider)
        check_prompt(provider, request.prompt, self._settings.prompt_limit_bytes)
        connection = await self._connections.for_run(caller.user, provider, request.connection_id)
        return await self.start(
            caller.user.id,
            caller.key.id if caller.key else None,
            provider,
            connection,
            request,
            place=self._quotas.running(caller.key) if caller.key else None,
        )

    async def start(
        self,
        user_id: str,
        key_id: str | None,
        provider: Provider,
        connection: Connection,
        request: RunRequest,
        *,
        place: AbstractContextManager[None] | None = None,
        started: Started | None = None,
    ) -> ActiveRun:
        """Starts a run that is admitted already, if the queue has room.

        started: a CLI that `start_alone` started for this prompt.
        """
        if self._admitted >= self._settings.concurrent + self._settings.queue:
            raise Busy(
                f"{self._settings.queue} runs are waiting, as many as may.",
                remedy="Ask again in a moment, or raise POLYDEV_RUNS__QUEUE.",
                retry_at=datetime.now(UTC) + timedelta(seconds=2),
            )
        run = Run(
            id=new_id("run"),
            user_id=user_id,
            connection_id=connection.id,
            provider=provider.name,
            model=request.prompt.model,
            surface=request.surface,
            state=RunState.QUEUED,
            created_at=datetime.now(UTC),
            key_id=key_id,
        )
        held = ExitStack()
        if place is not None:
            held.enter_context(place)
        held.enter_context(self._place_in_queue())
        try:
            await self._store.runs.add(run, self._archive.sealed_prompt(run, request.prompt))
        except BaseException:
            held.close()
            raise
        self._writer.opened(run)
        active = ActiveRun(run, EventLog(lambda recorded: self._recorded(active, recorded)))
        self._active[run.id] = active
        self._publish(run.user_id, Topic.RUNS)
        active.task = asyncio.create_task(
            self._execute(active, provider, connection, request, started)
        )
        active.task.add_done_callback(lambda task: self._ended(active, held, task))
        return active

    async def start_alone(self, provider: Provider, prompt: Prompt, identity: str) -> Started:
        """See `Runner.start_alone`."""
        return await self._runner.start_alone(provider, prompt, identity)

    async def get(self, caller: Caller, run_id: str) -> Run:
        """Raises NotFound, also for another person's run: whose it is, is not told."""
        active = self._active.get(run_id)
        run = active.run if active is not None else await self._store.runs.get(run_id)
        if run is None or run.user_id != caller.user.id:
            raise NotFound(
                f"There is no run {run_id[:64]!r} of yours.", remedy="GET /v1/runs lists them."
            )
        return run

    async def latest(self, caller: Caller, limit: int) -> list[Run]:
        """The caller's runs, newest first; those in flight as they are now."""
        before = dict(self._active)  # one may end, and leave, while the store is read
        stored = await self._store.runs.of_user(caller.user.id, limit=limit)
        active = {**before, **self._active}
        return [active[run.id].run if run.id in active else run for run in stored]

    async def events(self, caller: Caller, run_id: str, after: int) -> AsyncIterator[Recorded]:
        """The run's events after a number, to its end: live, or from the store."""
        run = await self.get(caller, run_id)
        active = self._active.get(run_id)
        return active.log.follow(after) if active is not None else self._archive.events(run, after)

    async def prompt(self, caller: Caller, run_id: str) -> Prompt:
        """What the run was asked. Raises NotFound when it is not kept."""
        prompt = await self._archive.prompt(await self.get(caller, run_id))
        if prompt is None:
            raise NotFound(
                f"The prompt of {run_id} is not kept.",
                remedy="POLYDEV_RUNS__KEEP_TEXT_DAYS says how long texts are.",
            )
        return prompt

    async def cancel(self, caller: Caller, run_id: str) -> Run:
        """Ends the run and waits until it has; one that had ended stays as it is."""
        run = await self.get(caller, run_id)
        active = self._active.get(run_id)
        if active is None:
            return run
        active.cancel()
        await active.log.wait_finished()
        return active.run

    async def obstacles(self) -> list[str]:
        """What is in the way of executing runs; empty when nothing is."""
        found = [text for text in (self._obstacle(), self._writer.obstacle) if text]
        try:
            await self._store.ping()
        except PolydevError as error:
            found.append(str(error))
        return found

    async def __aenter__(self) -> Self:
        """Ends what a killed gateway left unfinished, then writes and prunes until exit."""
        for run in await self._store.runs.unfinished():
            end = finished(
                EndReason.GATEWAY_STOPPED, "The gateway was killed while the run was in flight."
            )
            await self._store.runs.finish(run.id, end, datetime.now(UTC))
            log.warning("a run was cut off by the end of the last gateway", run=run.id)
        self._writer_task = asyncio.create_task(self._writer.write_forever())
        self._pruning = asyncio.create_task(self._archive.prune_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pruning.cancel()
        await self.stop()
        await self._writer.close(self._writer_task)

    async def stop(self) -> None:
        """Ends all runs in flight, as stopped by the gateway, and waits until they have."""
        tasks = [active.task for active in self._active.values() if active.task is not None]
        for active in list(self._active.values()):
            active.cancel(EndReason.GATEWAY_STOPPED)
        if tasks:
            await asyncio.wait(tasks)

    async def _execute(
        self,
        active: ActiveRun,
        provider: Provider,
        connection: Connection,
        request: RunRequest,
        started: Started | None,
    ) -> None:
        try:
            # Before a place is taken: a refresh may last, and others need no place to wait for it.
            credential = await self._keeper.fresh(connection)
            waits = self._places.locked()
            async with self._places:
                started_at = datetime.now(UTC)
                active.run = replace(active.run, state=RunState.RUNNING, started_at=started_at)
                self._writer.started(active.run.id, started_at)
                self._publish(active.run.user_id, Topic.RUNS)
                with self._metrics.running.track_inprogress():
                    if waits:
                        connection = await self._connections.get(connection.id)
                        credential = await self._keeper.fresh(connection)
                    await self._runner.execute(
                        Order(
                            run_id=active.run.id,
                            provider=provider,
                            connection=connection,
                            credential=credential,
                            prompt=request.prompt,
                            stop=request.stop,
                            timeout_seconds=min(
                                request.timeout_seconds or self._settings.timeout_seconds,
                                self._settings.timeout_seconds,
                            ),
                            started=started,
                        ),
                        active.log.append,
                    )
                if active.run.reason is EndReason.NEEDS_LOGIN:
                    await self._keeper.refused(connection, credential)
        except PolydevError as error:
            active.log.append(end_from(error))

    @contextmanager
    def _place_in_queue(self) -> Iterator[None]:
        """Held from admission to the end, also by a run that is cancelled before it begins."""
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def _ended(self, active: ActiveRun, held: ExitStack, task: asyncio.Task[None]) -> None:
        """The task is over: whatever it was, the run has an end now."""
        held.close()
        if task.cancelled():
            words = (
                "The gateway was stopped."
                if active.cancel_reason is EndReason.GATEWAY_STOPPED
                else "The run was cancelled."
            )
            active.log.append(finished(active.cancel_reason, words))
        elif task.exception() is not None:
            log.error("a run's task failed", run=active.run.id, exc_info=task.exception())
            active.log.append(our_mistake())
        assert active.log.finished, "a run's task ends only after its run"

    def _recorded(self, active: ActiveRun, recorded: Recorded) -> None:
        """Keeps the record of the run up with its events, and hands them to the writer."""
        run = active.run
        match recorded.event:
            case TextDelta() | ReasoningDelta() if run.first_token_at is None:
                active.run = replace(run, first_token_at=recorded.at)
                self._writer.first_token(run.id, recorded.at)
                waited = (recorded.at - run.created_at).total_seconds()
                self._metrics.first_token.labels(provider=run.provider).observe(waited)
            case UsageReported() as usage:
                active.run = replace(run, usage=usage)
            case WindowObserved() as window:
                self._windows.observed(run, window, recorded.at)
            case RunFinished() as end:
                active.run = replace(
                    run,
                    state=RunState(end.outcome.value),
                    finished_at=recorded.at,
                    reason=end.reason,
                    message=end.message,
                    retry_at=end.retry_at,
                )
                self._metrics.runs.labels(provider=run.provider, reason=end.reason.value).inc()
            case _:
                pass
        self._writer.record(run.id, recorded)
        if not isinstance(recorded.event, TextDelta | ReasoningDelta) or active.run is not run:
            self._publish(run.user_id, Topic.RUNS)
        if active.log.finished:
            # Kept here until it is stored, so that at every moment it is found somewhere.
            stored = asyncio.create_task(self._writer.wait_stored(run.id))
            stored.add_done_callback(lambda _: self._active.pop(run.id, None))
