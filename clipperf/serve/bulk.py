"""One tower of a model, opened to embed inputs without an end."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.decode import ImageInput
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import Cell, Engine
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serve.apart import NOT_FINITE, apart
from clipperf.serve.images import Seen, prepared, reason_of
from clipperf.serve.load import choices_at
from clipperf.serve.parts import Parts, open_all
from clipperf.serve.streams import finite, run_each
from clipperf.serve.texts import encode as embed_texts
from clipperf.serve.towers import Choice
from clipperf.system.env import available_cores

PLAIN_TEXT = "a photo"
"""One that no tower can fail for."""


@dataclass(frozen=True)
class Embedded:
    """A part of many images: float32 [images, embed_dim], NaN where one has no embedding.

    `unreadable` says why, by the place in the part; `clipped` images hold values that are no bytes.
    """

    rows: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    clipped: tuple[int, ...] = ()


def open_tower(
    folder: str | Path,
    side: Side,
    *,
    threads: int | None = None,
    streams: int | None = None,
    runtime: str | None = None,
    device: str | None = None,
    preprocess: str | None = None,
) -> Tower:
    """Open one tower of what `clipperf.load` opens both of; the options are those.

    Raises:
        ArtifactError: it has no such tower; and as `clipperf.load`.
    """
    path, choices = choices_at(
        folder, threads=threads, streams=streams, runtime=runtime, device=device
    )
    return open_chosen(path, choices, side, preprocess)


def open_chosen(
    path: Path, choices: Sequence[Choice], side: Side, preprocess: str | None = None
) -> Tower:
    """Open one tower of what was found at a path; see `open_tower`."""
    wanted = [replace(choice, side=side) for choice in choices if choice.side in (None, side)]
    parts = open_all(wanted, preprocess, verify=False, self_test=None) if wanted else None
    if parts is None or side not in parts.engines:
        raise ArtifactError(
            f"{path} has no {side} tower; export it too: clipperf export MODEL --tower {side}"
        )
    return Tower(parts, side)


class Tower:
    """One tower and what makes its inputs; close it.

    `batch` inputs are run at once, by default as many as were tuned. `warnings` are what its user
    should know.
    """

    def __init__(self, parts: Parts, side: Side) -> None:
        self._parts = parts
        self.side = side
        self.batch = parts.batches[side]
        self.warnings = tuple(parts.warnings)

    @property
    def artifact(self) -> Artifact:
        """What was opened."""
        return self._parts.towers[self.side]

    @property
    def cell(self) -> Cell:
        """In what it was opened."""
        return self._parts.cells[self.side]

    @property
    def embed_dim(self) -> int:
        """The width of its embeddings."""
        return self._parts.spec.embed_dim

    @property
    def pixels(self) -> PreprocessSpec:
        """How images are preprocessed."""
        return self._parts.pixels

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes token ids of texts; of a text tower."""
        assert self._parts.tokenizer is not None
        return self._parts.tokenizer

    @property
    def engine(self) -> Engine:
        """The engine alone."""
        return self._parts.engines[self.side]

    @property
    def pixel_dtype(self) -> PixelDtype:
        """What an image tower takes."""
        return self._parts.pixel_dtype

    def images(
        self,
        parts: Iterable[Sequence[ImageInput]],
        workers: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Iterator[Embedded]:
        """Embed images, each part as one batch, which may be empty; in their order.

        `workers` threads prepare the next part meanwhile, by default one a core. `on_end` is called
        at the end, and before they are waited for where it comes early.
        """
        return encode_each(
            parts,
            self.pixels,
            self.engine,
            available_cores() if workers is None else workers,
            dtype=self.pixel_dtype,
            embed_dim=self.embed_dim,
            on_end=on_end,
        )

    def texts(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Float32 [texts, embed_dim], NaN where one is refused; and why, by its place."""
        bad: dict[int, str] = {}
        found: np.ndarray | None = None
        good = list(range(len(texts)))
        while good:
            try:
                run = partial(self._some, [texts[i] for i in good])
                found, odd = apart(run, len(good), lambda: self._texts([PLAIN_TEXT]))
                bad |= {good[i]: NOT_FINITE for i in odd}
                good = [i for i in good if i not in bad]
                break
            except UsageError as exc:  # one is too long for its tokenizer: which?
                why = self._refused([texts[i] for i in good])
                if not why:
                    raise
                bad |= {good[i]: reason for i, reason in why.items()}
                good = [i for i in good if i not in bad]
                del exc
        rows = np.full((len(texts), self.embed_dim), np.nan, np.float32)
        if found is not None:
            rows[good] = found
        return rows, bad

    def _some(self, texts: Sequence[str], places: Sequence[int]) -> np.ndarray:
        return self._texts([texts[place] for place in places])

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        return embed_texts(texts, self.tokenizer, self.engine, self.batch, cut=self.artifact.cut_at)

    def _refused(self, texts: Sequence[str]) -> dict[int, str]:
        found = {}
        for i, text in enumerate(texts):
            try:
                self.tokenizer([text])
            except UsageError as exc:
                found[i] = str(exc)
        return found

    def close(self) -> None:
        """Free the tower; safe to call twice."""
        self._parts.close()

    def __enter__(self) -> Tower:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _rows(engine: Engine, embed_dim: int, batch: np.ndarray) -> np.ndarray:
    """Embed a batch, which may be empty; NaN where an input has no finite values."""
    if not len(batch):
        return np.zeros((0, embed_dim), np.float32)
    found, odd = apart(
        lambda places: finite(engine, batch if len(places) == len(batch) else batch[list(places)]),
        len(batch),
        lambda: finite(engine, np.zeros_like(batch[:1])),
    )
    if not odd:
        assert found is not None
        return found
    rows = np.full((len(batch), embed_dim), np.nan, np.float32)
    if found is not None:
        rows[[place for place in range(len(batch)) if place not in odd]] = found
    return rows


def encode_each(
    parts: Iterable[Sequence[ImageInput]],
    spec: PreprocessSpec,
    engine: Engine,
    workers: int,
    *,
    dtype: PixelDtype,
    embed_dim: int,
    on_end: Callable[[], None] = lambda: None,
) -> Iterator[Embedded]:
    """Embed images without an end, each part one batch: what came of the parts, in their order.

    No more parts than those that run, one that is ready and one that is prepared are in memory.
    `on_end`: see `Tower.images`.

    Raises:
        EngineError: a run failed, or gave no finite values for a plain input either.
    """
    seen, given = Seen(), deque[tuple[int, Sequence[ImageInput]]]()

    def taken() -> Iterator[Sequence[ImageInput]]:
        start = 0
        for part in parts:
            given.append((start, part))
            start += len(part)
            yield part

    making = prepared(taken(), spec, workers, dtype, seen, skip=True, on_end=on_end)
    with contextlib.closing(making) as ready:
        for good in run_each(engine, ready, partial(_rows, engine, embed_dim)):
            yield _placed(good, *given.popleft(), seen, embed_dim)


def _placed(
    good: np.ndarray, start: int, part: Sequence[ImageInput], seen: Seen, embed_dim: int
) -> Embedded:
    """What came of a part that begins at place `start`; takes it out of `seen`."""
    clipped = {i for i in range(len(part)) if start + i in seen.clipped}
    seen.clipped.difference_update(start + i for i in clipped)
    bad = [i for i in range(len(part)) if start + i in seen.unreadable]
    why = {i: reason_of(start + i, part[i], seen.unreadable.pop(start + i)) for i in bad}
    ran = [i for i in range(len(part)) if i not in why]
    why |= {ran[row]: NOT_FINITE for row in np.flatnonzero(~np.isfinite(good).all(axis=1))}
    rows = good
    if bad:
        rows = np.full((len(part), embed_dim), np.nan, np.float32)
        rows[ran] = good
    return Embedded(rows, why, tuple(sorted(clipped - why.keys())))
