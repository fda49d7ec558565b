"""Samples and what is said about them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One comparison. limit: what must not be exceeded, in the unit of `value`; None: just told."""

    name: str
    value: float
    unit: str
    limit: float | None
    detail: str

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit


def median_ms(samples: Sequence[float]) -> float:
    """The median of samples in seconds, in milliseconds."""
    return statistics.median(samples) * 1000


def p99_ms(samples: Sequence[float]) -> float:
    """With fewer than a hundred samples: their maximum."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000


def spread(samples: Sequence[float]) -> str:
    return f"median {median_ms(samples):.1f} ms, p99 {p99_ms(samples):.1f} ms, n={len(samples)}"
