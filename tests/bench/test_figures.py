"""What is said about samples."""

import pytest

from polydev.bench.figures import Figure, median_error_ms, median_ms, p99_ms


def figure(value: float, error: float = 0.0, limit: float | None = 30.0) -> Figure:
    return Figure(name="x", value=value, unit="ms", limit=limit, detail="", error=error)


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        (figure(30), True),
        (figure(30.1), False),
        (figure(35, error=6), True),
        (figure(35, error=4), False),
        (figure(1000, limit=None), True),
    ],
)
def test_over_is_what_is_over_by_more_than_chance(given: Figure, holds: bool):
    assert given.holds is holds


def test_samples_in_seconds_are_told_in_milliseconds():
    samples = [0.001, 0.002, 0.009]
    assert median_ms(samples) == 2
    assert p99_ms(samples) == 9
    assert median_error_ms([0.004]) == 0
    assert median_error_ms([0.001] * 5) == 0
    assert 0 < median_error_ms(samples * 100) < median_error_ms(samples)
