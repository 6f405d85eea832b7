"""The self-test of a tower that was opened: embeddings that are none never pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipperf.engines.onnxruntime import open_session
from clipperf.errors import ArtifactError
from clipperf.nouns.artifact import Artifact
from clipperf.serve import selftest
from clipperf.system import store


@pytest.fixture
def tower(sample_artifact: Path) -> Artifact:
    found = store.read_manifest(sample_artifact).tower("text")
    assert found is not None
    return found


class Changed:
    """The sample's text tower, whose embeddings are changed."""

    def __init__(self, folder: Path, tower: Artifact, factor: float, noise: float = 0.0) -> None:
        self._engine = open_session(folder / tower.path, 1)
        self._factor, self._noise = factor, noise

    def run(self, array: np.ndarray) -> np.ndarray:
        found = self._engine.run(array)
        noise = np.random.default_rng(0).standard_normal(found.shape) * self._noise
        return (found * self._factor + noise * np.abs(found).mean()).astype(np.float32)

    def close(self) -> None:
        self._engine.close()


def test_the_tower_itself_passes(sample_artifact: Path, tower: Artifact) -> None:
    selftest.check(Changed(sample_artifact, tower, 1.0), sample_artifact, tower)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_embedding_fails(sample_artifact: Path, tower: Artifact, factor: float) -> None:
    with pytest.raises(ArtifactError, match="fails its self-test"):
        selftest.check(Changed(sample_artifact, tower, factor), sample_artifact, tower)


def test_a_tower_that_no_export_could_check_is_held_to_its_precision(
    sample_artifact: Path, tower: Artifact
) -> None:
    unchecked = replace(tower, parity=None, options={"batch": "2:8:32"})
    selftest.check(Changed(sample_artifact, tower, 1.0), sample_artifact, unchecked)
    with pytest.raises(ArtifactError, match=r"of \d+ inputs, 0\.99999 is required"):
        selftest.check(Changed(sample_artifact, tower, 1.0, 0.3), sample_artifact, unchecked)
    # Of several inputs, whatever the smallest batch.
    single = replace(tower, parity=None, options={"batch": "1:8:32"})
    with pytest.raises(ArtifactError, match="of 4 inputs"):
        selftest.check(Changed(sample_artifact, tower, 1.0, 0.3), sample_artifact, single)


class Constant:
    """Gives PyTorch's embedding of the first input for every one."""

    def __init__(self, engine: Changed) -> None:
        self._engine, self._first = engine, np.empty(0)

    def run(self, array: np.ndarray) -> np.ndarray:
        if not self._first.size:
            self._first = self._engine.run(array)[:1]
        return np.repeat(self._first, len(array), axis=0)


def test_a_constant_is_told_from_embeddings_that_are_alike(
    sample_artifact: Path, tower: Artifact
) -> None:
    """A tower that may lie far off, as one that was kept although it failed."""
    assert tower.parity is not None
    lax = replace(tower, parity=replace(tower.parity, required_min_cosine=-1.0))
    selftest.check(Changed(sample_artifact, tower, 1.0), sample_artifact, lax)
    with pytest.raises(ArtifactError, match="the same embedding for 4 different inputs"):
        selftest.check(Constant(Changed(sample_artifact, tower, 1.0)), sample_artifact, lax)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("required", "factor", "said"),
    [
        (0.99999, 1.04, None),
        (0.99999, 1.06, r"5\.0% more or less"),
        (0.99, 1.13, None),  # eight bits: an error may lie along a vector as well as across it
        (0.99, 1.15, r"14\.1% more or less"),
        (0.99, 0.85, r"14\.1% more or less"),
    ],
)
def test_lengths_are_held_to_what_the_cosine_allows(
    sample_artifact: Path, tower: Artifact, required: float, factor: float, said: str | None
) -> None:
    assert tower.parity is not None
    held = replace(tower, parity=replace(tower.parity, required_min_cosine=required))
    engine = Changed(sample_artifact, tower, factor)
    if said is None:
        selftest.check(engine, sample_artifact, held)
        return
    with pytest.raises(ArtifactError, match=said):
        selftest.check(engine, sample_artifact, held)


@pytest.mark.parametrize("batches", [(1, 3, 8), (8,), (1,), (2, 2, 2)])
def test_short_texts_are_tried_whatever_the_batches(
    sample_artifact: Path, tower: Artifact, batches: tuple[int, ...]
) -> None:
    """Also of an engine that was judged in one batch: the last has the whole context."""
    assert tower.parity is not None and tower.cut_at == "eot"
    widths: list[int] = []

    class Watched(Changed):
        def run(self, array: np.ndarray) -> np.ndarray:
            widths.append(array.shape[1])
            return super().run(array)

    judged = replace(tower, parity=replace(tower.parity, batches=batches))
    selftest.check(Watched(sample_artifact, tower, 1.0), sample_artifact, judged)
    *cut, last = widths
    assert cut and max(cut) < 77 and last == 77
    whole = replace(judged, cut=None)
    widths.clear()
    selftest.check(Watched(sample_artifact, tower, 1.0), sample_artifact, whole)
    assert set(widths) == {77}


@pytest.mark.parametrize("batches", [(), (0,), (-1,), (10**9,)])
def test_batches_that_cannot_be_are_refused(
    sample_artifact: Path, tower: Artifact, batches: tuple[int, ...]
) -> None:
    assert tower.parity is not None
    odd = replace(tower, parity=replace(tower.parity, batches=batches))
    with pytest.raises(ArtifactError, match="cannot be: export the model again"):
        selftest.check(Changed(sample_artifact, tower, 1.0), sample_artifact, odd)
