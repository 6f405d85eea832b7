"""An exported model in use: images and strings in, embeddings out, without torch.

Needs numpy, pillow, tokenizers, msgspec and the artifact's runtime (and ftfy for texts beyond
plain ASCII, cykooz-resizer for the fast ways to preprocess).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clipperf.errors import AccuracyWarning, ArtifactError, UsageError
from clipperf.inputs.decode import ImageInput, is_one
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serve import tuned
from clipperf.serve.forks import leave, watch
from clipperf.serve.images import OnError
from clipperf.serve.images import encode as embed_images
from clipperf.serve.parts import open_again, open_all
from clipperf.serve.streams import spread
from clipperf.serve.texts import encode as embed_texts
from clipperf.serve.towers import DEFAULT_BATCH, Choice
from clipperf.system.env import available_cores
from clipperf.system.processes import trim_heap
from clipperf.system.targets import expanded, kind_of
from clipperf.text import quoted


class ClipModel:
    """A CLIP whose towers run in some runtime. Make one with `clipperf.load`.

    `encode_images` and `encode_texts` return float32 [n, embed_dim]: the raw embeddings, or unit
    vectors where the model was exported with ``--normalize`` or `normalize` is passed.
    `batch_size` is by default the tuned one, else 32.
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
        batches: Mapping[Side, int] | None = None,
        pixel_dtype: PixelDtype = "float32",
        open_again: Callable[[], dict[Side, Engine]] | None = None,
    ) -> None:
        self._engines = engines
        self._open_again = open_again
        self._forked = False
        self._lock = threading.Lock()
        self._batches = dict(batches or {})
        self._tokenizer = tokenizer
        self._short_texts = short_texts
        self._closed = False
        self._pixel_dtype = pixel_dtype
        self.pixels = pixels
        self.embed_dim = embed_dim
        self.random_weights = random_weights

    def encode_images(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int | None = None,
        normalize: bool = False,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> np.ndarray:
        """Decode, preprocess and embed images.

        Each is a path, a PIL image, what is in an image file (`bytes`, or a binary file that is
        read from where it stands to its end), or pixels: a uint8 array [height, width, 3] in RGB.
        `workers` threads prepare the next batch while the engine runs the current one, by default
        one for each core of this process; 0 does all of it in the calling thread. `on_error` says
        what becomes of images that cannot be read: "raise"; "mark" their rows as NaN, and name
        them in one `UnreadableWarning`, whose `reasons` are by place; or a function that is called
        with the place and the error instead, such as `failed.__setitem__` of a dict.

        Raises:
            UsageError: an image cannot be read, `images` is not a list, `batch_size` is below 1,
                or `workers` below 0.
            ArtifactError: the artifact has no image tower.
        """
        images = _listed(images, "encode_images takes a list of images: put it in brackets")
        engine, batch_size = self._engine("image", batch_size)
        batch_size = spread(engine, len(images), batch_size)
        workers = _workers(workers, len(images))
        assert self.pixels is not None
        found = embed_images(
            images,
            self.pixels,
            engine,
            batch_size,
            workers,
            dtype=self._pixel_dtype,
            embed_dim=self.embed_dim,
            on_error=on_error,
        )
        return self._finished(found, normalize)

    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int | None = None, normalize: bool = False
    ) -> np.ndarray:
        """Tokenise and embed strings; longer ones than the context are cut as open_clip does.

        Of a text of any length CLIP's own tokenizer reads as much as the context holds. The others
        (of a kind "hf" or "clips") read all of it, as the last words may count there, too: they
        refuse texts of more than 1,048,576 characters, or 16,384 with HTML entities in them. So
        does CLIP's own for a text without spaces to cut it at.

        Equal texts are embedded once. Where the tower allows it, which is exact, texts of like
        length share batches that are cut at their longest (see `serve.texts`).

        Raises:
            UsageError: `texts` is not a list of strings, or `batch_size` is below 1.
            ArtifactError: the artifact has no text tower.
        """
        texts = _listed(texts, "encode_texts takes a list of strings: put it in brackets")
        engine, batch_size = self._engine("text", batch_size)
        assert self._tokenizer is not None
        found = None
        if texts:
            found = embed_texts(texts, self._tokenizer, engine, batch_size, cut=self._short_texts)
        return self._finished(found, normalize)

    def _engine(self, side: Side, batch_size: int | None) -> tuple[Engine, int]:
        """A tower's engine, and the number of inputs that it is to be given at once."""
        if self._closed:
            raise UsageError("this model is closed; open the artifact again with clipperf.load")
        self._open_after_fork()
        if batch_size is None:
            batch_size = self._batches.get(side, DEFAULT_BATCH)
        if batch_size < 1:
            raise UsageError(f"batch_size is {quoted(batch_size)}, it must be 1 or more")
        if side not in self._engines:
            raise ArtifactError(
                f"this artifact has no {side} tower; export it too: "
                f"clipperf export MODEL --tower {side}"
            )
        return self._engines[side], batch_size

    def forked(self) -> None:
        """Called in a forked process: its engines' threads are the parent's, so it needs others."""
        leave(self._engines.values())
        self._engines, self._lock = {}, threading.Lock()
        self._forked = not self._closed

    def _open_after_fork(self) -> None:
        with self._lock:
            if self._forked and self._open_again is not None:
                self._engines = self._open_again()
                self._forked = False

    def _finished(self, found: np.ndarray | None, normalize: bool) -> np.ndarray:
        if found is None:
            return np.zeros((0, self.embed_dim), np.float32)
        if normalize:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return np.ascontiguousarray(found, dtype=np.float32)

    def close(self) -> None:
        """Free both towers, and give the memory back that they leave to the process."""
        for engine in self._engines.values():
            engine.close()
        self._engines = {}
        self._closed = True
        trim_heap()

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
    if is_one(values) or isinstance(values, dict):
        raise UsageError(advice)
    try:
        return list(values)
    except TypeError as exc:
        raise UsageError(advice) from exc


def _workers(workers: int | None, images: int) -> int:
    """How many threads to preprocess with; a single image is not worth starting one."""
    if workers is None:
        return min(available_cores(), images) if images > 1 else 0
    if not isinstance(workers, int) or workers < 0:
        raise UsageError(f"workers is {quoted(workers)}: give a whole number from 0")
    return workers


def load(
    folder: str | Path,
    *,
    threads: int | None = None,
    streams: int | None = None,
    runtime: str | None = None,
    device: str | None = None,
    preprocess: str | None = None,
    verify: bool = False,
) -> ClipModel:
    """Open an artifact folder that `clipperf export` wrote, or what `clipperf tune` wrote.

    A tuning, which is a file or the folder of ``--bundle``, says which artifact, runtime, threads,
    streams and batch each tower takes. Of an artifact folder, `threads` are those of one tower's
    engine, by default all cores of this process. `streams` batches, by default one, share them and
    run at once: more inputs a second, where one alone takes longer. A call with less than a full
    batch for every stream is given to them in smaller ones. `runtime` is the one that it was
    exported for, or another that loads it: "ort-cuda" takes ONNX artifacts. `device` is by default
    where that runtime usually runs. `preprocess` is "exact", "fast" or "draft" (see
    `preprocess_fast`), by default what `preprocess.json` names as its method (``clipperf export
    --preprocess``). Warns with `AccuracyWarning` where an int8 tower was made for another kind of
    CPU.

    The settings and the tokenizer are checked against their sha256, the towers against their
    size. With `verify` the towers are read for their sha256, too, and embed some inputs, which
    have to come as near to PyTorch's embeddings as the export demanded.

    An artifact that is replaced meanwhile is the old one or the new one, never a mix. A process
    that is forked from this one opens the towers again when it first needs them.

    Raises:
        ArtifactError: the folder is no artifact, a file is missing, of another size or altered,
            or `verify` found other embeddings.
        EngineError: the runtime cannot load a tower.
        UsageError: an option is not valid, the runtime cannot do what it says, or of the path
            nothing can be told.
        MissingDependencyError: the runtime or the way to preprocess needs a package that is not
            installed.
    """
    for name, value in (("threads", threads), ("streams", streams)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} is {quoted(value)}: give a whole number from 1")
    path = expanded(folder)
    kind = kind_of(path)
    if kind == "nothing":
        raise ArtifactError(f"{path}: there is no such file or folder")
    if kind == "folder" and kind_of(path / tuned.FILE) == "file":
        path, kind = path / tuned.FILE, "file"
    if kind == "file":
        if (threads, streams, runtime, device) != (None, None, None, None):
            raise UsageError(
                f"{path} is a tuning, which sets threads, streams, runtime and device; load the "
                f"artifact folder to choose them"
            )
        choices = tuned.read(path)
    else:
        choices = [
            Choice(path, runtime=runtime, device=device, threads=threads, streams=streams or 1)
        ]
    parts = open_all(choices, preprocess, verify)
    for problem in parts.warnings:
        warnings.warn(problem, AccuracyWarning, stacklevel=2)
    text = parts.towers.get("text")
    model = ClipModel(
        parts.engines,
        parts.pixels,
        parts.tokenizer,
        embed_dim=parts.spec.embed_dim,
        short_texts=text is not None and text.tokens is None,
        random_weights=parts.spec.random_weights,
        batches=parts.batches,
        pixel_dtype=parts.pixel_dtype,
        open_again=lambda: open_again(choices, parts),
    )
    watch(model)
    return model
