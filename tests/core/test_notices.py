import asyncio
import datetime as dt

import pytest

from polydev.core.notices import Notices
from polydev.core.windows import Windows
from polydev.errors import Busy
from polydev.events import WindowObserved
from polydev.models.accounts import Connection, ConnectionState
from polydev.models.notices import Topic
from polydev.store import Store
from tests.core.conftest import run_on

pytestmark = pytest.mark.anyio


async def test_a_listener_hears_each_topic_once_however_often_it_changed():
    notices = Notices()
    with notices.listen("usr_1") as listener:
        for _ in range(10_000):
            notices.publish("usr_1", Topic.RUNS)
        notices.publish("usr_1", Topic.KEYS)
        assert await listener.changed() == frozenset({Topic.RUNS, Topic.KEYS})
        waiting = asyncio.ensure_future(listener.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        notices.publish("usr_1", Topic.RUNS)
        assert await waiting == frozenset({Topic.RUNS})


async def test_nobody_hears_of_another_persons_things():
    notices = Notices()
    with notices.listen("usr_1") as one, notices.listen("usr_2") as other:
        notices.publish("usr_2", Topic.RUNS)
        assert await other.changed() == frozenset({Topic.RUNS})
        assert not one._waiting


async def test_listeners_are_bounded_and_forgotten():
    notices = Notices()
    with notices.listen("usr_1"):
        opened = [notices.listen("usr_1") for _ in range(64)]
        for one in opened[:63]:
            one.__enter__()
        with pytest.raises(Busy):
            opened[63].__enter__()
        for one in opened[:63]:
            one.__exit__(None, None, None)
    assert not notices._listeners


async def test_the_end_is_told_to_all():
    notices = Notices()
    with notices.listen("usr_1") as listener:
        waiting = asyncio.ensure_future(listener.changed())
        await asyncio.sleep(0)
        notices.close()
        assert await waiting is None


async def test_what_is_written_to_the_store_is_published(store: Store, connection: Connection):
    heard: list[tuple[str, Topic]] = []
    for part in (store.connections, store.keys):
        part._publish = lambda user, topic: heard.append((user, topic))

    async def told(topic: Topic) -> bool:
        said, heard[:] = list(heard), []
        return said == [(connection.user_id, topic)]

    await store.connections.set_state(connection.id, ConnectionState.NEEDS_LOGIN, "refused")
    assert await told(Topic.CONNECTIONS)
    assert await store.connections.swap_credential(connection.id, 1, b"new", expires_at=None)
    assert await told(Topic.CONNECTIONS)
    assert not await store.connections.swap_credential(connection.id, 1, b"late", expires_at=None)
    assert heard == []
    await store.connections.update_facts(connection.id, plan="pro")
    assert await told(Topic.CONNECTIONS)
    key = await store.keys.add(
        user_id=connection.user_id,
        name="",
        prefix="p",
        hash="h",
        requests_per_minute=1,
        concurrent_runs=1,
    )
    assert await told(Topic.KEYS)
    await store.keys.revoke(key.id)
    assert await told(Topic.KEYS)


async def test_a_window_is_published_once_it_is_stored(store: Store, connection: Connection):
    notices = Notices()
    windows = Windows(store, notices.publish)
    storing = asyncio.ensure_future(windows.store_forever())
    run = run_on(connection)
    seen = WindowObserved(kind="five_hour", used_fraction=0.5, resets_at=None, source="header")
    with notices.listen(connection.user_id) as listener:
        windows.observed(run, seen, dt.datetime.now(dt.UTC))
        async with asyncio.timeout(10):
            assert await listener.changed() == frozenset({Topic.CONNECTIONS})
        assert [window.kind for window in await windows.of(connection.id)] == ["five_hour"]
    storing.cancel()
    await asyncio.wait({storing})
