"""The published tables as lists of what to evaluate: one row each, by dataset and metric."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.errors import ClipperfError, UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.evaluate import Failure
from clipperf.evals.parts import MissingPartError
from clipperf.evals.published import SETS, PublishedSet, local_path
from clipperf.evals.robustness import BASE, SHIFTED
from clipperf.inputs.sources import is_hidden
from clipperf.models.dataset_names import CLIP_PAPER_TABLES, OPEN_CLIP_38
from clipperf.models.published import read_table
from clipperf.nouns.result import ResultFile
from clipperf.system import temporaries
from clipperf.system.results import filled
from clipperf.system.targets import entries_of, expanded, kind_of
from clipperf.text import quoted, shown

TOP1 = "zeroshot top-1"
RECALLS_AT_1 = ("text-to-image recall@1", "image-to-text recall@1")
RECALLS_AT_5 = ("text-to-image recall@5", "image-to-text recall@5")

METRICS: dict[str, tuple[str, ...]] = {
    "acc1": (TOP1,),
    "mean_per_class_recall": ("zeroshot mean per-class recall",),
    "mean_recall@1": RECALLS_AT_1,
    "11_point_map": ("zeroshot 11-point mAP",),
    "roc_auc": ("zeroshot ROC AUC",),
    "mean_acc1_acc5": ("zeroshot mean(top-1, top-5)",),
    "f1_macro": ("zeroshot macro F1",),
    "acc_worst_region": ("zeroshot top-1, worst group",),
    "acc_worst_group": ("zeroshot top-1, worst group",),
    "acc5_worst_group": ("zeroshot top-5, worst group",),
    "jaccard_score_10-12": ("association Jaccard, 10 and 12",),
}
"""The figures of scores that stand for the metrics of the published tables."""

TASKS_OF = {"clip-paper-linear-probe": ("linear-probe",)}
"""What is done with the datasets of a table where that has to be asked for."""


NOWHERE = "not published as a WebDataset"


@dataclass(frozen=True)
class Wanted:
    """A row of a table: its `title` there, the dataset and the metric.

    `path` is where the data lies; where it does not, `missing` names the hub's repository. One that
    is `published` has its class names and templates, and other parts of it may be fetched.
    """

    title: str
    dataset: str
    metric: str
    path: Path | None = None
    missing: str = ""
    published: bool = False

    @property
    def given(self) -> PublishedSet | Path | None:
        """What `load_dataset` takes for it; None where it is not here."""
        return SETS[self.dataset] if self.path and self.published else self.path


def wanted_in(suite: str) -> list[Wanted]:
    """The rows of a table by its name, or one for every dataset in a folder.

    Raises:
        UsageError: there is no such table, and no such folder.
    """
    if suite in suites():
        return [_located(*row) for row in suites()[suite]]
    folder = expanded(suite)
    if kind_of(folder) != "folder":
        raise UsageError(
            f"no suite {quoted(suite)}; choose from {', '.join(suites())}, or give a folder of "
            "datasets"
        )
    found = [path for path in entries_of(folder) if not is_hidden(path.name)]
    own = [p for p in found if p.is_dir() or p.suffix in (".tar", ".zip", ".toml")]
    if not own:
        raise UsageError(f"{shown(folder)} holds no datasets: folders, archives or TOML files")
    return [Wanted(path.name, path.name, "", path) for path in own]


def _located(title: str, dataset: str, metric: str) -> Wanted:
    known = SETS[dataset]
    path = local_path(known)
    return Wanted(title, dataset, metric, path, "" if path else known.repository or NOWHERE, True)


def _clip_as_service() -> list[tuple[str, str, str]]:
    """COCO, Flickr8k and Flickr30k at recall@5 both ways, then its 21 sets at top-1."""
    sets = ("mscoco_captions", "flickr8k", "flickr30k")
    columns = list(read_table("clip_as_service_zeroshot_classification.csv")[0])[1:]
    return [
        *((name, name, metric) for name in sets for metric in RECALLS_AT_5),
        *((name, name, TOP1) for name in columns),
    ]


def _linear_probes() -> list[tuple[str, str, str]]:
    """The CLIP paper's Table 3: the datasets of its Table 4, by the same metrics."""
    rows = _named(CLIP_PAPER_TABLES)
    return [
        (title, name, metric.replace("zeroshot", "linear probe")) for title, name, metric in rows
    ]


def _named(table: dict[str, tuple[str, str]]) -> list[tuple[str, str, str]]:
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for title, (dataset, metric) in table.items():
        if dataset in SETS:  # not what stands for a model as a whole; of two titles, the first
            rows.setdefault(dataset, [(title, dataset, own) for own in METRICS[metric]])
    return [row for own in rows.values() for row in own]


@functools.cache
def suites() -> dict[str, list[tuple[str, str, str]]]:
    """Rows (title, dataset, metric) of the tables that can be asked for by name."""
    return {
        "clip-as-service": _clip_as_service(),
        "clip-paper": _named(CLIP_PAPER_TABLES),
        "clip-paper-linear-probe": _linear_probes(),
        "clip-paper-shift": [(name, name, TOP1) for name in (BASE, *SHIFTED)],
        "datacomp38": _named(OPEN_CLIP_38),
    }


def evaluated(
    wanted: Sequence[Wanted],
    load: Callable[[PublishedSet | Path], Dataset],
    evaluate_on: Callable[[Dataset, Path], tuple[ResultFile, list[Failure]]],
    target: Path,
) -> tuple[list[Wanted], ResultFile | None, list[Failure]]:
    """Evaluate every dataset of a table once; all scores go to one file (see `results.filled`).

    `evaluate_on` is given a dataset and where to write its own file. Returns the rows, those of a
    dataset that cannot be read with the reason for what is missing; None where there was nothing.
    """
    reasons: dict[str, str] = {}
    results: list[ResultFile] = []
    failures: list[Failure] = []
    with (
        filled(target) as write,
        temporaries.scratch("suite") as scratch,
    ):
        for row in {row.dataset: row for row in wanted if row.given is not None}.values():
            assert row.given is not None
            try:
                asked = tuple(r.metric for r in wanted if r.dataset == row.dataset and r.metric)
                data = load(row.given)
                data = dataclasses.replace(
                    data, name=row.dataset, metrics=tuple(dict.fromkeys(asked)) or data.metrics
                )
                result, failed = evaluate_on(data, scratch / "one.json")
            except MissingPartError as exc:
                reasons[row.dataset] = str(exc)
                continue
            except ClipperfError as exc:
                reasons[row.dataset] = str(exc)
                failures.append(Failure(row.dataset, str(exc)))
                continue
            results.append(result)
            failures += [Failure(f"{row.dataset}, {one.label}", one.reason) for one in failed]
            write(_joined(results, target))
    rows = [
        dataclasses.replace(row, missing=reasons.get(row.dataset, row.missing)) for row in wanted
    ]
    return rows, _joined(results, target) if results else None, failures


def _joined(results: Sequence[ResultFile], target: Path) -> ResultFile:
    return dataclasses.replace(
        results[0],
        scores=tuple(score for result in results for score in result.scores),
        notes=tuple(note for result in results for note in result.notes),
        path=str(target),
    )
