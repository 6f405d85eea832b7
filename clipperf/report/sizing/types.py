"""What a sizing is asked and what it answers: plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell


@dataclass(frozen=True)
class Targets:
    """What the deployment must do, and what one machine may use.

    Rates are items per second over all machines; 0 leaves a tower out. `ram_bytes` and
    `vram_bytes` are one machine's; None takes what the measured machine has. `utilisation` is the
    share of a replica's measured rate that is planned for.
    """

    images_per_s: float
    texts_per_s: float
    slo_s: float | None = None
    ram_bytes: int | None = None
    vram_bytes: int | None = None
    utilisation: float = 0.7

    def of(self, side: str) -> float:
        """The target rate of one tower."""
        return self.images_per_s if side == "image" else self.texts_per_s


@dataclass(frozen=True)
class Option:
    """One tower's configuration against the targets.

    `latency_s` is a batch's at `latency_quantile` ("p99", or the highest that enough calls back,
    or "max"). `load` is the number of replicas before rounding up. `broken` lists the limits that
    it breaks and by how much; then `replicas` and `per_machine` are None.
    `per_machine` is also None where nothing known limits it.
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


@dataclass(frozen=True)
class Deployment:
    """One model on one kind of machine, at the fewest machines its rows allow.

    `memory_bytes` is the peak RAM of all replicas together, `fullest_bytes` that of the fullest
    machine, `headroom_bytes` what this machine has left; None where RAM was not measured.
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

    @property
    def towers(self) -> list[Option]:
        """The options that it runs, image first."""
        return [option for option in (self.image, self.text) if option is not None]


@dataclass(frozen=True)
class Sizing:
    """Deployments, best first within each environment, and all that they were chosen from."""

    targets: Targets
    plans: tuple[Deployment, ...]
    options: tuple[Option, ...]
    rejected: tuple[Option, ...]
    unmet: tuple[str, ...]
    assumptions: tuple[str, ...]


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
    for name, value in (
        ("the SLO", targets.slo_s),
        ("the RAM budget", targets.ram_bytes),
        ("the VRAM budget", targets.vram_bytes),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} must be positive, not {value}")
