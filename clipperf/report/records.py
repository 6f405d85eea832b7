"""From result files to one record per measured cell: merged, paired and free of NaN.

Several files may hold the same cell. The newest one measured in the same environment wins, pass
by pass (time and memory); environments are never mixed. A ratio is taken only between cells that
took turns in one run: same file, same `group`, blocks of equal number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipperf import stats
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import CrossScore, Environment, Measurement, ResultFile, Score
from clipperf.nouns.variant import BASELINE_RUNTIME, PRECISIONS
from clipperf.report.pairs import (
    SETUP,
    alike,
    baseline_of,
    block_ratio,
    rate_of,
    took_turns,
    torch_at,
    usable_samples,
)
from clipperf.report.table import Interval
from clipperf.text import one_line

RESOLVABLE_GAP = 0.10
"""Differences of speed below this share are not called: machines drift by as much."""


@dataclass(frozen=True)
class Row:
    """Everything known about one cell in one environment; None where not measured.

    `*_interval` are 95 % intervals. `ratio` is the speed-up over `ratio_baseline` (2.0 means half
    the time), whose row was `baseline_stable` or not, `peer_ratio` that over PyTorch in the same
    precision where it took turns, too.
    `rss_delta_bytes` is the peak over the bare worker, of several instances the sum of that.
    `problems` are the reasons of failed passes
    and of samples that were thrown away. `source` numbers the file of the time pass.
    """

    cell: Cell
    env_id: str
    random_weights: bool
    time_status: str | None = None
    memory_status: str | None = None
    samples: int = 0
    load_s: float | None = None
    first_run_s: float | None = None
    p50_s: float | None = None
    p50_interval_s: Interval | None = None
    p90_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    max_s: float | None = None
    mean_s: float | None = None
    items_per_s: float | None = None
    items_interval: Interval | None = None
    stable: bool | None = None
    disk_bytes: int | None = None
    rss_bare_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_delta_bytes: int | None = None
    vram_peak_bytes: int | None = None
    vram_source: str | None = None
    vram_allocated_bytes: int | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    ratio_baseline: Cell | None = None
    baseline_stable: bool | None = None
    peer_ratio: float | None = None
    peer_interval: Interval | None = None
    problems: tuple[str, ...] = ()
    source: int = 0
    time: Measurement | None = field(default=None, repr=False)

    @property
    def setup(self) -> str:
        """Runtime and precision as people say it: "onnx int8"; see `Cell.setup`."""
        return self.cell.setup

    @property
    def failed(self) -> bool:
        """Whether a pass failed, or the runtime cannot do this cell."""
        return {self.time_status, self.memory_status} & {"failed", "unsupported"} != set()


def finite(value: float | None) -> float | None:
    """`value`, or None where it is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _rows(result: ResultFile) -> list[Measurement | Score | CrossScore]:
    """All rows of a file."""
    return [*result.measurements, *result.scores, *result.crossed]


def in_order(results: Sequence[ResultFile]) -> list[ResultFile]:
    """The files, oldest first.

    Raises:
        UsageError: there is nothing in them.
    """
    if not any(map(_rows, results)):
        raise UsageError(
            "no results to report: measure something with `clipperf profile MODEL`, "
            "or name result files that hold rows"
        )
    return sorted(results, key=lambda r: (r.created_utc, r.path))


def environments(results: Sequence[ResultFile]) -> dict[str, tuple[str, Environment | None]]:
    """Label ("E1", "E2", ...) and description of every environment, oldest first, by id."""
    found: dict[str, Environment | None] = {}
    for result in sorted(results, key=lambda r: (r.created_utc, r.path)):
        if _rows(result):
            for environment in result.environments:
                found.setdefault(environment.id, environment)
    for result in results:
        for row in _rows(result):
            env_id = row.score.env_id if isinstance(row, CrossScore) else row.env_id
            found.setdefault(env_id, None)
    return {env_id: (f"E{i}", env) for i, (env_id, env) in enumerate(found.items(), start=1)}


def labels_of(results: Sequence[ResultFile]) -> dict[str, str]:
    """The environments' labels by id; see `environments`."""
    return {env_id: label for env_id, (label, _) in environments(results).items()}


def merge(results: Sequence[ResultFile]) -> list[Row]:
    """One row per cell and environment, in the order in which tables print them.

    Raises:
        UsageError: no file holds anything.
    """
    ordered = in_order(results)
    random_models = {s.id for r in ordered for s in r.specs if s.random_weights}
    newest: dict[tuple[str, Cell], dict[str, tuple[int, Measurement]]] = {}
    for number, result in enumerate(ordered):
        for m in result.measurements:
            if m.kind not in ("time", "memory"):  # which are told by themselves
                continue
            key = (m.env_id, m.cell)
            newest.setdefault(key, {})[m.kind] = (number, m)
    rows = []
    for (env_id, cell), passes in newest.items():
        number, time = passes.get("time", (0, None))
        _, memory = passes.get("memory", (0, None))
        peers, known_random = ordered[number].measurements, cell.model_id in random_models
        rows.append(_row(env_id, cell, time, memory, peers, known_random, number))
    order = {env_id: i for i, env_id in enumerate(environments(results))}
    return sorted(rows, key=lambda r: (order[r.env_id], cell_order(r.cell)))


def cell_order(cell: Cell) -> tuple:
    """Sort key that puts rivals of one comparison side by side, PyTorch fp32 first."""
    return (
        cell.model_id,
        cell.side,
        cell.device,
        cell.tokens or 0,
        cell.threads,
        cell.streams,
        cell.instances,
        cell.scenario,
        cell.batch,
        *setup_order(cell),
    )


def setup_order(cell: Cell) -> tuple[bool, str, int, str, str]:
    """Sort key of a runtime, precision and input: the baseline first, then by name."""
    rank = PRECISIONS.rank(cell.precision)
    return (cell.runtime != BASELINE_RUNTIME, cell.runtime, rank, cell.precision, cell.input)


def _row(
    env_id: str,
    cell: Cell,
    time: Measurement | None,
    memory: Measurement | None,
    peers: Sequence[Measurement],
    known_random: bool,
    source: int,
) -> Row:
    passes = [m for m in (time, memory) if m is not None]
    problems = [
        f"{m.kind} pass {m.status}: {one_line(m.error or 'no reason was recorded')}"
        for m in passes
        if m.status != "ok"
    ]
    samples = usable_samples(time)
    if time is not None and time.status == "ok" and not samples:
        problems.append("time pass: no usable samples (none, or not finite, or not positive)")
    p50 = stats.median(samples) if samples else None
    p50_interval = stats.median_interval(samples)
    items, items_interval = rate_of(cell, time, samples)
    baseline = baseline_of(time, peers) if time else None
    twin = torch_at(cell.precision, time, peers) if time else None
    ratio, interval = _ratio(time, baseline)
    peer_ratio, peer_interval = (ratio, interval) if twin is baseline else _ratio(time, twin)
    blank = Measurement(cell, "time", "ok", env_id)
    timed, held = time or blank, memory or blank
    bare, peak = held.rss_bare_bytes, held.rss_peak_bytes
    shared = held.rss_shared_bytes or 0  # off the peak of several, not off their bare processes
    return Row(
        cell=cell,
        env_id=env_id,
        random_weights=known_random or any(m.random_weights for m in passes),
        time_status=time.status if time else None,
        memory_status=memory.status if memory else None,
        samples=len(samples),
        load_s=finite(timed.load_s),
        first_run_s=finite(timed.first_run_s),
        p50_s=p50,
        p50_interval_s=p50_interval,
        p90_s=stats.quantile(samples, 0.90),
        p95_s=stats.quantile(samples, 0.95),
        p99_s=stats.quantile(samples, 0.99),
        max_s=max(samples, default=None),
        mean_s=math.fsum(samples) / len(samples) if samples else None,
        items_per_s=items,
        items_interval=items_interval,
        stable=timed.stable,
        disk_bytes=next((m.disk_bytes for m in passes if m.disk_bytes is not None), None),
        rss_bare_bytes=bare,
        rss_peak_bytes=peak,
        rss_delta_bytes=peak + shared - bare if peak is not None and bare is not None else None,
        vram_peak_bytes=held.vram_peak_bytes,
        vram_source=held.vram_source,
        vram_allocated_bytes=held.vram_allocated_bytes,
        ratio=ratio,
        ratio_interval=interval,
        ratio_baseline=baseline.cell if baseline and ratio is not None else None,
        baseline_stable=baseline.stable if baseline and ratio is not None else None,
        peer_ratio=peer_ratio,
        peer_interval=peer_interval,
        problems=tuple(problems),
        source=source,
        time=time,
    )


def _ratio(
    time: Measurement | None, other: Measurement | None
) -> tuple[float | None, Interval | None]:
    """Speed over another pass that took turns, with its interval; two Nones without one."""
    return (block_ratio(time, other) if time and other else None) or (None, None)


def speed_ratio(ours: Row, theirs: Row) -> tuple[float, Interval | None] | None:
    """Speed of one row over another where they took turns in one run, else None.

    PyTorch may have taken turns in several groups of a run: then its own row shows the last, and
    a rival's ratio is the one of their common group.
    """
    if alike(ours.cell, *SETUP) != alike(theirs.cell, *SETUP):
        return None
    if ours.time is None or theirs.time is None or ours.env_id != theirs.env_id:
        return None
    if ours.source != theirs.source:
        return None
    if ours.ratio is not None and ours.ratio_baseline == theirs.cell:
        return ours.ratio, ours.ratio_interval
    if theirs.ratio is not None and theirs.ratio_baseline == ours.cell:
        ends = theirs.ratio_interval
        return 1 / theirs.ratio, (1 / ends[1], 1 / ends[0]) if ends else None
    return block_ratio(ours.time, theirs.time) if took_turns(ours.time, theirs.time) else None


def merge_scores(results: Sequence[ResultFile]) -> list[Score]:
    """The newest score of each cell, dataset (by content) and metric in each environment.

    A score of a model whose spec says random weights is marked so.

    Raises:
        UsageError: no file holds anything.
    """
    ordered = in_order(results)
    random_models = {s.id for r in ordered for s in r.specs if s.random_weights}
    newest: dict[tuple, Score] = {}
    for result in ordered:
        for score in result.scores:
            marked = score.random_weights or score.cell.model_id in random_models
            key = (score.env_id, score.cell, score.dataset, score.dataset_sha256, score.metric)
            newest[key] = dataclasses.replace(score, random_weights=marked)
    order = {env_id: i for i, env_id in enumerate(environments(results))}
    # Metrics keep the order in which the evaluation wrote them: the main one comes first.
    names = dict.fromkeys(s.metric for r in ordered for s in r.scores)
    metrics = {name: place for place, name in enumerate(names)}
    return sorted(
        newest.values(),
        key=lambda s: (
            order[s.env_id],
            s.cell.model_id,
            s.dataset,
            s.dataset_sha256,
            metrics[s.metric],
            cell_order(s.cell),
        ),
    )
