"""Which rows of two sets of results belong together, and which only one of them has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from clipperf import stats, units
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Measurement, ResultFile, Score
from clipperf.report import serving
from clipperf.report.accuracy import judged
from clipperf.report.from_files import Line, lines_of
from clipperf.report.pairs import SETUP, alike, took_turns
from clipperf.report.records import Row, cell_order, in_order, merge, merge_scores
from clipperf.report.words import driven
from clipperf.text import one_line

R = TypeVar("R", Row, Score)


@dataclass(frozen=True)
class Setup:
    """A way to run a tower, of those that one set of results holds."""

    runtime: str
    precision: str
    input: str

    def has(self, cell: Cell) -> bool:
        """Whether a cell is run so; what images are fed as says nothing of texts."""
        same = (cell.runtime, cell.precision) == (self.runtime, self.precision)
        return same and (cell.side == "text" or cell.input == self.input)


Between = tuple[Setup, Setup]
"""The setups of A and of B, where these are to differ."""


@dataclass(frozen=True)
class Pair(Generic[R]):
    """What A and B know of one cell; `one_file` says that both are from the same."""

    a: R
    b: R
    one_file: bool = False

    @property
    def cell(self) -> Cell:
        """The cell; B's where the two differ."""
        return self.b.cell

    @property
    def env_id(self) -> str:
        """B's machine."""
        return self.b.env_id

    @property
    def random_weights(self) -> bool:
        """Whether the weights are noise."""
        return self.a.random_weights or self.b.random_weights

    @property
    def setup(self) -> str:
        """Runtime and precision, of both where they differ."""
        ours, theirs = self.b.cell.setup, self.a.cell.setup
        return ours if ours == theirs else f"{ours} over {theirs}"

    @property
    def name(self) -> str:
        """What the row is called in a sentence."""
        return cell_name(self.cell, self.setup)


@dataclass(frozen=True)
class Matched(Generic[R]):
    """Rows of both, in the order of the cost tables, and those that only one has.

    `crowded` counts cells that were measured on several machines, of which one was taken.
    """

    pairs: tuple[Pair[R], ...]
    only_a: tuple[R, ...]
    only_b: tuple[R, ...]
    crowded: int = 0


def cell_name(cell: Cell, setup: str = "") -> str:
    """A cell in a sentence, with all that it may differ in from others; `setup` in place of its."""
    tokens = "" if cell.tokens is None else f", {cell.tokens} tokens"
    where = f"{cell.model_id} {cell.side} {setup or cell.setup} {cell.device} batch {cell.batch}"
    threads = "" if cell.is_remote else f", {cell.threads} threads"
    return f"{where}{tokens}{threads}{driven(cell)}"


def score_name(score: Score, setup: str = "") -> str:
    """A figure of accuracy in a sentence; `setup` in place of its cell's."""
    cell, group = score.cell, f", {score.group}" if score.group else ""
    where = f"{cell.model_id} {setup or cell.setup} {cell.device}"
    return f"{where}, {score.dataset}, {score.metric}{group}"


def rows_of(results: Sequence[ResultFile], beside: Sequence[ResultFile] = ()) -> list[Row]:
    """All rows of costs; each way from files to vectors is one of a scenario of its own, and so is
    each bound and server of inputs that were offered.

    A cell that failed is a row of each way in which results `beside` these have it. A server is
    known by its URL where results `beside` these have the same, else by its host.
    """
    rows = merge(results)
    known = lines_of(beside) if beside else []
    for line in lines_of(results):
        ways = [way_of(line)]
        if line.run is None:
            others = (way_of(other) for other in known if other.run and other.cell == line.cell)
            ways = list(dict.fromkeys(others)) or ways
        rows += [_row_of(line, way) for way in ways]
    offered = serving.lines_of(beside) if beside else []
    urls = {line.endpoint.url for line in offered if line.endpoint}
    rows += [served_row(line, urls) for line in serving.lines_of(results)]
    return sorted(rows, key=lambda row: cell_order(row.cell))


def way_of(line: Line) -> str:
    """The scenario of one way from files to vectors."""
    if line.run is None:
        return line.cell.scenario
    return f"{line.cell.scenario}, {line.method} on {line.threads} threads"


def _row_of(line: Line, way: str) -> Row:
    """One way from files to vectors, timed from one batch's end to the next one's."""
    cell = dataclasses.replace(line.cell, scenario=way)
    row = Row(cell, line.env_id, line.random_weights, line.measured.status)
    if line.measured.error:
        row = dataclasses.replace(row, problems=(one_line(line.measured.error),))
    if line.run is None or not line.run.batch_s:
        return row
    batch_s = tuple(line.run.batch_s)
    timed = Measurement(cell, "time", "ok", line.env_id, run_s=batch_s, blocks=line.run.blocks)
    return dataclasses.replace(
        row,
        samples=len(batch_s),
        p50_s=stats.median(batch_s),
        p90_s=stats.quantile(batch_s, 0.90),
        p99_s=stats.quantile(batch_s, 0.99),
        items_per_s=line.images_per_s,
        stable=line.run.stable,
        source=-1,
        time=timed,
    )


def served_row(line: serving.Line, urls: Collection[str] = ()) -> Row:
    """What a cell gave under the load that was offered; no rate that held is a failure.

    A server whose URL is not among `urls` may listen on another port than it did.
    Its quantiles are of answers to single inputs. LoadGen keeps no blocks to draw anew.
    """
    asked, endpoint, trial = line.serving, line.endpoint, line.trial
    words = [line.cell.scenario]
    if asked is not None and asked.slo_s is not None:
        words.append(f"{units.share(asked.percentile)} within {units.seconds(asked.slo_s)}")
    if endpoint is not None:
        at = endpoint if endpoint.url in urls else dataclasses.replace(endpoint, url=endpoint.host)
        words.append(at.label)
    cell = dataclasses.replace(line.cell, scenario=", ".join(words))
    status = line.measured.status if line.measured.status != "ok" or trial else "failed"
    row = Row(cell, line.env_id, line.random_weights, status, source=-1)
    if trial is None:
        return dataclasses.replace(row, problems=(serving.verdict(line),))
    return dataclasses.replace(
        row,
        samples=trial.queries,
        p50_s=line.latency_s(50),
        p90_s=line.latency_s(90),
        p99_s=line.latency_s(99),
        items_per_s=trial.rate_per_s,
    )


def matched_rows(
    a: Sequence[ResultFile], b: Sequence[ResultFile], between: Between | None = None
) -> Matched[Row]:
    """The cells that both have, all fields alike but those of `SETUP` where `between` is given.

    Raises:
        UsageError: one of them holds nothing.
    """
    files_a, files_b = in_order(a), in_order(b)

    def one_file(ours: Row, theirs: Row) -> bool:
        if min(ours.source, theirs.source) < 0:
            return False
        first, second = files_a[ours.source], files_b[theirs.source]
        return (first.path, first.created_utc) == (second.path, second.created_utc)

    def key(row: Row) -> Hashable:
        return row.cell if between is None else alike(row.cell, *SETUP)

    return _matched(_kept(rows_of(a, b), rows_of(b, a), between), key, one_file)


def matched_scores(
    a: Sequence[ResultFile], b: Sequence[ResultFile], between: Between | None = None
) -> Matched[Score]:
    """The figures of accuracy that both have on the same data, whatever the load.

    Figures of which neither more nor less is better are left out.
    """

    def key(score: Score) -> Hashable:
        whose = judged(score.cell) if between is None else _model(score.cell)
        return whose, score.dataset, score.dataset_sha256, score.metric, score.group

    def high(results: Sequence[ResultFile]) -> list[Score]:
        return [score for score in merge_scores(results) if score.aim == "high"]

    return _matched(_kept(high(a), high(b), between), key, lambda ours, theirs: False)


def _model(cell: Cell) -> Hashable:
    return cell.model_id, cell.device


def _kept(a: list[R], b: list[R], between: Between | None) -> tuple[list[R], list[R]]:
    """The rows of both, of the setups that are asked for."""
    if between is None:
        return a, b
    first, second = between
    return [r for r in a if first.has(r.cell)], [r for r in b if second.has(r.cell)]


def _matched(
    rows: tuple[list[R], list[R]],
    key: Callable[[R], Hashable],
    one_file: Callable[[R, R], bool],
) -> Matched[R]:
    a, b = (_by(key, each) for each in rows)
    pairs, crowded = [], 0
    for which in b:
        if which in a:
            ours, theirs = chosen(a[which], b[which])
            crowded += max(len({r.env_id for r in side[which]}) for side in (a, b)) > 1
            pairs.append(Pair(ours, theirs, one_file(ours, theirs)))
    only_a = tuple(found[-1] for which, found in a.items() if which not in b)
    only_b = tuple(found[-1] for which, found in b.items() if which not in a)
    return Matched(tuple(pairs), only_a, only_b, crowded)


def _by(key: Callable[[R], Hashable], rows: Sequence[R]) -> dict[Hashable, list[R]]:
    found: dict[Hashable, list[R]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def chosen(a: Sequence[R], b: Sequence[R]) -> tuple[R, R]:
    """One row of each: of the newest machine that both have, else of the newest of each."""
    ours = {row.env_id: row for row in a}
    both = [row for row in b if row.env_id in ours]
    return (ours[both[-1].env_id], both[-1]) if both else (a[-1], b[-1])


def in_turns(pair: Pair[Row]) -> bool:
    """Whether the two took turns block by block in one run."""
    ours, theirs = pair.b.time, pair.a.time
    if not pair.one_file or ours is None or theirs is None:
        return False
    return took_turns(ours, theirs)
