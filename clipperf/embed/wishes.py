"""What is wanted of a run, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.embed.items import Wanted
from clipperf.embed.manifest import Manifest
from clipperf.embed.shards import Record

OnStage = Callable[[str], None]
OnItems = Callable[[str, int, int], None]
"""Is told what is done, of how many items, of how many."""


@dataclass(frozen=True)
class Limit:
    """How many items may be corrupt: a number, or a share of those that were tried."""

    number: int | None = None
    share: float | None = None

    def passed(self, corrupt: int, items: int) -> bool:
        """Whether more are."""
        if self.number is not None:
            return corrupt > self.number
        return self.share is not None and corrupt > self.share * items


@dataclass(frozen=True)
class Wishes:
    """What is wanted of a run; see `docs/embedding.md`."""

    wanted: Wanted = field(default_factory=Wanted)
    format: str = "npy"
    dtype: str = "float32"
    shard_items: int = 10_000
    normalize: bool = False
    workers: int | None = None
    limit: Limit = field(default_factory=Limit)
    retry_corrupt: bool = False
    verify: bool = False


@dataclass
class Summary:
    """What is in a folder of vectors; `made` shards and `tried` items in `seconds` of this run.

    `named` are the first corrupt items and why they are, `lost` the machines and processes of a
    cluster that were lost on the way.
    """

    folder: Path
    manifest: Manifest
    vectors: int = 0
    corrupt: int = 0
    clipped: int = 0
    shards: int = 0
    made: int = 0
    tried: int = 0
    seconds: float = 0.0
    named: list[tuple[str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """A shard that is there."""
        self.shards += 1
        self.vectors += record.rows
        self.corrupt += record.corrupt
        self.clipped += record.clipped
