"""A tower of a few numbers for `malformed_inputs`, and what has to be true of its vectors.

What another reader finds under an id in the damaged file is what its vector has to be of. Where
that reader gives up there is nothing to compare, and what is left is that ids, rows and counts
agree, that vectors are finite, and that the same command makes nothing again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from clipperf.embed.items import Wanted
from clipperf.embed.run import embed
from clipperf.embed.wishes import Wishes
from clipperf.errors import ClipperfError, UsageError
from clipperf.inputs.decode import ImageInput
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.cell import Cell
from clipperf.serve.bulk import Embedded, encode_each

SPEC = PreprocessSpec(height_px=16, width_px=16)
WIDTH = 6
MATRIX = np.random.default_rng(0).standard_normal((3 * 16 * 16, WIDTH)).astype(np.float32)
WISHES = Wishes(shard_items=3, workers=1)
CHECKED = replace(WISHES, verify=True)

Expected = dict[str, bytes | str]
"""What another reader finds under each id: an image's bytes, or a text."""


class Toy:
    """A tower without a model: projections of pixels, or of a text's digest."""

    batch, embed_dim, pixels, warnings = 2, WIDTH, SPEC, ()
    cell = Cell("toy", "image", "onnx", "fp32", "cpu", batch=2, threads=1)
    artifact = SimpleNamespace(key="0" * 16, normalized=False)

    def __init__(self, side: str = "image") -> None:
        self.side = side

    def run(self, array: np.ndarray) -> np.ndarray:
        """The engine."""
        return np.concatenate([row.reshape(1, -1) @ MATRIX for row in array])

    def images(
        self, parts: Iterable[Sequence[ImageInput]], workers: int | None, on_end: Callable[[], None]
    ) -> Iterator[Embedded]:
        """As `Tower.images`."""
        own: Any = self
        return encode_each(
            *(parts, SPEC, own, workers or 1), dtype="float32", embed_dim=WIDTH, on_end=on_end
        )

    def texts(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """As `Tower.texts`."""
        return np.array([_of_text(text) for text in texts]).reshape(-1, WIDTH), {}

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Toy:
        """As `Tower`."""
        return self

    def __exit__(self, *error: object) -> None:
        """As `Tower`."""


def _of_text(text: str) -> np.ndarray:
    digest = hashlib.blake2b(text.encode(), digest_size=WIDTH).digest()
    return 1 + np.frombuffer(digest, np.uint8).astype(np.float32)


@functools.lru_cache(4096)
def _vector(given: bytes | str) -> np.ndarray | None:
    """That of an input; None where it is none."""
    if isinstance(given, str):
        text = given.strip()
        return _of_text(text) if text else None
    try:
        return Toy().run(preprocess([given], SPEC))[0]
    except UsageError:
        return None


@dataclass(frozen=True)
class Source:
    """A kind of dataset: how it is written, what is embedded of a folder with it, who reads it."""

    name: str
    write: Callable[[Path], object]
    found: Callable[[Path], Expected]
    side: str = "image"
    weight: float = 2.0
    mutates: str = "*"
    made: st.SearchStrategy[bytes] | None = None


def used(kind: Source, folder: Path) -> str:
    """Embed a damaged dataset twice; what is wrong with what came of it, "" where nothing is.

    Raises:
        ClipperfError: it is refused.
    """
    side: Any = kind.side
    path = folder if kind.name == "." else folder / kind.name
    wishes, out = replace(WISHES, wanted=Wanted(side)), folder.parent / "out"
    opened: Any = functools.partial(Toy, side)
    summary = embed(path, out, opened, wishes)
    ids, rows, corrupt = _held(out)
    items = sum(json.loads(record.read_text())["items"] for record in _records(out))
    if not (len(ids) == len(rows) == summary.vectors and len(corrupt) == summary.corrupt):
        return "ids, rows and counts are not as many"
    if items != len(ids) + len(corrupt):
        return f"{items} items, {len(ids)} of them with a vector, {len(corrupt)} corrupt"
    if len({*ids, *corrupt}) != items and kind.name.endswith((".tar", "photos")):
        return "an id is there twice"
    if not np.isfinite(rows).all():
        return "a vector is not finite"
    if embed(path, out, opened, replace(wishes, verify=True)).made:
        return "the same command made a shard again"
    try:
        expected = kind.found(folder)
    except (ClipperfError, OSError, ValueError, LookupError, EOFError, csv.Error, tarfile.TarError):
        return ""
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, RecursionError):
        return ""
    for id_, row in zip(ids, rows, strict=True):
        own = _vector(expected[id_]) if id_ in expected else None
        if own is None or np.abs(own - row).max() > 1e-3:
            return f"the vector of {id_!r} is that of another input"
    return ""


def _records(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("shard-*.json") if path.suffixes == [".json"])


def _held(out: Path) -> tuple[list[str], np.ndarray, list[str]]:
    ids: list[str] = []
    rows = [np.zeros((0, WIDTH), np.float32)]
    corrupt: list[str] = []
    for record in _records(out):
        ids += json.loads(record.with_suffix(".ids.json").read_text("utf-8"))
        rows.append(np.load(record.with_suffix(".npy")))
        listed = record.with_suffix(".corrupt.jsonl")
        if listed.exists():
            # Lines end with "\\n" alone: ids may hold what Python takes for other ends.
            lines = listed.read_text("utf-8").split("\n")[:-1]
            corrupt += [json.loads(line)["id"] for line in lines]
    return ids, np.concatenate(rows), corrupt
