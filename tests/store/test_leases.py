import asyncio

import pytest

from polydev.store import Store

pytestmark = pytest.mark.anyio


async def test_of_many_who_ask_at_once_one_holds_it(store: Store) -> None:
    holders = [f"gateway {number}" for number in range(8)]
    taken = await asyncio.gather(*(store.leases.take("a", holder, 60) for holder in holders))
    (lease,) = [one for one in taken if one is not None]
    assert lease.token == 1
    assert await store.leases.take("a", "another", 60) is None
    assert await store.leases.take("b", "another", 60) is not None


async def test_given_back_or_over_it_is_the_next_ones_with_a_higher_token(store: Store) -> None:
    first = await store.leases.take("a", "one", 60)
    assert first is not None
    await store.leases.give_back(first)
    second = await store.leases.take("a", "two", -1)  # over already
    assert second is not None
    third = await store.leases.take("a", "three", 60)
    assert third is not None
    assert (first.token, second.token, third.token) == (1, 2, 3)
    await store.leases.give_back(second)  # by somebody who wakes up late
    assert await store.leases.take("a", "four", 60) is None


async def test_its_holder_takes_it_again(store: Store) -> None:
    first = await store.leases.take("a", "one", 60)
    again = await store.leases.take("a", "one", 60)
    assert first is not None
    assert again is not None
    assert again.token == first.token + 1
