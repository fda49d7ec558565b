import dataclasses
import datetime as dt

import pytest

from polydev.core.quotas import Quotas
from polydev.errors import TooManyRequests
from polydev.models.accounts import ApiKey

KEY = ApiKey(
    id="key_1",
    user_id="usr_1",
    name="",
    prefix="polydev_abc",
    requests_per_minute=3,
    concurrent_runs=2,
    created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
)
OTHER = dataclasses.replace(KEY, id="key_2")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_may_ask_so_often_in_any_minute():
    clock = Clock()
    quotas = Quotas(clock)
    for seconds in (0, 10, 20):
        clock.now = 1000.0 + seconds
        quotas.count_request(KEY)
    clock.now = 1059.9
    with pytest.raises(TooManyRequests) as refused:
        quotas.count_request(KEY)
    assert refused.value.retry_at is not None
    left = (refused.value.retry_at - dt.datetime.now(dt.UTC)).total_seconds()
    assert -1 < left < 1.1
    clock.now = 1060.0  # the first is a minute old
    quotas.count_request(KEY)
    with pytest.raises(TooManyRequests):
        quotas.count_request(KEY)
    clock.now = 1070.0
    quotas.count_request(KEY)


def test_refused_requests_do_not_count():
    clock = Clock()
    quotas = Quotas(clock)
    for _ in range(3):
        quotas.count_request(KEY)
    for _ in range(50):
        with pytest.raises(TooManyRequests):
            quotas.count_request(KEY)
    clock.now += 60
    quotas.count_request(KEY)


def test_keys_do_not_share_their_limits():
    quotas = Quotas(Clock())
    for _ in range(3):
        quotas.count_request(KEY)
    quotas.count_request(OTHER)
    with quotas.running(KEY), quotas.running(KEY), quotas.running(OTHER):
        pass


def test_places_are_given_back_whatever_happens():
    quotas = Quotas(Clock())
    with quotas.running(KEY):
        with pytest.raises(RuntimeError), quotas.running(KEY):
            with pytest.raises(TooManyRequests), quotas.running(KEY):
                raise AssertionError("a third place was given")
            raise RuntimeError
        with quotas.running(KEY):
            pass
    with quotas.running(KEY), quotas.running(KEY):
        pass
