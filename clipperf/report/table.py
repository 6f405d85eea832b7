"""Tables of typed values. A format turns them into its text; nothing reads them back from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipperf import units

Interval = tuple[float, float]

# fmt: off
Unit = Literal[
    "count", "number", "MiB", "GiB", "size", "ms", "s", "rate", "ratio", "share", "points",
    "millions", "cosine", "span", "words", "note", "verdict",
]
# fmt: on
"""What a value is, and with that how it reads. Numbers are SI: bytes, seconds, shares of one;
"span" is a value with its highest one as the interval's end. "words" say what a row is about, a
"note" how its measurement went, a "verdict" what came of it."""

OPEN = "∞"
"""An interval's end that nothing bounds."""

WORDS = frozenset(("words", "note", "verdict"))

Severity = Literal["good", "plain", "warn", "bad"]
SEVERITIES: tuple[Severity, ...] = ("good", "plain", "warn", "bad")

TEXTS: dict[str, Callable[[Any], str]] = {
    "count": str,
    "number": units.significant,
    "MiB": units.mib,
    "GiB": units.gib,
    "size": units.size,
    "ms": units.ms,
    "s": lambda value: units.significant(value, 2),
    "rate": units.rate,
    "ratio": units.ratio,
    "share": units.share,
    "points": units.points,
    "millions": units.millions,
    "cosine": "{:.5f}".format,
}
ENDS: dict[str, Callable[[Any], str]] = {"ratio": "{:.2f}".format, "share": units.percent}
"""How the ends of an interval read where the value's own sign is not repeated."""


@dataclass(frozen=True)
class Mark:
    """A word behind a value: `text` among other text, or the `label` where it can be set apart."""

    text: str
    label: str = ""
    severity: Severity = "bad"


RANDOM_WEIGHTS = Mark("(random weights)", "random weights")
RANDOM = Mark("random", "random")
UNRESOLVED = Mark("≈")
EXTRAPOLATED = Mark("(est.)", "est.", "warn")
ASSUMED = Mark("(assumed)", "assumed", "warn")


@dataclass(frozen=True)
class Value:
    """One cell of a table: a number or words, None where nothing was measured.

    `interval` is the number's own, in its unit. `beside` is a second figure of the same thing, in
    brackets. `severity` is that of a note or verdict.
    """

    value: float | str | None
    unit: Unit = "words"
    interval: Interval | None = None
    mark: Mark | None = None
    severity: Severity | None = None
    beside: Value | None = None

    @property
    def missing(self) -> bool:
        """Whether nothing was measured, or what is no number."""
        return self.value is None or (
            isinstance(self.value, float) and not math.isfinite(self.value)
        )

    @property
    def number(self) -> float | None:
        """What it is sorted by: its number; None for words, and where nothing was measured."""
        known = not self.missing and isinstance(self.value, int | float)
        return float(self.value) if known else None  # type: ignore[arg-type]

    @property
    def plain(self) -> str:
        """The value alone: "1.35x"."""
        if self.missing:
            return units.NOT_MEASURED
        if self.unit == "span" and self.interval is not None:
            low, high = self.interval
            return str(low) if low == high else f"{low} to {high}"
        return str(self.value) if self.unit in WORDS else TEXTS[self.unit](self.value)

    @property
    def bracket(self) -> str:
        """Its interval: "[1.31, 1.40]", "[2, ∞]" of one that is open; "" where there is none."""
        if self.missing or self.interval is None or self.unit == "span":
            return ""
        if any(map(math.isnan, self.interval)) or not math.isfinite(self.interval[0]):
            return ""
        words = ENDS.get(self.unit, TEXTS[self.unit])
        low, high = (OPEN if end == math.inf else words(end) for end in self.interval)
        return f"[{low}, {high}]"

    @property
    def text(self) -> str:
        """All of it: "1.35x [1.31, 1.40]", "20 (2.0 %)", "ViT-B-32::random:0 (random weights)"."""
        beside = f"({self.beside.text})" if self.beside is not None else ""
        mark = self.mark.text if self.mark is not None else ""
        return " ".join(filter(None, (self.plain, self.bracket, beside, mark)))


@dataclass(frozen=True)
class Heading:
    """A column's name and place.

    Numbers stand to the right. A `key` says what a row is about, and every part of a table that
    is too wide repeats it. Where a `group` column changes, the next group of rows begins; a
    `split` column makes a table of its own of each of its values that has several rows.
    """

    name: str
    numeric: bool = True
    key: bool = False
    group: bool = False
    split: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its words: what every format renders and none of them computes."""

    title: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[Value, ...], ...]
    findings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as text."""
        return tuple(tuple(value.text for value in row) for row in self.rows)


def plain_table(
    title: str,
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    caveats: Sequence[str] = (),
    keys: Sequence[str] = (),
    numeric: Sequence[bool] = (),
) -> Table:
    """A table of finished words; `keys` names columns, `numeric` says it of each: see `Heading`."""
    right = numeric or [False] * len(names)
    columns = tuple(Heading(n, r, n in keys) for n, r in zip(names, right, strict=True))
    return Table(title, columns, tuple(tuple(map(Value, row)) for row in rows), (), tuple(caveats))


def worst(values: Iterable[Value]) -> Severity | None:
    """The worst severity among some values, None where there is none."""
    found = (value.severity for value in values if value.severity is not None)
    return max(found, key=SEVERITIES.index, default=None)


def splits(table: Table) -> int | None:
    """The column whose values become tables of their own, None where each has one row only."""
    for at, column in enumerate(table.columns):
        if column.split and len({row[at] for row in table.rows}) < len(table.rows):
            return at
    return None


def without_caveats(table: Table, told: Sequence[str]) -> Table:
    """The table without caveats that are told elsewhere."""
    return dataclasses.replace(table, caveats=tuple(c for c in table.caveats if c not in told))
