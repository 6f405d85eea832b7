"""What `tune` leaves on disk and `load` opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment


@dataclass(frozen=True)
class Trial:
    """What came of one candidate of a tuning.

    `batch_s` is what a batch takes at most, as far as the samples say: the 90th percentile, below
    64 samples the slowest. `verdict` is why it was not chosen, "" for the chosen one.
    """

    cell: Cell
    verdict: str
    items_per_s: float | None = None
    items_interval: tuple[float, float] | None = None
    batch_s: float | None = None
    load_s: float | None = None
    samples: int = 0


@dataclass(frozen=True)
class TunedTower:
    """The best candidate of one tower. `artifact` is its folder, seen from the tuning file."""

    cell: Cell
    artifact: str
    key: str
    items_per_s: float
    items_interval: tuple[float, float] | None
    batch_s: float
    rss_peak_bytes: int | None


@dataclass(frozen=True)
class Tuning:
    """What `tune` leaves on disk and `load` opens.

    `max_batch_s` is the bound on the time of a batch, `margin` the points of recall@1 and top-1
    that a quantised tower may lose; `budget_s` was allowed, `spent_s` taken.
    """

    schema_version: int
    kind: Literal["tuning"]
    command: str
    created_utc: str
    environment: Environment
    spec: ModelSpec
    max_batch_s: float | None
    margin: float
    budget_s: float
    spent_s: float
    towers: tuple[TunedTower, ...]
    trials: tuple[Trial, ...]
