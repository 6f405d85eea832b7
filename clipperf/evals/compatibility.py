"""`clipperf eval --index-compat`: two engines on one dataset, and the file that they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.evals import accuracy, worker
from clipperf.evals.accuracy import Progress
from clipperf.evals.crossing import Party, cross
from clipperf.evals.datasets import Dataset
from clipperf.evals.evaluate import OnStage, embed_apart, preprocessing_notes
from clipperf.evals.task import check
from clipperf.evals.verdicts import MARGIN
from clipperf.evals.worker import ModelRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile
from clipperf.system import env, files, store, temporaries


@dataclass(frozen=True)
class Candidate:
    """One of two engines before it has embedded: what people call it, its model, what opens it."""

    name: str
    spec: ModelSpec
    request: ModelRequest


def compare(
    pairs: Sequence[tuple[Candidate, Candidate]],
    dataset: Dataset,
    *,
    batch: int = accuracy.BATCH,
    margin: float = MARGIN,
    command: str = "",
    path: Path | None = None,
    on_stage: OnStage = lambda stage: None,
    progress: Progress | None = None,
) -> ResultFile:
    """Embed the dataset with both of each pair, and score queries of the first in the second's.

    Each engine embeds in a process of its own, or not at all where the store keeps what it would
    give. The file is written after every pair.

    Raises:
        ClipperfError: an engine cannot embed, or the two have nothing to compare.
    """
    check(dataset)
    result = ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="eval",
        command=command,
        created_utc=files.utc_now(),
        environments=(env.capture(),),
        specs=tuple(dict.fromkeys(one.spec for pair in pairs for one in pair)),
        notes=dataset.notes,
        path=str(path or store.new_result_path("eval")),
    )
    files.check_writable(Path(result.path))
    with temporaries.scratch("eval") as scratch:
        shared = scratch / "dataset.json"
        files.write_json(shared, dataset)
        for pair in pairs:
            parties = []
            for one in pair:
                cell = one.request.towers[0].cell
                on_stage(f"{cell.model_id} {one.name}")
                kept = worker.kept_embeddings(one.request, dataset, batch)
                found = kept or embed_apart(one.request, shared, batch, progress)
                parties.append(Party(one.name, cell, found))
            rows = cross(
                dataset,
                *parties,
                random_weights=any(one.spec.random_weights for one in pair),
                env_id=result.environments[0].id,
                margin=margin,
            )
            result = dataclasses.replace(
                result,
                crossed=(*result.crossed, *rows),
                notes=tuple(dict.fromkeys((*result.notes, *_notes(pair)))),
            )
            store.write_result(Path(result.path), result)
    return result


def _notes(pair: tuple[Candidate, Candidate]) -> Iterator[str]:
    """How the two prepare images, where that is not exact; other weights of one name."""
    for one in pair:
        yield from preprocessing_notes(one.request)
    ours, theirs = (store.read_manifest(one.request.folder).towers[0] for one in pair)
    if ours.model_id == theirs.model_id and ours.weights_id != theirs.weights_id:
        yield (
            f"{pair[0].name} and {pair[1].name} have other weights, though both are called "
            f"{ours.model_id}"
        )
