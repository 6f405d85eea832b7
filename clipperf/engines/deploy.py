"""An exported model in use: images and strings in, embeddings out, without torch.

Needs numpy, pillow, tokenizers and the artifact's runtime (and ftfy for texts beyond plain ASCII,
cykooz-resizer for the fast ways to preprocess).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clipperf import preprocess_fast
from clipperf.engines import _contract
from clipperf.engines.images import batches as image_batches
from clipperf.engines.texts import encode as embed_texts
from clipperf.errors import ArtifactError, UsageError
from clipperf.preprocess import ImageSource
from clipperf.preprocess_spec import PreprocessSpec
from clipperf.tokenize import Tokenizer
from clipperf.types import Cell, Engine, EngineRequest, ModelSpec, PixelDtype, Side


class ClipModel:
    """A CLIP whose towers run in some runtime. Make one with `clipperf.load`.

    `encode_images` and `encode_texts` return float32 [n, embed_dim]: the raw embeddings, or unit
    vectors where the model was exported with ``--normalize`` or `normalize` is passed.
    `pixels` says how images are preprocessed, None without an image tower.
    """

    def __init__(
        self,
        engines: dict[Side, Engine],
        pixels: PreprocessSpec | None,
        tokenizer: Tokenizer | None,
        *,
        embed_dim: int,
        short_texts: bool,
        random_weights: bool = False,
        pixel_dtype: PixelDtype = "float32",
    ) -> None:
        self._engines = engines
        self._tokenizer = tokenizer
        self._short_texts = short_texts
        self._closed = False
        self._pixel_dtype = pixel_dtype
        self.pixels = pixels
        self.embed_dim = embed_dim
        self.random_weights = random_weights

    def encode_images(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int = 32,
        normalize: bool = False,
        workers: int | None = None,
    ) -> np.ndarray:
        """Decode, preprocess and embed images given as paths or PIL images.

        `workers` threads prepare the next batch while the engine runs the current one, by default
        one for each core of this process; 0 does all of it in the calling thread.

        Raises:
            UsageError: an image cannot be read, `images` is not a list, `batch_size` is below 1,
                or `workers` below 0.
            ArtifactError: the artifact has no image tower.
        """
        images = _listed(images, "encode_images takes a list of images: put it in brackets")
        engine = self._engine("image", batch_size)
        workers = _workers(workers, len(images))
        assert self.pixels is not None
        dtype = self._pixel_dtype
        with closing(image_batches(images, self.pixels, batch_size, workers, dtype)) as batches:
            parts = [engine.run(batch) for batch in batches]
        return self._finished(np.concatenate(parts) if parts else None, normalize)

    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 32, normalize: bool = False
    ) -> np.ndarray:
        """Tokenise and embed strings; longer ones than the context are cut as open_clip does.

        Equal texts are embedded once. Where the tower allows it, which is exact, texts of like
        length share batches that are cut at their longest (see `engines.texts`).

        Raises:
            UsageError: `texts` is not a list of strings, or `batch_size` is below 1.
            ArtifactError: the artifact has no text tower.
        """
        texts = _listed(texts, "encode_texts takes a list of strings: put it in brackets")
        engine = self._engine("text", batch_size)
        assert self._tokenizer is not None
        found = None
        if texts:
            found = embed_texts(texts, self._tokenizer, engine, batch_size, cut=self._short_texts)
        return self._finished(found, normalize)

    def _engine(self, side: Side, batch_size: int) -> Engine:
        if self._closed:
            raise UsageError("this model is closed; open the artifact again with clipperf.load")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, it must be 1 or more")
        if side not in self._engines:
            raise ArtifactError(
                f"this artifact has no {side} tower; export it too: "
                f"clipperf export MODEL --tower {side}"
            )
        return self._engines[side]

    def _finished(self, found: np.ndarray | None, normalize: bool) -> np.ndarray:
        if found is None:
            return np.zeros((0, self.embed_dim), np.float32)
        if normalize:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return np.ascontiguousarray(found, dtype=np.float32)

    def close(self) -> None:
        """Free both towers."""
        for engine in self._engines.values():
            engine.close()
        self._engines = {}
        self._closed = True

    def __enter__(self) -> ClipModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _listed(values: Any, advice: str) -> list[Any]:
    """The values as a list; a single one, which users pass by mistake, is refused."""
    if isinstance(values, str | bytes | Path | dict):
        raise UsageError(advice)
    try:
        return list(values)
    except TypeError as exc:
        raise UsageError(advice) from exc


def _workers(workers: int | None, images: int) -> int:
    """How many threads to preprocess with; a single image is not worth starting one."""
    if workers is None:
        from clipperf.env import available_cores

        return min(available_cores(), images) if images > 1 else 0
    if not isinstance(workers, int) or workers < 0:
        raise UsageError(f"workers is {workers!r}: give a whole number from 0")
    return workers


def load(
    folder: str | Path,
    *,
    threads: int | None = None,
    runtime: str | None = None,
    device: str | None = None,
    preprocess: str | None = None,
) -> ClipModel:
    """Open an artifact folder that `clipperf export` wrote.

    `threads` are those of one tower's engine, by default all cores of this process. `runtime` is
    the one that the artifact was exported for, or another that loads it: "ort-cuda" takes ONNX
    artifacts. `device` is by default where that runtime usually runs. `preprocess`
    is "exact", "fast" or "draft" (see `preprocess_fast`), by default what the artifact's
    `preprocess.json` names as its method, which is "exact" unless somebody changed it.

    Raises:
        ArtifactError: the folder is no artifact, or a file is missing or damaged.
        EngineError: the runtime cannot load a tower.
        MissingDependencyError: the way to preprocess needs a package that is not installed.
    """
    from clipperf.env import available_cores
    from clipperf.store import cache_folder

    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}: give a whole number from 1")
    folder = Path(folder).expanduser().absolute()
    manifest = _read_manifest(folder)
    spec = manifest["spec"]
    chosen = _contract.get(runtime or manifest["runtime"])
    if chosen.artifact != manifest["runtime"]:
        raise UsageError(
            f"{chosen.name} does not load {manifest['runtime']} artifacts, which {folder} holds; "
            f"export the model for it: clipperf export {spec.id} --runtime {chosen.artifact}"
        )
    device = device or chosen.devices[0]
    if device not in chosen.devices:
        raise UsageError(f"{chosen.name} runs on {', '.join(chosen.devices)}, not on {device!r}")
    pixels = read_pixels(folder)
    if preprocess is not None:
        pixels = dataclasses.replace(pixels, method=preprocess)
    if pixels.method != "exact":
        preprocess_fast.library()
    engines: dict[Side, Engine] = {}
    short_texts = False
    pixel_dtype: PixelDtype = "float32"
    for tower in manifest["towers"]:
        path = folder / tower["path"]
        _check_sizes(folder, tower)
        cell = Cell(
            spec.id, tower["side"], chosen.name, manifest["precision"], device, 1,
            threads or available_cores(),
        )  # fmt: skip
        request = EngineRequest(
            cell, spec, str(path), tower["normalized"], tower["key"], str(cache_folder())
        )
        engines[cell.side] = chosen.open(request)
        if cell.side == "text":
            short_texts = tower["tokens"] is None
        else:
            pixel_dtype = tower["inputs"][0]["dtype"]
    return ClipModel(
        engines,
        pixels,
        Tokenizer.from_folder(folder) if "text" in engines else None,
        embed_dim=spec.embed_dim,
        short_texts=short_texts,
        random_weights=spec.random_weights,
        pixel_dtype=pixel_dtype,
    )


def read_pixels(folder: Path) -> PreprocessSpec:
    """An artifact folder's `preprocess.json`."""
    from clipperf.files import read_json

    return PreprocessSpec.from_json(read_json(folder / "preprocess.json"))


TOWER_FIELDS = ("path", "side", "files", "disk_bytes", "inputs", "normalized", "tokens", "key")
"""What `load` reads of a tower."""


def _check_sizes(folder: Path, tower: dict[str, Any]) -> None:
    """Notice a missing or truncated file; runtimes say it less clearly, or not at all."""
    found = 0
    for name in tower["files"]:
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing: export the model again")
        found += (folder / name).stat().st_size
    if found != tower["disk_bytes"]:
        raise ArtifactError(
            f"{folder / tower['path']} is damaged: {found} bytes, expected "
            f"{tower['disk_bytes']}; export the model again"
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as plain values: validating it fully would need pydantic in deployments."""
    from clipperf.store import MANIFEST_NAME, SCHEMA_VERSION

    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
        needed = ("spec", "runtime", "precision", "towers")
        missing = [name for name in needed if name not in manifest]
        if version == SCHEMA_VERSION and not missing:
            known = {field.name for field in dataclasses.fields(ModelSpec)}
            spec = {name: value for name, value in manifest["spec"].items() if name in known}
            manifest["spec"] = ModelSpec(**spec)
            for tower in manifest["towers"]:
                missing += [name for name in TOWER_FIELDS if name not in tower]
    except FileNotFoundError as exc:
        raise ArtifactError(
            f"{folder} holds no {MANIFEST_NAME}: make an artifact folder with "
            f"clipperf export MODEL --out {folder}"
        ) from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ArtifactError(f"{path} is damaged: export the model again") from exc
    if version != SCHEMA_VERSION or missing:
        raise ArtifactError(
            f"{path} was written by another version of clipperf (schema {version}, this one "
            f"reads {SCHEMA_VERSION}): export the model again"
        )
    return dict(manifest)
