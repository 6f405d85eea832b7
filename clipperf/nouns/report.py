"""A table with its words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """A table with its words: what every reporter renders and none of them computes."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    numeric: tuple[bool, ...] = field(default=())
