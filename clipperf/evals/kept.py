"""Embeddings kept in the store, so that a new task or metric costs no inference.

Inputs are embedded in parts of a fixed length, whole batches each. A part is kept as soon as it is
there: a run that was interrupted goes on at its part, and ends bit for bit as one that was not.
What it is kept under holds everything that changes the bits: the tower's key or its weights, how
images are preprocessed or texts tokenised, the cell (runtime, precision, device, batch, threads),
the machine, the versions of all packages, and the inputs themselves. A file that is damaged, which
its checksum shows, is as one that was never kept.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines.contract import RUNTIMES
from clipperf.errors import StorageError, UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.sources import ImageSource
from clipperf.inputs.tokenize import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.variant import Side
from clipperf.system import env, store
from clipperf.system.files import digest_of, replacing, sha256_files
from clipperf.system.sealed import sealed, unsealed

PART = {"image": 1024, "text": 4096}
"""Inputs that are kept together at least: what an interruption costs at most."""


def folder() -> Path:
    """Where embeddings are kept; it may be removed at any time."""
    return store.home() / "embeddings"


@dataclass(frozen=True)
class Shelf:
    """Where a model's embeddings are kept: those of each side under what `identity_of` says."""

    identities: dict[Side, str]

    def part(self, side: Side, batch: int) -> int:
        """The number of inputs that are kept together, which is whole batches."""
        if batch < 1:
            raise UsageError(f"the batch must be at least 1, not {batch}")
        return max(1, PART[side] // batch) * batch

    def get(self, side: Side, inputs: Sequence[Any]) -> np.ndarray | None:
        """The embeddings of a part, [inputs, dim]; None where they are not kept whole."""
        path = self._path(side, inputs)
        found = None if path is None else _read(path)
        return (
            found if found is not None and found.ndim == 2 and len(found) == len(inputs) else None
        )

    def put(self, side: Side, inputs: Sequence[Any], embeddings: np.ndarray) -> None:
        """Keep the embeddings of a part, whole or not at all; not where they cannot be written."""
        path = self._path(side, inputs)
        if path is not None:
            _write(path, embeddings)

    def _path(self, side: Side, inputs: Sequence[Any]) -> Path | None:
        identity = self.identities.get(side)
        names = [i.identity if isinstance(i, ImageSource) else i for i in inputs]
        if identity is None or not all(names if side == "image" else (True,)):
            return None
        return folder() / identity / f"{digest_of(side, names)}.npy"


NOWHERE = Shelf({})
"""For towers of which nothing is kept."""


def identity_of(
    request: EngineRequest,
    artifacts: Path,
    pixels: PreprocessSpec,
    tokens: Sequence[str],
    features: bool = False,
) -> str | None:
    """What a tower's embeddings are kept under; None where it cannot be told.

    That is so of a runtime from another package, whose code may change under one name.
    `artifacts` is the folder whose towers it has, or whose tokenizer and preprocessing it borrows:
    a runtime that builds the tower from the weights has these, and texts cut, as is said there.
    `tokens` are the checksums of the tokenizer's files. With `features` images have these behind
    their embeddings.
    """
    if request.cell.runtime not in RUNTIMES.own():
        return None
    key = request.key
    if not key:
        manifest = store.read_manifest(artifacts)
        tower = manifest.tower(request.cell.side)
        if request.path is not None or tower is None:
            return None
        key = f"{tower.weights_id}, texts cut at {manifest.cut_at}"
    inputs = pixels if request.cell.side == "image" else list(tokens)
    more = ("features",) if features and request.cell.side == "image" else ()
    return digest_of("embeddings", key, request.spec, request.cell, inputs, *_machine(), *more)


@functools.cache
def _machine() -> tuple[Any, ...]:
    here = env.capture()
    return here.cpu, here.gpu, here.driver, here.versions, here.git_sha


def tokenizer_sums(artifacts: Path) -> tuple[str, ...]:
    """The checksums of the files of a folder's tokenizer; none where it has none."""
    names = [name for name in (TOKENIZER_FILE, CONFIG_FILE) if (artifacts / name).is_file()]
    return tuple(sha256_files(artifacts, names).values())


def once(kind: str, parts: Sequence[Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What the store keeps under these `parts`, made on this machine; else made now, and kept."""
    path = store.home() / kind / f"{digest_of(kind, *parts, *_machine())}.npy"
    found = _read(path)
    if found is None:
        found = make()
        _write(path, found)
    return found


class SharedTokenizer(Tokenizer):
    """A tokenizer whose tokens lie in a folder: processes that share it tokenise a text once."""

    def __init__(self, backend: Any, spec: Any) -> None:
        super().__init__(backend, spec)
        self.shared: Path | None = None
        self.sums: tuple[str, ...] = ()

    def __call__(self, texts: str | Sequence[str], context_tokens: int | None = None) -> np.ndarray:
        """See `Tokenizer`."""
        if self.shared is None:
            return super().__call__(texts, context_tokens)
        path = self.shared / f"tokens-{digest_of(self.sums, texts, context_tokens)}.npy"
        found = _read(path)
        if found is None:
            found = super().__call__(texts, context_tokens)
            _write(path, found.astype(np.int32))
        return found.astype(np.int64)


def shared_tokenizer(artifacts: Path, shared: Path | None) -> SharedTokenizer:
    """The tokenizer of a folder, whose tokens are shared in another; None: in none."""
    found = SharedTokenizer.from_folder(artifacts)
    assert isinstance(found, SharedTokenizer)
    found.shared, found.sums = shared, tokenizer_sums(artifacts)
    return found


def _read(path: Path) -> np.ndarray | None:
    """An array from a file that ends with its checksum; None where there is none such."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = unsealed(content)
    if data is None:
        return None
    with contextlib.suppress(ValueError, EOFError):
        found = np.load(io.BytesIO(data), allow_pickle=False)
        return found if isinstance(found, np.ndarray) else None
    return None


def _write(path: Path, array: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    content = sealed(stream.getvalue())
    with contextlib.suppress(StorageError), replacing(path) as temporary:
        temporary.write_bytes(content)
