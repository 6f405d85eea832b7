"""The measured footprint beside the figures that CLIP-as-service published."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.models.published import BasicStatistics, normal
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.result import ResultFile
from clipperf.report.accuracy import judged
from clipperf.report.columns import Column, cell_columns, tabulate, who_columns
from clipperf.report.records import Row, labels_of, merge
from clipperf.report.table import Table
from clipperf.report.tables import Pair, disk_bytes, pair_towers
from clipperf.units import GIB, MIB

PUBLISHED_BATCH = 8

Line = tuple[Pair, BasicStatistics]


def published_table(
    results: Sequence[ResultFile], published: Sequence[BasicStatistics]
) -> Table | None:
    """Measured disk, RAM and VRAM beside the CLIP-as-service figures; None if no model is theirs.

    A model is found under its own name, or, for random weights and checkpoints of one's own,
    under its architecture's (there the largest published file, which is the fp32 one).
    """
    rows = merge(results)
    labels = labels_of(results)
    closest: dict[tuple, Pair] = {}
    for pair in pair_towers(rows):
        key = (pair.any.env_id, judged(pair.any.cell))
        if key not in closest or _distance(pair) < _distance(closest[key]):
            closest[key] = pair
    lines: list[Line] = []
    for pair in closest.values():
        match = _match(pair.any.cell.model_id, published)
        if match is not None and _has_footprint(pair):
            lines.append((pair, match))
    if not lines:
        return None
    columns: list[Column[Line]] = [
        *who_columns(labels, lambda x: x[0].any, "never"),
        *cell_columns(
            ["Device", "Streams", "Scenario", "Runtime", "Batch"], lines, lambda x: x[0].any
        ),
        Column("Disk MiB", lambda x: disk_bytes(x[0].image, x[0].text), "MiB"),
        Column("Published disk MiB", lambda x: x[1].disk_mib * MIB, "MiB"),
        Column("Image RAM +GiB", lambda x: _delta(x[0].image), "GiB"),
        Column("Text RAM +GiB", lambda x: _delta(x[0].text), "GiB"),
        Column("Published RAM +GiB", lambda x: x[1].peak_ram_gb * GIB, "GiB"),
        Column("Image VRAM GiB", lambda x: _vram(x[0].image), "GiB", "empty"),
        Column("Text VRAM GiB", lambda x: _vram(x[0].text), "GiB", "empty"),
        Column("Published VRAM +GiB", lambda x: x[1].peak_vram_gb * GIB, "GiB"),
        Column("Published as", lambda x: x[1].alias, "words"),
    ]
    return tabulate(
        "Beside the CLIP-as-service figures",
        columns,
        lines,
        caveats=[
            "Published: the CLIP-as-service benchmark page; PyTorch on a TITAN RTX 24 GB, batch "
            "8, the whole model in one process, RAM and VRAM as the growth over the process "
            "before. Its MB and GB are read as MiB and GiB.",
            "Here each tower runs in its own process, and RAM is the growth over the bare worker, "
            "where the published process also loads what drives its GPU: equal figures are not to "
            "be expected.",
            "Some published files hold fp16 weights (OpenAI's): half the size on disk of the same "
            "model in fp32.",
            "Models measured under weights that are not in the published table stand beside the "
            "largest file of their architecture.",
        ],
    )


def _distance(pair: Pair) -> tuple[bool, bool, int, int, int, int]:
    """How far a configuration is from the published one, which ran batches of 8, one by one."""
    cell = pair.any.cell
    driven = (cell.scenario != CLOSED_LOOP, cell.streams, cell.instances)
    return (not _has_footprint(pair), *driven, abs(cell.batch - PUBLISHED_BATCH), cell.batch)


def _has_footprint(pair: Pair) -> bool:
    sides = [row for row in (pair.image, pair.text) if row is not None]
    return any(r.disk_bytes is not None or r.rss_peak_bytes is not None for r in sides)


def _match(model_id: str, known: Sequence[BasicStatistics]) -> BasicStatistics | None:
    for row in known:
        if normal(row.alias) == normal(model_id):
            return row
    architecture = normal(model_id.partition("::")[0])
    same = [row for row in known if normal(row.alias.partition("::")[0]) == architecture]
    return max(same, key=lambda row: row.disk_mib, default=None)


def _delta(row: Row | None) -> int | None:
    return row.rss_delta_bytes if row else None


def _vram(row: Row | None) -> int | None:
    return row.vram_peak_bytes if row else None
