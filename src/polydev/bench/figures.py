"""Samples and what is said about them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One comparison. limit: what must not be exceeded, in the unit of `value`; None: just told.

    error: how far, in the same unit, `value` may be off by chance. What is over the limit by no
    more than that is not known to be over.
    """

    name: str
    value: float
    unit: str
    limit: float | None
    detail: str
    error: float = 0.0

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value - self.error <= self.limit


def median_ms(samples: Sequence[float]) -> float:
    """The median of samples in seconds, in milliseconds."""
    return statistics.median(samples) * 1000


def p99_ms(samples: Sequence[float]) -> float:
    """With fewer than a hundred samples: their maximum."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000


def p90_ms(samples: Sequence[float]) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))] * 1000


def median_error_ms(samples: Sequence[float]) -> float:
    """The standard error of `median_ms`, as of a normal distribution; 0 for a single sample."""
    if len(samples) < 2:
        return 0.0
    return 1.2533 * statistics.stdev(samples) / math.sqrt(len(samples)) * 1000


def spread(samples: Sequence[float]) -> str:
    return f"median {median_ms(samples):.1f} ms, p99 {p99_ms(samples):.1f} ms, n={len(samples)}"
