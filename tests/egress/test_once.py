"""A CLI that asks again by itself: the second request does not leave the machine."""

from dataclasses import replace

import pytest

from polydev.models.egress import (
    ASKED_ALREADY,
    EgressMode,
    Exchange,
    Rule,
    exchange_from_dict,
    exchange_to_dict,
    policy_from_dict,
    policy_to_dict,
)
from tests.egress.conftest import HOST, INJECTING, World, policy
from tests.egress.upstream import Upstream

pytestmark = pytest.mark.anyio

RULES = (
    Rule(method="POST", host=HOST, path="/echo", once=True),
    Rule(method="GET", host=HOST, path=r"/status/\d+", once=True),
    Rule(method="POST", host=HOST, path="/echo/other"),
)


@pytest.mark.parametrize("way", INJECTING)
async def test_what_is_admitted_once_is_refused_the_second_time(
    world: World, upstream: Upstream, way: str
):
    place = await world.place(way, rules=RULES)
    assert (await place.http.post("/echo")).status_code == 200
    refused = await place.http.post("/echo")
    assert refused.status_code == 403
    assert ASKED_ALREADY in refused.json()["error"]["message"]
    # Only that rule is used up.
    assert (await place.http.post("/echo/other")).status_code == 200
    assert (await place.http.post("/echo/other")).status_code == 200
    assert [exchange.asked_again for exchange in place.binding.exchanges] == [
        False,
        True,
        False,
        False,
    ]


async def test_a_failing_answer_uses_it_up_too(world: World):
    place = await world.place("tcp", rules=RULES)
    assert (await place.http.get("/status/503")).status_code == 503
    assert (await place.http.get("/status/503")).status_code == 403


async def test_each_binding_has_its_own(world: World):
    for _ in range(2):
        place = await world.place("tcp", rules=RULES)
        assert (await place.http.post("/echo")).status_code == 200


async def test_what_was_refused_for_another_reason_uses_nothing_up(world: World):
    place = await world.place("tcp", rules=RULES)
    foreign = {"authorization": "Bearer made-up-other"}
    assert (await place.http.post("/echo", headers=foreign)).status_code == 403
    assert (await place.http.post("/echo")).status_code == 200


def test_it_crosses_the_process_boundary():
    asked = replace(policy(EgressMode.INJECT), rules=RULES)
    assert policy_from_dict(policy_to_dict(asked)) == asked
    seen = Exchange(
        binding="b", method="POST", host=HOST, path="/echo", status=403, refused=ASKED_ALREADY
    )
    assert exchange_from_dict(exchange_to_dict(seen)).asked_again
