import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from polydev.core import event_writer
from polydev.core.event_writer import EventWriter
from polydev.core.metrics import Metrics
from polydev.events import (
    EndReason,
    Event,
    Recorded,
    RunStarted,
    TextDelta,
    UsageReported,
    many_from_json,
)
from polydev.models.accounts import Connection
from polydev.models.runs import Run, RunState
from polydev.models.seals import events_context
from polydev.providers.base import finished
from polydev.store import Store
from polydev.store.runs import EventBatch
from polydev.vault import Vault
from tests.core.conftest import run_on
from tests.full_disk import FullDisk

pytestmark = pytest.mark.anyio

END = finished(EndReason.STOP)


class Bench:
    """A writer at work, and runs whose events it is given."""

    def __init__(self, store: Store, vault: Vault, connection: Connection, *, keep: bool) -> None:
        self.store = store
        self.vault = vault
        self.connection = connection
        self.metrics = Metrics()
        self.writer = EventWriter(store, vault, self.metrics, keep_texts=keep)
        self.numbers: dict[str, int] = {}

    async def run(self) -> Run:
        run = run_on(self.connection)
        await self.store.runs.add(run)
        self.writer.opened(run)
        self.numbers[run.id] = 0
        return run

    def record(self, run: Run, event: Event) -> Recorded:
        self.numbers[run.id] += 1
        recorded = Recorded(number=self.numbers[run.id], at=dt.datetime.now(dt.UTC), event=event)
        self.writer.record(run.id, recorded)
        return recorded

    async def batches(self, run: Run) -> list[list[Recorded]]:
        stored = await self.store.runs.events_after(run.id)
        return [
            many_from_json(
                self.vault.open(batch.sealed, events_context(run, batch.first_number)).reveal()
            )
            for batch in stored
        ]

    async def stored(self, run: Run, count: int, within: float = 10) -> list[list[Recorded]]:
        """Waits until so many events are stored."""
        async with asyncio.timeout(within):
            while True:
                found = await self.batches(run)
                if sum(map(len, found)) >= count:
                    return found
                await asyncio.sleep(0.005)


@asynccontextmanager
async def bench_of(
    store: Store, vault: Vault, connection: Connection, *, keep: bool = True
) -> AsyncIterator[Bench]:
    bench = Bench(store, vault, connection, keep=keep)
    task = asyncio.create_task(bench.writer.write_forever())
    try:
        yield bench
    finally:
        await bench.writer.close(task)


@pytest.fixture
async def bench(store: Store, vault: Vault, connection: Connection) -> AsyncIterator[Bench]:
    async with bench_of(store, vault, connection) as bench:
        yield bench


async def test_events_are_stored_soon_and_together(bench: Bench):
    run = await bench.run()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    records = [bench.record(run, TextDelta(text=str(number))) for number in range(50)]
    batches = await bench.stored(run, 50)
    assert loop.time() - begun < 2  # 0.1 s by its own bound, and a busy machine
    assert [record for batch in batches for record in batch] == records
    assert len(batches) == 1, "events that came together were written one by one"


async def test_much_text_is_not_waited_with(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(event_writer, "_LATEST_SECONDS", 3600.0)
    run = await bench.run()
    bench.record(run, TextDelta(text="x" * 100))
    for _ in range(5):
        await asyncio.sleep(0)
    assert await bench.batches(run) == []
    bench.record(run, TextDelta(text="x" * 20_000))
    await bench.stored(run, 2, within=5)
    # The end is not waited with either.
    other = await bench.run()
    bench.record(other, RunStarted(model="m"))
    bench.record(other, END)
    async with asyncio.timeout(5):
        await bench.writer.wait_stored(other.id)


async def test_the_end_of_a_run_is_stored_with_what_is_known_of_it(bench: Bench):
    run = await bench.run()
    now = dt.datetime.now(dt.UTC)
    bench.writer.started(run.id, now)
    bench.record(run, RunStarted(model="m"))
    bench.writer.first_token(run.id, now)
    bench.record(run, TextDelta(text="a"))
    usage = UsageReported(input_tokens=3, output_tokens=4)
    bench.record(run, usage)
    bench.record(run, END)
    await bench.writer.wait_stored(run.id)
    stored = await bench.store.runs.get(run.id)
    assert stored is not None
    assert stored.state is RunState.SUCCEEDED
    assert (stored.started_at, stored.first_token_at, stored.usage) == (now, now, usage)
    assert [record.number for batch in await bench.batches(run) for record in batch] == [1, 2, 3, 4]
    await bench.writer.wait_stored(run.id)  # at once, afterwards too


async def test_without_texts_only_the_end_is_kept(
    store: Store, vault: Vault, connection: Connection
):
    async with bench_of(store, vault, connection, keep=False) as bench:
        run = await bench.run()
        bench.record(run, TextDelta(text="private"))
        bench.record(run, END)
        await bench.writer.wait_stored(run.id)
        assert await bench.batches(run) == []
        stored = await store.runs.get(run.id)
        assert stored is not None
        assert stored.state is RunState.SUCCEEDED


async def test_a_full_disk_delays_and_loses_nothing(
    store: Store, vault: Vault, connection: Connection
):
    disk = FullDisk(store)
    async with bench_of(store, vault, connection) as bench:
        runs = [await bench.run() for _ in range(3)]
        disk.full = True
        for run in runs:
            for _ in range(10):
                bench.record(run, TextDelta(text="x" * 5000))
        async with asyncio.timeout(10):
            while not bench.writer.obstacle:
                await asyncio.sleep(0.01)
        assert "disk" in bench.writer.obstacle
        for run in runs:
            bench.record(run, END)  # the live stream is not held up
        disk.full = False
        async with asyncio.timeout(20):
            for run in runs:
                await bench.writer.wait_stored(run.id)
        async with asyncio.timeout(5):
            while bench.writer.obstacle:
                await asyncio.sleep(0.01)
        for run in runs:
            numbers = [r.number for batch in await bench.batches(run) for r in batch]
            assert numbers == list(range(1, 12))
    assert bench.metrics.log_dropped._value.get() == 0


async def test_what_is_held_is_bounded_and_the_longest_log_goes_first(
    store: Store, vault: Vault, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(event_writer, "_HELD_BYTES", 100_000)
    disk = FullDisk(store)
    async with bench_of(store, vault, connection) as bench:
        small, long = await bench.run(), await bench.run()
        disk.full = True
        bench.record(small, TextDelta(text="small"))
        for _ in range(30):
            bench.record(long, TextDelta(text="x" * 10_000))
            assert bench.writer._held_bytes <= 100_000
        for run in (small, long):
            bench.record(run, END)
        disk.full = False
        async with asyncio.timeout(20):
            for run in (small, long):
                await bench.writer.wait_stored(run.id)
        assert [r.number for batch in await bench.batches(small) for r in batch] == [1, 2]
        # The long one's log is broken; how it ended is known all the same.
        stored = await store.runs.get(long.id)
        assert stored is not None
        assert stored.state is RunState.SUCCEEDED
    assert bench.metrics.log_dropped._value.get() >= 9


async def test_a_log_that_cannot_go_on_holds_up_no_other(bench: Bench):
    broken, good = await bench.run(), await bench.run()
    # As if a commit that was reported as failed had been made after all.
    sealed = bench.vault.seal(b"[]", events_context(broken, 1))
    await bench.store.runs.append_events(
        [EventBatch(run_id=broken.id, first_number=1, last_number=7, sealed=sealed)]
    )
    bench.record(broken, TextDelta(text="a"))
    bench.record(good, TextDelta(text="b"))
    await bench.stored(good, 1, within=5)
    assert bench.writer.obstacle == ""
    bench.record(broken, END)
    bench.record(good, END)
    async with asyncio.timeout(5):
        await bench.writer.wait_stored(broken.id)
        await bench.writer.wait_stored(good.id)
    for run in (broken, good):
        stored = await bench.store.runs.get(run.id)
        assert stored is not None
        assert stored.state is RunState.SUCCEEDED


async def test_closing_stores_what_is_left(store: Store, vault: Vault, connection: Connection):
    async with bench_of(store, vault, connection) as bench:
        run = await bench.run()
        bench.record(run, TextDelta(text="last"))
        bench.record(run, END)
    assert [r.number for batch in await bench.batches(run) for r in batch] == [1, 2]
