"""How many machines a target load needs, from stored rows; nothing is measured here.

Per tower: a replica is one process as it was measured (its threads, its peak RAM). Replicas =
ceil(target / (rate x utilisation)). Per model: the image and the text tower may run in different
configurations, because any of them gives embeddings of the same space, but never in different
models. Machines are of the kind that was measured, so a plan never crosses environments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.errors import UsageError
from clipperf.report import findings
from clipperf.report.packing import Load, Machine, pack
from clipperf.report.records import Row, cell_order, environments, merge, merge_scores
from clipperf.types import Cell, Environment, ResultFile


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
    it breaks and by how much; then `replicas` and `per_machine` are None. `per_machine` is also None
    where nothing known limits it.
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

    @property
    def engine(self) -> str:
        """Runtime and precision."""
        return f"{self.cell.runtime} {self.cell.precision}"


@dataclass(frozen=True)
class Plan:
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


@dataclass(frozen=True)
class Sizing:
    """The plans, best first within each environment, and all that they were chosen from."""

    targets: Targets
    plans: tuple[Plan, ...]
    options: tuple[Option, ...]
    rejected: tuple[Option, ...]
    unmet: tuple[str, ...]
    assumptions: tuple[str, ...]


def size(results: Sequence[ResultFile], targets: Targets) -> Sizing:
    """Size every model of the result files for the targets.

    Raises:
        UsageError: the targets make no sense, or there are no measurements.
    """
    check(targets)
    rows = longest_texts([r for r in merge(results) if targets.of(r.cell.side) > 0])
    if not rows:
        raise UsageError("no measurements to size from: run `clipperf profile MODEL` first")
    known = environments(results)
    options = [_option(row, targets, machine_of(known[row.env_id][1], targets)) for row in rows]
    passing = [o for o in options if not o.broken]
    plans: list[Plan] = []
    unmet: list[str] = []
    for env_id, model_id in dict.fromkeys((o.env_id, o.cell.model_id) for o in options):
        mine = [o for o in passing if (o.env_id, o.cell.model_id) == (env_id, model_id)]
        plan = _best_plan(mine, targets, machine_of(known[env_id][1], targets))
        if plan is not None:
            plans.append(plan)
        else:
            sides = {o.cell.side for o in mine}
            missing = [s for s in ("image", "text") if targets.of(s) > 0 and s not in sides]
            where = f" ({known[env_id][0]})" if len(known) > 1 else ""
            unmet.append(f"{model_id}{where}: no {' and no '.join(missing)} configuration passes.")
    plans = _ranked(plans, list(known))
    return Sizing(
        targets=targets,
        plans=tuple(_with_notes(p, targets, results) for p in plans),
        options=tuple(passing),
        rejected=tuple(o for o in options if o.broken),
        unmet=tuple(unmet),
        assumptions=tuple(_assumptions(targets, options)),
    )


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


def machine_of(environment: Environment | None, targets: Targets) -> Machine:
    """One machine: the measured one's cores, and the budgets given or else its memory."""
    return Machine(
        cores=environment.cores if environment else None,
        ram_bytes=targets.ram_bytes or (environment.ram_bytes if environment else None),
        vram_bytes=targets.vram_bytes or (environment.vram_bytes if environment else None),
    )


def longest_texts(rows: Sequence[Row]) -> list[Row]:
    """Of each configuration the row with the longest texts: shorter ones would flatter it."""
    longest: dict[tuple, Row] = {}
    for row in rows:
        c = row.cell
        key = (row.env_id, c.model_id, c.side, c.runtime, c.precision, c.device, c.batch, c.threads)
        if key not in longest or (c.tokens or 0) > (longest[key].cell.tokens or 0):
            longest[key] = row
    return list(longest.values())


# --- one tower -----------------------------------------------------------------------------


def tail_latency(row: Row) -> tuple[float | None, str | None]:
    """The highest latency quantile that enough calls back, else the slowest call, and its name."""
    for name, value in (("p99", row.p99_s), ("p95", row.p95_s), ("p90", row.p90_s)):
        if value is not None:
            return value, name
    return (row.max_s, "max") if row.max_s is not None else (None, None)


def _option(row: Row, targets: Targets, machine: Machine) -> Option:
    latency, quantile = tail_latency(row)
    # Capacity counts every call, the slow ones too; the median would promise more than it keeps.
    rate = row.cell.batch / row.mean_s if row.mean_s else None
    option = Option(
        cell=row.cell,
        env_id=row.env_id,
        random_weights=row.random_weights,
        unstable=row.stable is False,
        rate_per_s=rate,
        latency_s=latency,
        latency_quantile=quantile,
        rss_peak_bytes=row.rss_peak_bytes,
        vram_peak_bytes=row.vram_peak_bytes,
        load=targets.of(row.cell.side) / (rate * targets.utilisation) if rate else None,
        replicas=None,
        per_machine=None,
    )
    return _limited(option, row.problems, targets, machine)


def _limited(option: Option, problems: Sequence[str], targets: Targets, machine: Machine) -> Option:
    """Fill in the replicas, or the limits that the option breaks."""
    broken = list(problems)
    if option.load is None and not broken:
        broken.append("not timed: only a memory pass is stored")
    if targets.slo_s is not None and option.latency_s is not None:
        over = option.latency_s - targets.slo_s
        if over > 0:
            broken.append(
                f"SLO: {option.latency_quantile} {units.seconds(option.latency_s)} is "
                f"{units.seconds(over)} over {units.seconds(targets.slo_s)}"
            )
    broken += _over("RAM", option.rss_peak_bytes, machine.ram_bytes, targets.ram_bytes)
    if not option.cell.device.startswith("cpu"):
        broken += _over("VRAM", option.vram_peak_bytes, machine.vram_bytes, targets.vram_bytes)
    if machine.cores is not None and option.cell.threads > machine.cores:
        more = option.cell.threads - machine.cores
        broken.append(
            f"cores: {option.cell.threads} threads are {more} more than the machine's "
            f"{machine.cores}"
        )
    if broken or option.load is None:
        return dataclasses.replace(option, broken=tuple(broken))
    # The slack keeps 70 / (100 x 0.7) at one replica, whatever binary fractions make of it.
    replicas = max(1, math.ceil(option.load - 1e-9))
    return dataclasses.replace(
        option, replicas=replicas, per_machine=machine.capacity(load_of(option))
    )


def _over(name: str, needed: int | None, has: int | None, asked: int | None) -> list[str]:
    if needed is None:
        unknown = f"{name}: not measured, so the budget cannot be checked"
        return [unknown] if asked is not None else []
    if has is None or needed <= has:
        return []
    return [
        f"{name}: one replica peaks at {units.size(needed)}, {units.size(needed - has)} over "
        f"{units.size(has)}"
    ]


def load_of(option: Option) -> Load:
    """What one replica takes of a machine."""
    return Load(
        threads=option.cell.threads,
        ram_bytes=option.rss_peak_bytes or 0,
        vram_bytes=option.vram_peak_bytes or 0,
        gpu=not option.cell.device.startswith("cpu"),
        replicas=option.replicas or 0,
        need=option.load or 0.0,
        latency_s=option.latency_s or 0.0,
    )


# --- both towers ---------------------------------------------------------------------------


def _best_plan(passing: Sequence[Option], targets: Targets, machine: Machine) -> Plan | None:
    """The cheapest pair of one model's options, or None where a wanted tower has none."""
    sides: list[list[Option | None]] = []
    for side in ("image", "text"):
        found: list[Option | None] = [o for o in passing if o.cell.side == side]
        sides.append(found if targets.of(side) > 0 else [None])
    plans = [_plan(i, t, targets, machine) for i in sides[0] for t in sides[1]]
    return min(plans, key=_plan_order, default=None)


def _plan(image: Option | None, text: Option | None, targets: Targets, machine: Machine) -> Plan:
    chosen = [o for o in (image, text) if o is not None]
    loads = [load_of(o) for o in chosen]
    filled = pack(loads, machine, targets.slo_s)
    memory: int | None = None
    fullest: int | None = None
    if all(o.rss_peak_bytes is not None for o in chosen):
        memory = sum(load.ram_bytes * load.replicas for load in loads)
        fullest = max(
            sum(n * load.ram_bytes for n, load in zip(counts, loads, strict=True))
            for _, counts in filled
        )
    known = fullest is not None and machine.ram_bytes is not None
    return Plan(
        rank=0,
        env_id=chosen[0].env_id,
        model_id=chosen[0].cell.model_id,
        random_weights=any(o.random_weights for o in chosen),
        image=image,
        text=text,
        machines=sum(number for number, _ in filled),
        memory_bytes=memory,
        fullest_bytes=fullest,
        headroom_bytes=(machine.ram_bytes or 0) - (fullest or 0) if known else None,
    )


def _plan_order(plan: Plan) -> tuple:
    """Fewest machines, then least memory (unknown last), then fewest replicas, then names."""
    chosen = [o for o in (plan.image, plan.text) if o is not None]
    memory = math.inf if plan.memory_bytes is None else plan.memory_bytes
    replicas = sum(o.replicas or 0 for o in chosen)
    return (plan.machines, memory, replicas, plan.model_id, [cell_order(o.cell) for o in chosen])


def _ranked(plans: Sequence[Plan], env_ids: Sequence[str]) -> list[Plan]:
    """Ranks count within an environment: machines of different kinds have different prices."""
    ranked = []
    for env_id in env_ids:
        mine = sorted((p for p in plans if p.env_id == env_id), key=_plan_order)
        ranked += [dataclasses.replace(p, rank=i) for i, p in enumerate(mine, start=1)]
    return ranked


# --- words ---------------------------------------------------------------------------------


def _with_notes(plan: Plan, targets: Targets, results: Sequence[ResultFile]) -> Plan:
    notes = []
    chosen = [o for o in (plan.image, plan.text) if o is not None]
    for o in chosen:
        if o.unstable:
            notes.append(f"the {o.cell.side} row is unstable")
        if o.rss_peak_bytes is None:
            notes.append(f"RAM of the {o.cell.side} tower was not measured")
        fill_s = o.cell.batch / targets.of(o.cell.side)
        if targets.slo_s is not None and o.cell.batch > 1 and fill_s > targets.slo_s:
            notes.append(
                f"at this rate one batch of {o.cell.batch} {o.cell.side}s takes "
                f"{units.seconds(fill_s)} to arrive, longer than the SLO"
            )
    notes += _accuracy_notes(plan, chosen, results)
    return dataclasses.replace(plan, notes=tuple(dict.fromkeys(notes)))


def _accuracy_notes(
    plan: Plan, chosen: Sequence[Option], results: Sequence[ResultFile]
) -> list[str]:
    if plan.random_weights:
        return ["random weights: cost only, accuracy unknown"]
    notes = []
    for engine in dict.fromkeys(o.engine for o in chosen):
        scores = [
            s
            for s in merge_scores(results)
            if (s.cell.model_id, f"{s.cell.runtime} {s.cell.precision}") == (plan.model_id, engine)
        ]
        verdicts = {findings.accuracy_verdict(s) for s in scores}
        lost = sorted({s.dataset for s in scores if findings.accuracy_verdict(s) == "lost"})
        if lost:
            notes.append(f"{engine} loses accuracy on {findings.listed(lost)}")
        elif not verdicts & {"kept", "baseline"} and not engine.endswith("fp32"):
            notes.append(f"accuracy of {engine} was not confirmed: run `clipperf eval`")
    if len({o.engine for o in chosen}) > 1:
        notes.append("the two towers run differently: evaluate them together before use")
    return notes


def _assumptions(targets: Targets, options: Sequence[Option]) -> list[str]:
    quantiles = sorted({o.latency_quantile for o in options if o.latency_quantile} - {"p99"})
    share = units.share(targets.utilisation)
    told = [
        f"Replicas = target / (measured rate x {share} utilisation), rounded up. The rate counts "
        f"every timed call, slow ones too, so it may lie under the median-based one of the cost "
        f"table.",
        "Each replica was measured alone. That several on one machine do not slow each other is "
        "assumed: confirm it with a load test.",
        "The SLO is held against the latency of one batch: waiting in a queue, and for a batch to "
        "fill, is not modelled.",
        "A machine takes as many replicas as its cores, RAM and VRAM hold; one tower is placed "
        "densely, the other fills the gaps. A GPU runs one replica of a tower, and both towers "
        "only where their loads together fit it.",
    ]
    if quantiles:
        told.append(
            f"p99 is not backed by enough calls in every row; latency is then the highest backed "
            f"quantile, or the slowest call (here: {', '.join(quantiles)})."
        )
    tokens = sorted({o.cell.tokens for o in options if o.cell.tokens is not None})
    if tokens:
        lengths = findings.listed([str(t) for t in tokens])
        told.append(f"Texts are {lengths} tokens long, the longest that were measured.")
    return told
