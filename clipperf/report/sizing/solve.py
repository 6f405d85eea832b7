"""How many machines a target load needs, from stored rows; nothing is measured here.

Per tower: a replica is one process as it was measured (its threads, its peak RAM). Replicas =
ceil(target / (held rate x utilisation)) and the spare ones. Per model: the image and the text
tower may run in different configurations, because any of them gives embeddings of the same space,
but never in different models. Machines are of the kinds that were measured; where their prices are
known, each tower may have a kind of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from clipperf.errors import UsageError
from clipperf.models.speeds import hardware_named
from clipperf.nouns.result import Environment, ResultFile
from clipperf.nouns.variant import SIDES
from clipperf.report.largest import Largest, largest_of, without_line
from clipperf.report.records import cell_order, environments, merge, merge_scores
from clipperf.report.serving import lines_of
from clipperf.report.sizing import deployments
from clipperf.report.sizing.assumed import assume, published_machine
from clipperf.report.sizing.front import front
from clipperf.report.sizing.held import longest_texts
from clipperf.report.sizing.notes import assumptions, servers_left_out, with_notes
from clipperf.report.sizing.options import options_of
from clipperf.report.sizing.packing import Machine
from clipperf.report.sizing.prices import prices_of
from clipperf.report.sizing.quality import judge_of
from clipperf.report.sizing.service import harnesses
from clipperf.report.sizing.types import Deployment, Option, Sizing, Targets, check
from clipperf.report.words import listed


def size(results: Sequence[ResultFile], targets: Targets) -> Sizing:
    """Size every model of the result files for the targets.

    Raises:
        UsageError: the targets make no sense, or there is nothing to hold them against: no
            measurements, no scores of the accuracy that is asked for, a machine without a price.
    """
    check(targets)
    every_row, every_line = merge(results), lines_of(results)
    rows = longest_texts([r for r in every_row if targets.of(r.cell.side) > 0])
    offered = [line for line in every_line if targets.of(line.cell.side) > 0]
    lines = [line for line in offered if not line.cell.is_remote]
    if not rows and not lines:
        raise UsageError(
            "no measurements to size from: run `clipperf profile MODEL` first"
            + (f" ({servers_left_out(offered)})" if offered else "")
        )
    known = environments(results)
    machines = {env_id: machine_of(env, targets) for env_id, (_, env) in known.items()}
    scores = merge_scores(results)
    judge = judge_of(scores, targets)
    # What a harness costs is told by the tower that nothing is asked of, too.
    costs = harnesses(every_line, every_row) if targets.slo_s is not None else {}
    options = options_of(rows, lines, targets, machines, judge, costs)
    if not options:
        raise UsageError(
            "no measurements to size from: offline and single-stream scenarios do not say what is "
            "held when inputs come at random, run `clipperf profile MODEL` first"
        )
    away = {f"published {name}": name for name in map(hardware_named, targets.assume)}
    kinds = {**known, **{key: (key, published_machine(name)) for key, name in away.items()}}
    every_price = prices_of(targets.prices, kinds, [o.env_id for o in options], away)
    prices = {env_id: price for env_id, price in every_price.items() if env_id in known}
    passing = [o for o in options if not o.broken]
    plans: list[Deployment] = []
    every: list[Deployment] = []
    unmet: list[str] = []
    for env_id, model_id in dict.fromkeys((o.env_id, o.cell.model_id) for o in options):
        mine = [o for o in options if (o.env_id, o.cell.model_id) == (env_id, model_id)]
        found = [
            (plan, deployments.broken(plan, targets, judge))
            for plan in _pairs(mine, mine, targets, machines, prices)
        ]
        good = [plan for plan, broken in found if not broken]
        every += good
        if good:
            plans.append(min(good, key=_plan_order))
        else:
            where = f" ({known[env_id][0]})" if len(known) > 1 else ""
            unmet.append(f"{model_id}{where}: {_why_not(mine, [b for _, b in found], targets)}.")
    if prices:
        apart = [
            plan
            for plan in _apart(passing, targets, machines, prices)
            if not deployments.broken(plan, targets, judge)
        ]
        every += apart
        for model_id in dict.fromkeys(p.model_id for p in apart):
            plans.append(min((p for p in apart if p.model_id == model_id), key=_plan_order))
    ranked = _ranked(plans, list(known), bool(prices))
    told = [with_notes(p, targets, scores) for p in ranked]
    largest = _largest(results, targets)
    best = front(sorted(every, key=_plan_order))
    return Sizing(
        targets=targets,
        plans=tuple(told),
        options=tuple(passing),
        rejected=tuple(o for o in options if o.broken),
        unmet=tuple(unmet),
        assumptions=(
            *assumptions(targets, options, judge),
            *filter(None, [servers_left_out(offered), without_line(largest)]),
        ),
        front=tuple(_ranked(best, list(known), bool(prices))),
        assumed=tuple(
            plan
            for key, name in away.items()
            for plan in assume(name, longest_texts(merge(results)), targets, every_price.get(key))
        ),
        largest=tuple(largest),
    )


def _largest(results: Sequence[ResultFile], targets: Targets) -> list[Largest]:
    """The largest batches of the wanted towers within the budgets that are asked for."""
    if targets.ram_bytes is None and targets.vram_bytes is None:
        return []
    found = largest_of(results, targets.ram_bytes, targets.vram_bytes)
    # Limits that were checked as they were measured, and that nobody asks about now, are left out.
    limits = (None, targets.ram_bytes, targets.vram_bytes)
    return [e for e in found if targets.of(e.cell.side) > 0 and e.limit_bytes in limits]


def machine_of(environment: Environment | None, targets: Targets) -> Machine:
    """One machine: the measured one's cores, and the budgets given or else its memory."""
    return Machine(
        cores=environment.cores if environment else None,
        ram_bytes=targets.ram_bytes or (environment.ram_bytes if environment else None),
        vram_bytes=targets.vram_bytes or (environment.vram_bytes if environment else None),
    )


# --- both towers ---------------------------------------------------------------------------


def _pairs(
    images: Sequence[Option],
    texts: Sequence[Option],
    targets: Targets,
    machines: Mapping[str, Machine],
    prices: Mapping[str, float],
) -> list[Deployment]:
    """Every pair of passing options, or every single one where one tower is wanted."""
    sides: list[list[Option | None]] = []
    for side, options in zip(SIDES, (images, texts), strict=True):
        found: list[Option | None] = [o for o in options if o.cell.side == side and not o.broken]
        sides.append(found if targets.of(side) > 0 else [None])
    return [
        deployments.deployment(image, text, targets, machines, dict(prices))
        for image, text in itertools.product(*sides)
    ]


def _apart(
    passing: Sequence[Option],
    targets: Targets,
    machines: Mapping[str, Machine],
    prices: Mapping[str, float],
) -> list[Deployment]:
    """Every pair of one model whose towers are on different kinds of machines."""
    found = []
    if not (targets.images_per_s and targets.texts_per_s):
        return []
    env_ids = dict.fromkeys(o.env_id for o in passing)
    for model_id in dict.fromkeys(o.cell.model_id for o in passing):
        mine = {
            i: [o for o in passing if (o.env_id, o.cell.model_id) == (i, model_id)] for i in env_ids
        }
        for one, other in itertools.permutations(env_ids, 2):
            found += _pairs(mine[one], mine[other], targets, machines, prices)
    return found


def _why_not(options: Sequence[Option], pairs: Sequence[list[str]], targets: Targets) -> str:
    """Which tower has no configuration, or what two break together, by the limits that broke it."""
    missing = []
    for side in SIDES:
        mine = [o for o in options if o.cell.side == side]
        if targets.of(side) > 0 and all(o.broken for o in mine):
            missing.append((side, _limits([o.broken for o in mine])))
    if not missing:
        return f"no two towers pass together{_limits(pairs)}"
    said = " and ".join(f"no {side}" for side, _ in missing)
    limits = "".join(dict.fromkeys(limits for _, limits in missing)) if len(missing) == 1 else ""
    if len(missing) > 1:
        each = [f"{side}{limits}" for side, limits in missing if limits]
        limits = f": {listed(each)}" if each else ""
    return f"{said} configuration passes{limits}"


def _limits(broken: Sequence[Sequence[str]]) -> str:
    """ " (SLO breaks 3 of 4, RAM 1)": how many each limit breaks."""
    # In the order in which they were found, which that of a set would not be.
    names = [dict.fromkeys(b.partition(":")[0] for b in each) for each in broken]
    counts = Counter(name for each in names for name in each)
    if not counts:
        return ""
    (first, number), *rest = counts.most_common()
    more = "".join(f", {name} {count}" for name, count in rest)
    return f" ({first} breaks {number} of {len(broken)}{more})"


def _plan_order(plan: Deployment) -> tuple:
    """Lowest cost, fewest machines, least memory (unknown last), what carries more, the better
    accuracy (unknown last), fewest replicas, then names."""
    memory = math.inf if plan.memory_bytes is None else plan.memory_bytes
    replicas = sum(o.replicas or 0 for o in plan.towers)
    return (
        plan.per_month or 0.0,
        plan.machines,
        memory,
        -(plan.carries or 0.0),
        math.inf if plan.quality is None else -plan.quality.value,
        replicas,
        plan.model_id,
        [(cell_order(o.cell), o.env_id) for o in plan.towers],
    )


def _ranked(plans: Sequence[Deployment], env_ids: Sequence[str], priced: bool) -> list[Deployment]:
    """Ranks count within an environment, unless prices make machines of several comparable."""
    if priced:
        groups = [list(plans)]
    else:
        groups = [[p for p in plans if p.env_id == env_id] for env_id in env_ids]
    return [
        dataclasses.replace(plan, rank=rank)
        for group in groups
        for rank, plan in enumerate(sorted(group, key=_plan_order), start=1)
    ]
