"""`clipperf eval`: every runtime's accuracy beside the PyTorch baseline's on the same samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clipperf.bench import prepare
from clipperf.bench.plan import BASELINE, BASELINE_PRECISION, FLOATS
from clipperf.engines import contract
from clipperf.errors import ClipperfError
from clipperf.evals import accuracy
from clipperf.evals.datasets import Dataset
from clipperf.inputs.sources import ImageSource
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import ResultFile, Score
from clipperf.nouns.variant import SIDES, PixelDtype, Variant
from clipperf.serve.load import ClipModel
from clipperf.serve.opening import read_pixels
from clipperf.system import env, files, store

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A model and runtime that could not be scored, and why."""

    label: str
    reason: str


def evaluate(
    specs: Sequence[ModelSpec],
    runtimes: Sequence[str],
    dataset: Dataset,
    *,
    precisions: Sequence[str] = ("fp32",),
    device: str | None = None,
    threads: int = 1,
    batch: int = 32,
    inputs: Sequence[PixelDtype] = FLOATS,
    command: str = "",
    path: Path | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    progress: Progress | None = None,
) -> tuple[ResultFile, list[Failure]]:
    """Score every model in every runtime; the PyTorch baseline in fp32 always runs as well.

    All runtimes share one tokenisation and, but for artifacts that were exported with another
    ``--preprocess`` (the file notes them), the exact preprocessing, so that differences come from
    the runtime alone. One tower pair is in memory at a time. The file is written after every model.

    Raises:
        UsageError, MissingDependencyError: before anything runs.
    """
    devices = prepare.choose_devices([*dict.fromkeys((*runtimes, BASELINE))], device)
    prepare.check_runtimes({name: devices[name] for name in runtimes}, precisions)
    prepare.check_runtimes({BASELINE: devices[BASELINE]}, (BASELINE_PRECISION,))
    fed = prepare.choose_inputs(runtimes, inputs)
    result = ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="eval",
        command=command,
        created_utc=files.utc_now(),
        environments=(env.capture(),),
        specs=tuple(specs),
        path=str(path or store.new_result_path("eval")),
    )
    store.write_result(Path(result.path), result)
    failures: list[Failure] = []
    for spec in specs:
        baseline = _cell(spec, BASELINE, BASELINE_PRECISION, devices[BASELINE], threads, batch)
        wanted = [baseline] + [
            _cell(spec, runtime, precision, devices[runtime], threads, batch, dtype)
            for runtime in runtimes
            if runtime != BASELINE
            for precision in precisions
            for dtype in fed[runtime]
        ]
        embedded = {}
        for cell in wanted:
            on_stage(f"{cell.model_id} {cell.setup}")
            try:
                with open_model(cell, spec, on_stage) as model:
                    assert model.pixels is not None
                    if model.pixels.method != "exact":
                        said = f"{cell.label}: images preprocessed by {model.pixels.method!r}"
                        result = dataclasses.replace(result, notes=(*result.notes, said))
                    embedded[cell] = accuracy.embed(
                        dataset, _Sources(model), batch, progress, cell.label
                    )
            except ClipperfError as exc:
                failures.append(Failure(cell.label, str(exc)))
        if embedded:
            scores: list[Score] = accuracy.score(
                dataset,
                embedded,
                baseline if baseline in embedded else None,
                random_weights=spec.random_weights,
                env_id=result.environments[0].id,
            )
            result = dataclasses.replace(result, scores=(*result.scores, *scores))
            store.write_result(Path(result.path), result)
    return result, failures


class _Sources:
    """A model that takes a dataset's image sources."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        return self._model.encode_images([i.open() for i in images], batch_size=len(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode_texts(texts, batch_size=len(texts))


def _cell(
    spec: ModelSpec,
    runtime: str,
    precision: str,
    device: str,
    threads: int,
    batch: int,
    dtype: PixelDtype = "float32",
) -> Cell:
    return Cell(spec.id, "image", runtime, precision, device, batch, threads, input=dtype)


def open_model(cell: Cell, spec: ModelSpec, on_stage: Callable[[str], None]) -> ClipModel:
    """Both towers of a model in a cell's runtime, exported on the way where needed."""
    runtime = contract.get(cell.runtime)
    variant = Variant(cell.runtime, cell.precision, cell.input)
    folder = prepare.artifact_folder(spec, SIDES, variant, on_stage, (1, cell.batch))
    manifest = store.read_manifest(folder)
    engines = {}
    for side in SIDES:
        request, _ = prepare.engine_request(dataclasses.replace(cell, side=side), spec, on_stage)
        engines[side] = runtime.open(request)
    text = manifest.tower("text")
    pixels = read_pixels(folder)
    if runtime.artifact is None:  # the baseline, which only borrows the folder
        pixels = dataclasses.replace(pixels, method="exact")
    return ClipModel(
        engines,
        pixels,
        Tokenizer.from_folder(folder),
        embed_dim=spec.embed_dim,
        short_texts=text is not None and text.tokens is None,
        random_weights=spec.random_weights,
        pixel_dtype=cell.input,
    )
