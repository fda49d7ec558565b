import asyncio
import datetime as dt
from dataclasses import replace

import pytest
from sqlalchemy.exc import StatementError

from polydev.errors import Conflict, NotFound
from polydev.events import EndReason, Outcome, RunFinished, UsageReported
from polydev.models.accounts import Connection, User
from polydev.models.runs import Run, RunState
from polydev.store import EventBatch, Store
from tests.store.conftest import NOW, run_on

pytestmark = pytest.mark.anyio

SECOND = dt.timedelta(seconds=1)
GOOD = RunFinished(outcome=Outcome.SUCCEEDED, reason=EndReason.STOP)
LIMITED = RunFinished(
    outcome=Outcome.LIMITED,
    reason=EndReason.WINDOW_EXHAUSTED,
    message="The five-hour window is used up.",
    retry_at=NOW + dt.timedelta(hours=2),
)


@pytest.fixture
async def run(store: Store, connection: Connection) -> Run:
    run = run_on(connection)
    await store.runs.add(run, b"sealed request")
    return run


def batch(run: Run, first: int, last: int) -> EventBatch:
    sealed = f"{first} to {last}".encode()
    return EventBatch(run_id=run.id, first_number=first, last_number=last, sealed=sealed)


async def test_a_run_comes_back_as_it_was_added(store: Store, run: Run) -> None:
    assert await store.runs.get(run.id) == run
    assert await store.runs.request(run.id) == b"sealed request"
    assert await store.runs.get("run_none") is None
    assert await store.runs.request("run_none") is None


async def test_of_many_runs_added_at_once_only_the_one_that_cannot_be_is_refused(
    store: Store, run: Run, connection: Connection
) -> None:
    others = [run_on(connection) for _ in range(100)]
    nobodys = replace(run_on(connection), user_id="user_none")
    all_runs = [*others[:50], run, nobodys, *others[50:]]
    told = await asyncio.gather(*(map(store.runs.add, all_runs)), return_exceptions=True)
    refused = {all_runs[n].id: type(error) for n, error in enumerate(told) if error is not None}
    assert refused == {run.id: Conflict, nobodys.id: NotFound}
    stored = await store.runs.of_user(connection.user_id, limit=200)
    assert {one.id for one in stored} == {run.id, *(other.id for other in others)}


async def test_a_caller_who_leaves_takes_no_other_run_along(
    store: Store, connection: Connection
) -> None:
    left, stayed = run_on(connection), run_on(connection)
    leaving = asyncio.create_task(store.runs.add(left))
    staying = asyncio.create_task(store.runs.add(stayed))
    await asyncio.sleep(0)  # both are waiting now
    leaving.cancel()
    await staying
    assert leaving.cancelled()
    assert await store.runs.get(left.id) is None
    assert await store.runs.get(stayed.id) == stayed


async def test_the_life_of_a_run_is_recorded(store: Store, run: Run) -> None:
    usage = UsageReported(input_tokens=10, output_tokens=3, cached_input_tokens=4)
    await store.runs.mark_started({run.id: NOW + SECOND})
    assert await store.runs.finish(
        run.id, GOOD, NOW + 3 * SECOND, usage=usage, first_token_at=NOW + 2 * SECOND
    )
    assert await store.runs.get(run.id) == replace(
        run,
        state=RunState.SUCCEEDED,
        started_at=NOW + SECOND,
        first_token_at=NOW + 2 * SECOND,
        finished_at=NOW + 3 * SECOND,
        reason=EndReason.STOP,
        usage=usage,
    )


async def test_a_run_that_never_started_may_end_with_a_message(store: Store, run: Run) -> None:
    assert await store.runs.finish(run.id, LIMITED, NOW)
    found = await store.runs.get(run.id)
    assert found == replace(
        run,
        state=RunState.LIMITED,
        finished_at=NOW,
        reason=EndReason.WINDOW_EXHAUSTED,
        message=LIMITED.message,
        retry_at=LIMITED.retry_at,
    )


async def test_a_run_starts_once_and_ends_once(store: Store, run: Run) -> None:
    await store.runs.mark_started({run.id: NOW})
    await store.runs.mark_started({run.id: NOW + SECOND})
    started = await store.runs.get(run.id)
    assert started is not None
    assert started.started_at == NOW
    assert await store.runs.finish(run.id, GOOD, NOW, first_token_at=NOW)
    ended = await store.runs.get(run.id)
    assert not await store.runs.finish(run.id, LIMITED, NOW + SECOND, events=[batch(run, 1, 2)])
    await store.runs.mark_started({run.id: NOW + SECOND})
    assert await store.runs.get(run.id) == ended
    assert await store.runs.events_after(run.id) == ()


async def test_of_many_that_start_at_once_only_those_that_waited_do(
    store: Store, connection: Connection
) -> None:
    waiting, ended, absent = [run_on(connection) for _ in range(3)], run_on(connection), "run_none"
    for one in (*waiting, ended):
        await store.runs.add(one)
    await store.runs.finish(ended.id, GOOD, NOW)
    await store.runs.mark_started(dict.fromkeys([*(one.id for one in waiting), ended.id], NOW))
    await store.runs.mark_started({waiting[0].id: NOW + SECOND, absent: NOW})
    for one in waiting:
        found = await store.runs.get(one.id)
        assert found is not None
        assert (found.state, found.started_at) == (RunState.RUNNING, NOW)
    found = await store.runs.get(ended.id)
    assert found is not None
    assert (found.state, found.started_at) == (RunState.SUCCEEDED, None)


async def test_of_many_ends_at_once_exactly_one_counts(store: Store, run: Run) -> None:
    ends = [GOOD, LIMITED] * 5
    results = await asyncio.gather(*(store.runs.finish(run.id, end, NOW) for end in ends))
    assert sum(results) == 1
    found = await store.runs.get(run.id)
    assert found is not None
    assert found.reason is ends[results.index(True)].reason


async def test_no_change_for_a_run_that_does_not_exist(store: Store) -> None:
    await store.runs.mark_started({"run_none": NOW})
    assert await store.runs.get("run_none") is None
    with pytest.raises(NotFound):
        await store.runs.finish("run_none", GOOD, NOW)


async def test_runs_are_paged_newest_first_and_by_owner(
    store: Store, user: User, connection: Connection
) -> None:
    runs = sorted((run_on(connection) for _ in range(5)), key=lambda run: run.id, reverse=True)
    for run in runs:
        await store.runs.add(run)
    bob = await store.users.add("bob")
    assert await store.runs.of_user(bob.id) == ()
    first = await store.runs.of_user(user.id, limit=3)
    assert list(first) == runs[:3]
    rest = await store.runs.of_user(user.id, limit=3, before=first[-1].id)
    assert list(rest) == runs[3:]


async def test_unfinished_runs_are_queued_and_running_ones(
    store: Store, connection: Connection
) -> None:
    queued, running, ended = (run_on(connection) for _ in range(3))
    for run in (queued, running, ended):
        await store.runs.add(run)
    await store.runs.mark_started({running.id: NOW})
    await store.runs.finish(ended.id, GOOD, NOW)
    assert {run.id for run in await store.runs.unfinished()} == {queued.id, running.id}


async def test_events_are_read_from_any_number_on(store: Store, run: Run) -> None:
    batches = [batch(run, 1, 3), batch(run, 4, 4), batch(run, 5, 9)]
    await store.runs.append_events(batches[:1])
    await store.runs.append_events(batches[1:])
    events_after = store.runs.events_after
    assert list(await events_after(run.id)) == batches
    assert list(await events_after(run.id, 2)) == batches  # the first holds 3 as well
    assert list(await events_after(run.id, 3)) == batches[1:]
    assert list(await events_after(run.id, 9)) == []
    assert list(await events_after(run.id, 0, limit=1)) == batches[:1]
    assert await store.runs.last_event_number(run.id) == 9


@pytest.mark.parametrize(("first", "last"), [(1, 3), (3, 5), (5, 6), (4, 3)])
async def test_a_gap_or_overlap_is_refused_and_nothing_of_the_call_written(
    store: Store, run: Run, connection: Connection, first: int, last: int
) -> None:
    other = run_on(connection)
    await store.runs.add(other)
    await store.runs.append_events([batch(run, 1, 3)])
    with pytest.raises(Conflict, match="next event") as caught:
        await store.runs.append_events([batch(other, 1, 1), batch(run, first, last)])
    assert caught.value.reason == "event_number"
    assert await store.runs.last_event_number(run.id) == 3
    assert await store.runs.last_event_number(other.id) == 0


async def test_of_two_writers_of_the_same_events_one_is_refused(store: Store, run: Run) -> None:
    results = await asyncio.gather(
        *(store.runs.append_events([batch(run, 1, 2)]) for _ in range(6)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert list(await store.runs.events_after(run.id)) == [batch(run, 1, 2)]


async def test_events_need_a_run_that_exists(store: Store, connection: Connection) -> None:
    with pytest.raises(NotFound):
        await store.runs.append_events([batch(run_on(connection), 1, 1)])


async def test_the_end_and_its_events_are_stored_together_or_not_at_all(
    store: Store, run: Run
) -> None:
    with pytest.raises(Conflict):
        await store.runs.finish(run.id, GOOD, NOW, events=[batch(run, 2, 2)])
    assert await store.runs.get(run.id) == run
    assert await store.runs.finish(run.id, GOOD, NOW, events=[batch(run, 1, 2)])
    assert await store.runs.last_event_number(run.id) == 2


async def test_pruning_takes_texts_of_old_runs_and_leaves_records(
    store: Store, connection: Connection
) -> None:
    old, young, queued = (run_on(connection) for _ in range(3))
    for run in (old, young, queued):
        await store.runs.add(run, b"sealed request")
        await store.runs.append_events([batch(run, 1, 2)])
    await store.runs.finish(old.id, GOOD, NOW - 8 * dt.timedelta(days=1))
    await store.runs.finish(young.id, GOOD, NOW)
    week = NOW - 7 * dt.timedelta(days=1)
    assert await store.runs.prune_texts(week) == 1
    assert await store.runs.prune_texts(week) == 0
    found = await store.runs.get(old.id)
    assert found is not None
    assert found.state is RunState.SUCCEEDED
    assert await store.runs.request(old.id) is None
    assert await store.runs.events_after(old.id) == ()
    for run in (young, queued):
        assert await store.runs.request(run.id) == b"sealed request"
        assert await store.runs.last_event_number(run.id) == 2


async def test_pruning_gets_through_a_long_backlog(
    store: Store, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polydev.store.runs._PRUNE_BATCH", 2)
    for _ in range(5):
        run = run_on(connection)
        await store.runs.add(run, b"sealed")
        await store.runs.finish(run.id, GOOD, NOW)
    assert await store.runs.prune_texts(NOW + SECOND) == 5


async def test_times_come_back_aware_in_utc_and_naive_ones_are_refused(
    store: Store, connection: Connection
) -> None:
    elsewhere = NOW.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))
    run = replace(run_on(connection), created_at=elsewhere)
    await store.runs.add(run)
    found = await store.runs.get(run.id)
    assert found is not None
    assert found.created_at == NOW
    assert found.created_at.tzinfo == dt.UTC
    with pytest.raises(StatementError, match="aware"):
        await store.runs.add(replace(run_on(connection), created_at=NOW.replace(tzinfo=None)))
