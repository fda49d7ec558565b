"""A subscription's windows, as their provider reports them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The newest observation of one kind; its fields are those of `WindowObserved`."""

    connection_id: str
    kind: str
    used_fraction: float | None
    resets_at: datetime | None
    source: Literal["header", "event"]
    observed_at: datetime
