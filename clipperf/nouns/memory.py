"""How the peak of memory grows with the batch, and the largest batch that follows for a limit."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from clipperf import units
from clipperf.nouns.cell import Cell

if TYPE_CHECKING:
    from clipperf import stats

R = TypeVar("R")

LARGEST_BATCH = "largest-batch"
"""The scenario: batches whose peak was foreseen are run once, within the limit."""

FEWEST_BATCHES = 4
"""With fewer a line would fit whatever was measured, and its residuals would say nothing."""

FURTHEST = 8
"""No batch of more than so many times the largest measured one is foreseen."""

What = Literal["RAM", "VRAM"]

Peak = tuple[int, int | None, int]
"""A batch, the tokens of its texts, and the bytes at its peak."""


@dataclass(frozen=True)
class MemoryFit:
    """Peak bytes of a batch as weights + base + (per_item + per_token * tokens) * batch.

    Fitted by least squares. `weights_bytes` is the tower's size on disk; `base_bytes` all else that
    does not grow, below 0 where not all of the weights were in memory at once, and all of it where
    the size on disk is not known. `residual_bytes` is the largest distance of a point from the
    line, `batches` those that it is from, and `lengths` the texts' where these differ; else
    `per_token_bytes` is 0 and an input of the only length takes `per_item_bytes`. `tokens` is the
    longest of the lengths, None of images. `reach` is how far a further run lies from the line.
    """

    weights_bytes: int | None
    base_bytes: float
    per_item_bytes: float
    residual_bytes: float
    batches: tuple[int, ...]
    reach: stats.Reach
    per_token_bytes: float = 0.0
    lengths: tuple[int, ...] = ()
    tokens: int | None = None

    def each(self, tokens: int | None = None) -> float:
        """The bytes that one more input takes."""
        return self.per_item_bytes + self.per_token_bytes * (tokens or 0)

    def at(self, batch: float, tokens: int | None = None) -> float:
        """The line's bytes at a batch."""
        return (self.weights_bytes or 0) + self.base_bytes + self.each(tokens) * batch

    def grows(self, tokens: int | None = None) -> bool:
        """Whether the batches that were measured differ by more than their distance from it."""
        return self.each(tokens) * (self.batches[-1] - self.batches[0]) > self.residual_bytes

    def margin(self, batch: float, tokens: int | None = None) -> float:
        """The bytes above the line below which 97.5 % of runs of this batch stay.

        Of a line: what bends beyond the measured batches is not known from them.
        """
        return self.reach.at(_terms(batch, tokens, bool(self.lengths)))

    def largest(self, limit_bytes: int, tokens: int | None = None) -> int | None:
        """The largest batch whose peak is within a limit though it is its margin above the line.

        0 where not even one is; None where the line does not grow, so that nothing follows. At
        most FURTHEST times the largest that was measured.
        """
        if not self.grows(tokens):
            return None

        # A byte more keeps what fits exactly from falling to the batch below.
        def fits(batch: int) -> bool:
            return self.at(batch, tokens) + self.margin(batch, tokens) <= limit_bytes + 1

        last = self.batches[-1]
        if not fits(last):
            return next((batch for batch in range(last - 1, 0, -1) if fits(batch)), 0)
        # Line and margin are convex: beyond a batch that fits there is one where it ends.
        beyond = range(last, FURTHEST * last + 1)
        return beyond[bisect.bisect_left(beyond, True, key=lambda batch: not fits(batch)) - 1]

    @property
    def words(self) -> str:
        """The line in words."""
        known = self.weights_bytes is not None
        weights = f"{units.size(self.weights_bytes or 0)} of weights " if known else ""
        base, item, token, residual = (
            units.size(round(abs(each)))
            for each in (
                *(self.base_bytes, self.per_item_bytes, self.per_token_bytes),
                self.residual_bytes,
            )
        )
        sign = "-" if self.base_bytes < 0 else "+"
        start = f"{weights}{sign} {base}" if known else base if sign == "+" else f"-{base}"
        more = f"{'-' if self.per_item_bytes < 0 else '+'} {item} an input"
        if self.lengths:
            more += f" {'-' if self.per_token_bytes < 0 else '+'} {token} a token of it"
        return f"{start} {more}, largest residual {residual}"


def memory_fit(points: Sequence[tuple[int, int]], weights_bytes: int | None) -> MemoryFit | None:
    """The line through peaks (batch, bytes); None for fewer than FEWEST_BATCHES batches."""
    return plane_fit([(batch, None, peak) for batch, peak in points], weights_bytes)


def plane_fit(points: Sequence[Peak], weights_bytes: int | None) -> MemoryFit | None:
    """As `memory_fit`, of texts of several lengths by these as well.

    Lengths of fewer than FEWEST_BATCHES batches are left out; None where that leaves none.
    """
    from clipperf import stats

    every: dict[int | None, set[int]] = {}
    for batch, tokens, _ in points:
        every.setdefault(tokens, set()).add(batch)
    lengths = {each: found for each, found in every.items() if len(found) >= FEWEST_BATCHES}
    if not lengths:
        return None
    several = len(lengths) > 1
    kept = [point for point in points if point[1] in lengths]
    known = [(float(b), float(b * (tokens or 0)), float(y)) for b, tokens, y in kept]
    if several:
        start, item, token = stats.fitted_plane(known)
    else:
        start, item = stats.fitted_line([b for b, _, _ in known], [y for _, _, y in known])
        token = 0.0
    residuals = [y - (start + item * b + token * bt) for b, bt, y in known]
    terms = [_terms(batch, tokens, several) for batch, tokens, _ in kept]
    return MemoryFit(
        weights_bytes,
        start - (weights_bytes or 0),
        item,
        max(map(abs, residuals)),
        tuple(sorted(set().union(*lengths.values()))),
        stats.reach_of(terms, residuals),
        token,
        tuple(sorted(length or 0 for length in lengths)) if several else (),
        max((length for length in lengths if length is not None), default=None),
    )


def _terms(batch: float, tokens: int | None, several: bool) -> tuple[float, ...]:
    """What a peak is a sum of shares of; `several` lengths of texts have one by tokens, too."""
    return (1.0, batch, batch * (tokens or 0)) if several else (1.0, batch)


class Held(Protocol):
    """What is known of the memory of a cell."""

    @property
    def cell(self) -> Cell:
        """The cell."""
        ...

    @property
    def disk_bytes(self) -> int | None:
        """Its tower's size on disk."""
        ...

    @property
    def rss_peak_bytes(self) -> int | None:
        """Its peak of RAM."""
        ...

    @property
    def vram_peak_bytes(self) -> int | None:
        """Its peak of VRAM."""
        ...


def peak_of(row: Held, what: What) -> int | None:
    """The peak of RAM or of VRAM, in bytes; None where it was not measured."""
    return row.rss_peak_bytes if what == "RAM" else row.vram_peak_bytes


@dataclass(frozen=True)
class Line:
    """A tower's peaks over the batch: the `batches` that were measured, and what fits these.

    `fit` is None where they were too few. `tokens` is the length of the texts that it is asked
    about, the longest of those that are in the fit, and `peaks` the most bytes of each batch of it.
    """

    batches: tuple[int, ...]
    fit: MemoryFit | None
    peaks: Mapping[int, int]

    @property
    def tokens(self) -> int | None:
        """See the class."""
        return None if self.fit is None else self.fit.tokens

    def largest(self, limit_bytes: int) -> int | None:
        """See `MemoryFit.largest`, but never less than what was measured within the limit.

        Where the line does not grow, what was measured answers alone if any of it is over the
        limit. None without a fit, too.
        """
        if self.fit is None:
            return None
        told = self.fit.largest(limit_bytes, self.tokens)
        kept = [batch for batch, peak in self.peaks.items() if peak <= limit_bytes]
        if told is None and len(kept) == len(self.peaks):
            return None
        return max(told or 0, *kept, 0)

    def at(self, batch: int | None) -> float | None:
        """The bytes at a batch; None without one, or without a fit."""
        return self.fit.at(batch, self.tokens) if self.fit is not None and batch else None

    def margin(self, batch: int | None) -> float | None:
        """See `MemoryFit.margin`; None without a batch, or without a fit."""
        return self.fit.margin(batch, self.tokens) if self.fit is not None and batch else None


def line_of(rows: Iterable[Held], what: What) -> Line:
    """The line through one tower's peaks. `rows` are those of memory passes that ended well.

    A pass that did not end well has a peak, too, of as far as it came.
    """
    known = [(row, peak) for row in rows if (peak := peak_of(row, what)) is not None]
    points = [(row.cell.batch, row.cell.tokens, peak) for row, peak in known]
    disk_bytes = next((row.disk_bytes for row, _ in known if row.disk_bytes is not None), None)
    fit = plane_fit(points, disk_bytes)
    peaks: dict[int, int] = {}
    for batch, tokens, peak in points:
        if fit is not None and tokens == fit.tokens:
            peaks[batch] = max(peak, peaks.get(batch, 0))
    return Line(tuple(sorted({batch for batch, _, _ in points})), fit, peaks)


def tower_of(cell: Cell) -> Cell:
    """A cell of batch 1 and no tokens, which those that differ in these alone have in common."""
    return dataclasses.replace(cell, batch=1, tokens=None)


def by_tower(rows: Iterable[R], cell: Callable[[R], Cell]) -> dict[Cell, list[R]]:
    """Rows that differ in batch and tokens alone, under their `tower_of`."""
    found: dict[Cell, list[R]] = {}
    for row in rows:
        found.setdefault(tower_of(cell(row)), []).append(row)
    return found


@dataclass(frozen=True)
class Foreseen:
    """What a line said of a batch before it was run under a limit: the largest that keeps to it.

    Bytes of RAM or VRAM. `residual_bytes` is the margin that was kept (`MemoryFit.margin`; of
    files that were written before it grew with the batch, the largest residual), `batches` those
    that the line is from.
    """

    what: What
    limit_bytes: int
    peak_bytes: float
    residual_bytes: float
    batches: tuple[int, ...]
