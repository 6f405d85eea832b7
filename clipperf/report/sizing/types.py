"""What a sizing is asked and what it answers: plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.report.largest import Largest
from clipperf.report.table import Interval

HOURS_A_MONTH = 730.0
"""365 days of 24 hours, over 12."""

MOST_SPARES = 10_000

MOST_PERCENTILE = 0.9996
"""The queueing estimate's 16,384 draws back no more: (1 - q) x n >= 6.5, as `stats` asks."""

Basis = Literal["server scenario", "queueing estimate", "closed loop", "as driven"]
"""What says how much a replica holds. "as driven": calls that a scenario of one's own made."""


@dataclass(frozen=True)
class Targets:
    """What the deployment must do, what one machine may use, and what it costs.

    Rates are items per second over all machines; 0 leaves a tower out. `percentile` (a share of
    one) of the answers must come within `slo_s`. `ram_bytes`, `vram_bytes` and `disk_bytes` are
    one machine's; None takes what the measured machine has, of disk no limit. `min_accuracy` and
    `max_loss` are shares of one, by the scores that `accuracy_on` names ("DATASET" or
    "DATASET:METRIC"). `utilisation` is the share of the rate that a replica holds that is planned
    for, `spare` how many replicas of each tower there are beside those that the load needs.
    `prices` are a machine's per hour, by what names its kind (see `prices`). `assume` names
    hardware to size for by published speeds.
    """

    images_per_s: float
    texts_per_s: float
    slo_s: float | None = None
    ram_bytes: int | None = None
    vram_bytes: int | None = None
    utilisation: float = 0.7
    percentile: float = 0.99
    disk_bytes: int | None = None
    min_accuracy: float | None = None
    max_loss: float | None = None
    accuracy_on: str | None = None
    spare: int = 0
    prices: tuple[tuple[str, float], ...] = ()
    assume: tuple[str, ...] = ()

    def of(self, side: str) -> float:
        """The target rate of one tower."""
        return self.images_per_s if side == "image" else self.texts_per_s


@dataclass(frozen=True)
class Quality:
    """What is known of an accuracy: `value` and `loss` against PyTorch, as shares of one.

    `added` says that no evaluation was of these two towers together: their losses were added.
    """

    dataset: str
    metric: str
    value: float
    interval: Interval | None = None
    loss: float | None = None
    loss_interval: Interval | None = None
    added: bool = False


@dataclass(frozen=True)
class Option:
    """One tower's configuration against the targets.

    `rate_per_s` is what it does without pause, `held_per_s` what it holds within the SLO, both
    with 95 % intervals (of a server scenario: up to the rate that did not hold), infinite where
    nothing bounds them from above. `latency_s` is a
    batch's at `latency_quantile` ("p99", or the highest that enough calls back, or "max"), of a
    server scenario an answer's. `load` is the number of replicas before rounding up; `replicas`
    has the spare ones in it. `expected_s` and `busy` are the latency at the SLO's percentile and
    the share of time that a replica runs, at the load that is planned. `broken` lists the limits
    that it breaks and by how much; then `replicas` and `per_machine` are None. `per_machine` is
    also None where nothing known limits it. `cores` are what a replica takes of a machine, None as
    many as it has threads; one that is `alone` shares its machine with no other of its tower, since
    what a machine does of it was measured. A queueing estimate adds `harness_s` for each input to
    the engine's run. `extrapolated` says what was not measured as it is
    used here.
    """

    cell: Cell
    env_id: str
    random_weights: bool
    unstable: bool
    rate_per_s: float | None
    latency_s: float | None
    latency_quantile: str | None
    rss_peak_bytes: int | None
    vram_peak_bytes: int | None
    load: float | None
    replicas: int | None
    per_machine: int | None
    broken: tuple[str, ...] = ()
    basis: Basis = "closed loop"
    rate_interval: Interval | None = None
    held_per_s: float | None = None
    held_interval: Interval | None = None
    replicas_interval: tuple[int, int | None] | None = None
    expected_s: float | None = None
    busy: float | None = None
    disk_bytes: int | None = None
    quality: Quality | None = None
    cores: int | None = None
    alone: bool = False
    harness_s: float = 0.0
    extrapolated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """One model on one kind of machine, or each tower on one of its own.

    `kinds` says how many machines there are of which environment. `machines_interval` follows
    from those of the towers' rates; its second end is None where nothing bounds it.
    `memory_bytes` is the peak RAM of all replicas together, `fullest_bytes` that of the fullest
    machine, `headroom_bytes` what this machine has left; None where RAM was not measured.
    `carries` is how many times the target all replicas hold, within the utilisation that is
    planned for. Costs are in the currency of the prices, None without.
    """

    rank: int
    env_id: str
    model_id: str
    random_weights: bool
    image: Option | None
    text: Option | None
    machines: int
    memory_bytes: int | None
    fullest_bytes: int | None
    headroom_bytes: int | None
    notes: tuple[str, ...] = ()
    kinds: tuple[tuple[str, int], ...] = ()
    machines_interval: tuple[int, int | None] | None = None
    carries: float | None = None
    per_month: float | None = None
    per_month_interval: Interval | None = None
    per_million: float | None = None
    quality: Quality | None = None

    @property
    def towers(self) -> list[Option]:
        """The options that it runs, image first."""
        return [option for option in (self.image, self.text) if option is not None]


@dataclass(frozen=True)
class Assumed:
    """One model on hardware whose speeds are published by others: assumed, not measured.

    Rates are of one machine, in the source's own `setup` and batches. `error` is the largest known
    one of what was carried over from other towers, as a factor (1: nothing was; None: none is
    known), and `machines_interval` follows from it, best first. Neither an SLO nor memory nor an
    accuracy was checked.
    """

    hardware: str
    setup: str
    model_id: str
    random_weights: bool
    images_per_s: float | None
    texts_per_s: float | None
    images_rest_on: str | None
    texts_rest_on: str | None
    error: float | None
    sources: tuple[str, ...]
    machines: int
    machines_interval: tuple[int, int] | None
    per_month: float | None = None
    per_million: float | None = None


@dataclass(frozen=True)
class Sizing:
    """Deployments, best first (of each kind of machine, where no prices compare them).

    `front` are those of all that pass which no other beats in everything: accuracy, what they
    carry, memory, and cost (without prices machines). `assumed` rest on published speeds, and are
    never among the others. `largest` says which batch would keep to the budgets of memory that are
    asked for. The rest is what they were chosen from.
    """

    targets: Targets
    plans: tuple[Deployment, ...]
    options: tuple[Option, ...]
    rejected: tuple[Option, ...]
    unmet: tuple[str, ...]
    assumptions: tuple[str, ...]
    front: tuple[Deployment, ...] = ()
    assumed: tuple[Assumed, ...] = ()
    largest: tuple[Largest, ...] = ()


def percentile(targets: Targets) -> str:
    """The SLO's percentile as people say it: "p99"."""
    return f"p{100 * targets.percentile:g}"


def check(targets: Targets) -> None:
    """Reject targets that cannot be meant.

    Raises:
        UsageError: naming the value and what it should be.
    """
    rates = (targets.images_per_s, targets.texts_per_s)
    if not all(math.isfinite(r) and r >= 0 for r in rates):
        raise UsageError("target rates must be finite and not negative; 0 leaves a tower out")
    if not any(rates):
        raise UsageError("nothing to size: give a target of images/s, of texts/s, or both")
    if not (math.isfinite(targets.utilisation) and 0 < targets.utilisation <= 1):
        raise UsageError(f"utilisation must lie in (0, 1], not {targets.utilisation}")
    if not 0.5 <= targets.percentile <= MOST_PERCENTILE + 1e-9:
        percent, most = (f"{100 * share:g}" for share in (targets.percentile, MOST_PERCENTILE))
        raise UsageError(f"the percentile must be from 50 to {most}, not {percent}")
    if not 0 <= targets.spare <= MOST_SPARES:
        raise UsageError(f"spare replicas must be from 0 to {MOST_SPARES}, not {targets.spare}")
    for name, value in (
        ("the SLO", targets.slo_s),
        ("the RAM budget", targets.ram_bytes),
        ("the VRAM budget", targets.vram_bytes),
        ("the disk budget", targets.disk_bytes),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} must be positive, not {value}")
    for name, value in (
        ("the least accuracy", targets.min_accuracy),
        ("the largest loss", targets.max_loss),
    ):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name} must be a share from 0 to 1, not {value}")
    for kind, price in targets.prices:
        if not (math.isfinite(price) and price > 0):
            raise UsageError(f"the price of {kind or 'a machine'} must be positive, not {price}")
