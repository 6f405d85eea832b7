"""The accuracy table, and the measured footprint beside published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from clipperf import units
from clipperf.errors import UsageError
from clipperf.nouns.report import Report
from clipperf.nouns.result import ResultFile, Score
from clipperf.report import findings
from clipperf.report.columns import Column, environment_column, model_name, tabulate
from clipperf.report.records import Row, environments, finite, finite_interval, merge, merge_scores
from clipperf.report.tables import Pair, disk_bytes, pair_towers

PUBLISHED_BATCH = 8


def accuracy_report(results: Sequence[ResultFile]) -> Report:
    """Every score with its interval, beside the PyTorch baseline on the same samples.

    Raises:
        UsageError: the files hold no scores.
    """
    scores = [_without_nan(s) for s in merge_scores(results)]
    if not scores:
        raise UsageError("no scores to report: run `clipperf eval MODEL --dataset NAME` first")
    labels = {env_id: label for env_id, (label, _) in environments(results).items()}
    columns: list[Column[Score]] = [
        Column(
            "Model",
            lambda s: model_name(s.cell.model_id, s.random_weights),
            numeric=False,
            fold="constant",
        ),
        *environment_column(labels, lambda s: s.env_id),
        Column("Device", lambda s: s.cell.device, numeric=False, fold="constant"),
        Column("Dataset", lambda s: s.dataset, numeric=False),
        Column("Metric", lambda s: s.metric, numeric=False),
        Column("Runtime", lambda s: s.cell.setup, numeric=False),
        Column("n", lambda s: str(s.n)),
        Column("Score", lambda s: units.share(finite(s.value), finite_interval(s.ci95))),
        Column("Baseline", lambda s: units.share(s.baseline_value), fold="empty"),
        Column(
            "Difference, points", lambda s: units.points(s.difference, s.diff_ci95), fold="empty"
        ),
        Column("Flips", _flips, fold="empty"),
        Column("Chance", lambda s: units.share(s.chance), fold="empty"),
        Column("Verdict", findings.accuracy_verdict, numeric=False),
    ]
    kept = units.points(findings.KEPT_WITHIN).lstrip("+")
    caveats = []
    random_models = sorted({s.cell.model_id for s in scores if s.random_weights})
    if random_models:
        caveats.append(
            f"RANDOM WEIGHTS: {findings.listed(random_models)}. These scores only show that the "
            f"evaluation runs; they say nothing about the model."
        )
    caveats.append(
        f"Brackets are 95 % intervals; differences are paired on the same samples. Kept: the whole "
        f"interval lies above -{kept} points. Flips count samples whose prediction changed, "
        f"right or wrong."
    )
    at_chance = sorted(
        {
            f"{s.cell.model_id} on {s.dataset}"
            for s in scores
            if s.chance is not None and not s.random_weights and s.ci95[0] <= s.chance
        }
    )
    if at_chance:
        caveats.append(f"Not above chance: {findings.listed(at_chance)}.")
    versions: dict[str, set[str]] = {}
    for s in scores:
        versions.setdefault(s.dataset, set()).add(s.dataset_sha256)
    changed = sorted(d for d, digests in versions.items() if len(digests) > 1)
    if changed:
        caveats.append(
            f"More than one version (sha256) of {findings.listed(changed)}: their scores are not "
            f"comparable."
        )
    caveats += [note for result in results for note in result.notes if result.kind == "eval"]
    return tabulate(
        "Accuracy", columns, scores, findings.accuracy_findings(scores, labels), caveats
    )


def _flips(score: Score) -> str:
    if score.flips is None:
        return units.NOT_MEASURED
    return f"{score.flips} ({units.share(score.flips / score.n)})" if score.n else "-"


def _without_nan(score: Score) -> Score:
    return dataclasses.replace(
        score,
        baseline_value=finite(score.baseline_value),
        difference=finite(score.difference),
        diff_ci95=finite_interval(score.diff_ci95),
        chance=finite(score.chance),
    )


# --- published figures ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of the CLIP-as-service "basic statistics": MiB on disk, GiB of RAM and VRAM."""

    model: str
    disk_mb: float | None
    peak_ram_gb: float | None
    peak_vram_gb: float | None


def published_rows(rows: Sequence[Any]) -> list[Published]:
    """Take dicts or records with the published table's names (or `alias` and `disk_mib`).

    Raises:
        UsageError: a row names no model.
    """
    taken = []
    for row in rows:
        get = row.get if isinstance(row, Mapping) else lambda name, r=row: getattr(r, name, None)
        model, disk = get("model") or get("alias"), get("disk_mb")
        if not model:
            raise UsageError(f"a published row names no model: {row!r}")
        disk = get("disk_mib") if disk is None else disk
        numbers = [_number(value) for value in (disk, get("peak_ram_gb"), get("peak_vram_gb"))]
        taken.append(Published(str(model), *numbers))
    return taken


def _number(value: Any) -> float | None:
    try:
        return finite(float(value))
    except (TypeError, ValueError):
        return None


def published_report(results: Sequence[ResultFile], published: Sequence[Any]) -> Report | None:
    """Measured disk, RAM and VRAM beside the CLIP-as-service figures; None if no model is theirs.

    A model is found under its own name, or, for random weights and checkpoints of one's own,
    under its architecture's (there the largest published file, which is the fp32 one).
    """
    rows = merge(results)
    labels = {env_id: label for env_id, (label, _) in environments(results).items()}
    known = published_rows(published)
    lines: list[tuple[Pair, Published]] = []
    closest: dict[tuple, Pair] = {}
    for pair in pair_towers(rows):
        c = pair.any.cell
        key = (pair.any.env_id, c.model_id, c.device, c.setup)
        if key not in closest or _distance(pair) < _distance(closest[key]):
            closest[key] = pair
    for pair in closest.values():
        match = _match(pair.any.cell.model_id, known)
        if match is not None and _has_footprint(pair):
            lines.append((pair, match))
    if not lines:
        return None
    columns: list[Column[tuple[Pair, Published]]] = [
        Column(
            "Model",
            lambda x: model_name(x[0].any.cell.model_id, x[0].any.random_weights),
            numeric=False,
        ),
        *environment_column(labels, lambda x: x[0].any.env_id),
        Column("Device", lambda x: x[0].any.cell.device, numeric=False, fold="constant"),
        Column("Runtime", lambda x: x[0].any.setup, numeric=False),
        Column("Batch", lambda x: str(x[0].any.cell.batch)),
        Column("Disk MiB", lambda x: units.mib(disk_bytes(x[0].image, x[0].text))),
        Column("Published disk MiB", lambda x: _mib(x[1].disk_mb)),
        Column("Image RAM +GiB", lambda x: units.gib(_delta(x[0].image))),
        Column("Text RAM +GiB", lambda x: units.gib(_delta(x[0].text))),
        Column("Published RAM +GiB", lambda x: _gib(x[1].peak_ram_gb)),
        Column("Image VRAM GiB", lambda x: units.gib(_vram(x[0].image)), fold="empty"),
        Column("Text VRAM GiB", lambda x: units.gib(_vram(x[0].text)), fold="empty"),
        Column("Published VRAM +GiB", lambda x: _gib(x[1].peak_vram_gb)),
        Column("Published as", lambda x: x[1].model, numeric=False),
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


def _distance(pair: Pair) -> tuple[bool, int, int]:
    batch = pair.any.cell.batch
    return (not _has_footprint(pair), abs(batch - PUBLISHED_BATCH), batch)


def _has_footprint(pair: Pair) -> bool:
    sides = [row for row in (pair.image, pair.text) if row is not None]
    return any(r.disk_bytes is not None or r.rss_peak_bytes is not None for r in sides)


def _match(model_id: str, known: Sequence[Published]) -> Published | None:
    wanted = _plain(model_id)
    for row in known:
        if _plain(row.model) == wanted:
            return row
    architecture = _plain(model_id.partition("::")[0])
    same = [row for row in known if _plain(row.model.partition("::")[0]) == architecture]
    return max(same, key=lambda row: row.disk_mb or 0.0, default=None)


def _plain(name: str) -> str:
    """A model's name without the spelling differences of the two tables ("b79k", "_" or "-")."""
    return name.lower().replace("_", "-")


def _mib(value: float | None) -> str:
    return units.mib(None if value is None else round(value * units.MIB))


def _gib(value: float | None) -> str:
    return units.gib(None if value is None else round(value * units.GIB))


def _delta(row: Row | None) -> int | None:
    return row.rss_delta_bytes if row else None


def _vram(row: Row | None) -> int | None:
    return row.vram_peak_bytes if row else None
