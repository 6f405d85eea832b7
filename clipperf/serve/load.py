"""`clipperf.load`: from a path or a name to a model that is ready."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipperf.errors import AccuracyWarning, ArtifactError, NotThereError, UsageError
from clipperf.nouns.artifact import LAYOUT_RECORD
from clipperf.nouns.variant import SIDES
from clipperf.serve import tuned
from clipperf.serve.forks import watch
from clipperf.serve.model import ClipModel
from clipperf.serve.parts import Parts, open_again, open_all
from clipperf.serve.towers import Choice
from clipperf.system import gpus
from clipperf.system.targets import expanded, kind_of
from clipperf.text import quoted


def load(
    folder: str | Path,
    *,
    threads: int | None = None,
    streams: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    preprocess: str | None = None,
    verify: bool = False,
    self_test: bool | None = None,
) -> ClipModel:
    """Open an artifact folder that `clipperf export` wrote, or what `clipperf tune` wrote.

    A name in its place, such as "ViT-B-32", is that of an exported model of the store: with the
    weights that ``clipperf export ViT-B-32`` would take, else those that were exported last; in
    `runtime` and `precision`, else in onnx and fp32 where that is there (see `serve.stored`). What
    exists under that name is a path.

    A tuning, which is a file or the folder of ``--bundle``, says which artifact, runtime, threads,
    streams and batch each tower takes. Of an artifact folder, `threads` are those of one tower's
    engine, by default all cores of this process. `streams` batches, by default one, share them and
    run at once: more inputs a second, where one alone takes longer. A call with less than a full
    batch for every stream is given to them in smaller ones. `runtime` is the one that it was
    exported for, or another that loads it: "ort-cuda" takes ONNX artifacts. `device` is by default
    where that runtime usually runs; "cuda:1" makes the second GPU the only one that this process
    sees, so give it before anything else uses CUDA. `preprocess` is "exact", "fast" or "draft" (see
    `preprocess_fast`), by default what `preprocess.json` names as its method (``clipperf export
    --preprocess``). Warns with `AccuracyWarning` where an int8 tower was made for another kind of
    CPU.

    The settings and the tokenizer are checked against their sha256, the towers against their
    size. With `verify` the towers are read for their sha256, too.

    With `self_test` each tower embeds some inputs that the folder carries, which have to come as
    near to PyTorch's embeddings, carried with them, as the export demanded. None is for a test
    with `verify`, on a GPU, and where the processor, its instruction sets or the version of the
    runtime is another than the tower was exported with.

    An artifact that is replaced meanwhile is the old one or the new one, never a mix. A process
    that is forked from this one opens the towers again when it first needs them.

    Raises:
        ArtifactError: the folder is no artifact, a file is missing, of another size or altered,
            or the self-test found other embeddings; or there is no such folder or exported model.
        EngineError: the runtime cannot load a tower.
        UsageError: an option is not valid, the runtime cannot do what it says, or of the path
            nothing can be told.
        MissingDependencyError: the runtime or the way to preprocess needs a package that is not
            installed.
    """
    for name, value in (("threads", threads), ("streams", streams)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} is {quoted(value)}: give a whole number from 1")
    named = device
    if device is not None and ":" in device:
        device = gpus.pin(device)
        named = gpus.handed_on(device)  # which a child finds, too
    path, choices = choices_at(
        folder,
        threads=threads,
        streams=streams,
        runtime=runtime,
        precision=precision,
        device=device,
    )
    parts = open_all(choices, preprocess, verify, self_test)
    for problem in parts.warnings:
        warnings.warn(problem, AccuracyWarning, stacklevel=2)
    text, image = parts.towers.get("text"), parts.towers.get("image")
    options = {
        "threads": threads,
        "streams": streams,
        "runtime": runtime,
        "precision": precision,
        "device": named,
        "preprocess": preprocess,
        "verify": verify,
        "self_test": self_test,
    }
    keys = {side: tower.key for side, tower in parts.towers.items()}
    model = ClipModel(
        parts.engines,
        parts.pixels,
        parts.tokenizer,
        embed_dim=parts.spec.embed_dim,
        cut=None if text is None else text.cut_at,
        random_weights=parts.spec.random_weights,
        batches=parts.batches,
        pixel_dtype=parts.pixel_dtype,
        first_token=None if text is None else text.first_token,
        similarity=next((t.similarity for t in parts.towers.values() if t.similarity), None),
        features=None if image is None else image.features,
        open_again=lambda: open_again(choices, parts),
        pickled_as=(_unpickled, (str(path), options, keys)),
        described=_described(parts),
    )
    watch(model)
    return model


def choices_at(
    folder: str | Path,
    *,
    threads: int | None = None,
    streams: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    device: str | None = None,
) -> tuple[Path, list[Choice]]:
    """Where the artifact or tuning lies that is meant, and what to open of it; see `load`.

    Raises:
        ArtifactError: there is none, or the tuning is damaged.
        UsageError: of a tuning something else is wanted than it says.
    """
    path = _located(folder, runtime, precision)
    kind = kind_of(path)
    if kind == "folder" and kind_of(path / tuned.FILE) == "file":
        path, kind = path / tuned.FILE, "file"
    if kind != "file":
        choice = Choice(path, None, runtime, device, threads, streams or 1, precision=precision)
        return path, [choice]
    if (threads, streams, runtime, precision, device) != (None,) * 5:
        raise UsageError(
            f"{path} is a tuning, which sets threads, streams, runtime, precision and device; "
            f"load the artifact folder to choose them"
        )
    return path, tuned.read(path)


def _described(parts: Parts) -> str:
    """In a few words: a name, the width of embeddings, and what each tower runs in."""
    alike: dict[str, list[str]] = {}
    for side in (side for side in SIDES if side in parts.cells):
        cell, unit = parts.cells[side], parts.towers[side].normalized
        said = f"{cell.runtime} {cell.precision}, {'normalized' if unit else 'not normalized'}"
        alike.setdefault(said, []).append(side)
    towers = "; ".join(f"{' and '.join(sides)} in {said}" for said, sides in alike.items())
    return f"{parts.spec.id}, {parts.spec.embed_dim} wide: {towers}"


def _located(folder: str | Path, runtime: str | None, precision: str | None) -> Path:
    """The path that is meant; of a model's name its folder in the store.

    Raises:
        ArtifactError: there is nothing (NotThereError), or what is there cannot be opened.
    """
    path = expanded(folder)
    if kind_of(path) == "folder" and (path / LAYOUT_RECORD).exists():
        raise ArtifactError(
            f"{path} is a layout for another program, which opens it: clipperf.load takes what "
            f"clipperf export writes without --layout"
        )
    if kind_of(path) != "nothing":
        return path
    said = ""
    if isinstance(folder, str) and not folder.startswith((".", "~", "/")) and "\\" not in folder:
        from clipperf.serve import stored  # what it asks of models, a path never needs

        found = stored.find(folder, runtime, precision)
        if found is not None:
            return found
        said = stored.missing(folder, runtime, precision)
    raise NotThereError(f"{path}: there is no such file or folder{said}")


def _unpickled(path: str, options: Mapping[str, Any], keys: Mapping[str, str]) -> ClipModel:
    """The model that was pickled, opened again with the same options.

    Raises:
        ArtifactError: its path no longer holds the same towers; and as `load`.
    """
    try:
        model = load(path, **options)
    except ArtifactError as exc:
        raise ArtifactError(f"{exc} (opened again, as it was pickled by its path)") from exc
    _, (_, _, found) = model.__reduce__()
    if found != keys:
        model.close()
        raise ArtifactError(
            f"{path} was exported anew since this model was pickled: open it with clipperf.load"
        )
    return model
