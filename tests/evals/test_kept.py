"""Embeddings in the store: what is there is not embedded again, what is damaged or killed is."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, store_of
from PIL import Image
from published_layouts import classified, shards

from clipperf.errors import EngineError
from clipperf.evals import accuracy, evaluate, kept, worker
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.kept import Shelf, identity_of, shared_tokenizer
from clipperf.evals.worker import ModelRequest
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.sources import ImageSource
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import SIDES
from clipperf.system import store

SHELF = Shelf({"image": "i", "text": "t"})


class Counting:
    """An embedder that counts what it is given, and gives up at an image."""

    def __init__(self, fail_at: int = 10**9) -> None:
        self.images, self.texts, self.fail_at = 0, 0, fail_at

    def encode_images(self, images: Sequence[ImageSource]) -> np.ndarray:
        self.images += len(images)
        if self.images > self.fail_at:
            raise KeyboardInterrupt
        return np.array([np.frombuffer(i.read()[:56], np.uint8) for i in images], np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts)
        return np.array([[len(t), *range(55)] for t in texts], np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return load_dataset(classified(tmp_path / "w", [i % 3 for i in range(20)], per_shard=7))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PART", {"image": 8, "text": 4})


def test_what_is_kept_is_not_embedded_again(data: Dataset, home: Path, small_parts: None) -> None:
    first, again = Counting(), Counting()
    found = accuracy.embed(data, first, 4, shelf=SHELF)
    same = accuracy.embed(data, again, 4, shelf=SHELF)
    assert (first.images, first.texts, again.images, again.texts) == (20, 4, 0, 0)
    assert np.array_equal(found.images, same.images)
    assert np.array_equal(found.texts["prompts"], same.texts["prompts"])


def test_progress_is_told_of_all_images(data: Dataset, home: Path, small_parts: None) -> None:
    told: list[tuple[str, int, int]] = []
    accuracy.embed(data, Counting(), 4, lambda *at: told.append(at), shelf=SHELF)
    assert [at for at in told if at[0] == "images"] == [
        ("images", done, 20) for done in (4, 8, 12, 16, 20)
    ]


def test_a_run_goes_on_at_its_part(data: Dataset, home: Path, small_parts: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        accuracy.embed(data, Counting(fail_at=12), 4, shelf=SHELF)
    rest = Counting()
    found = accuracy.embed(data, rest, 4, shelf=SHELF)
    assert rest.images == 12
    assert np.array_equal(found.images, accuracy.embed(data, Counting(), 4).images)


def test_a_grown_dataset_costs_what_is_new(tmp_path: Path, home: Path, small_parts: None) -> None:
    few, more = Counting(), Counting()
    for embedder, n in ((few, 16), (more, 19)):
        root = classified(tmp_path / str(n), [0] * n, per_shard=8)
        accuracy.embed(load_dataset(root), embedder, 4, shelf=SHELF)
    assert (few.images, more.images) == (16, 3)


@pytest.mark.parametrize("at", [0, 100, -1])
def test_what_is_damaged_is_embedded_again(
    data: Dataset, home: Path, small_parts: None, at: int
) -> None:
    found = accuracy.embed(data, Counting(), 4, shelf=SHELF)
    path = sorted((kept.folder() / "i").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    again = Counting()
    same = accuracy.embed(data, again, 4, shelf=SHELF)
    assert again.images in (4, 8) and np.array_equal(found.images, same.images)


def test_a_store_that_cannot_be_written_costs_nothing_else(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "file"))
    assert len(accuracy.embed(data, Counting(), 4, shelf=SHELF).images) == 20


def test_no_more_than_a_batch_of_images_is_held(tmp_path: Path, home: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "BMP")
    image = stream.getvalue()
    samples = ({"cls": b"0", "bmp": image[:-1] + bytes([i])} for i in range(40))
    root = shards(tmp_path / "w", samples, {"classnames.txt": "a\nb\n"}, per_shard=20)
    tracemalloc.start()
    data = load_dataset(root)
    accuracy.embed(data, Counting(), 2, shelf=SHELF)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.images) == 40 and peak < 6 * len(image)


# --- with a model ------------------------------------------------------------------------------


def request(folder: Path, runtime: str = "onnx") -> ModelRequest:
    spec = zoo.resolve("clipperf-sample")
    towers = []
    for side in SIDES:
        tower = store.read_manifest(folder).tower(side)
        assert tower is not None
        cell = Cell(spec.id, side, runtime, "fp32", "cpu", 4, 1)
        own = (str(folder / tower.path), tower.key) if runtime == "onnx" else (None, "")
        towers.append(EngineRequest(cell, spec, own[0], key=own[1]))
    return ModelRequest(folder, tuple(towers))


def test_all_that_changes_the_bits_is_in_the_name(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request(sample_artifact)
    image, text = model.towers
    pixels = PreprocessSpec()

    def name(tower: EngineRequest, pixels: PreprocessSpec = pixels, sums: Any = ("a",)) -> Any:
        return identity_of(tower, sample_artifact, pixels, sums)

    of_cell = [
        dataclasses.replace(image, cell=dataclasses.replace(image.cell, **change))
        for change in ({"batch": 8}, {"threads": 2}, {"precision": "fp16"}, {"device": "cuda"})
    ]
    others = [
        name(dataclasses.replace(image, key="other")),
        name(image, PreprocessSpec(method="fast")),
        name(text),
        name(text, sums=("b",)),
        name(request(sample_artifact, "torch").towers[0]),
        *map(name, of_cell),
    ]
    assert len({name(image), *others}) == 1 + len(others) and None not in others
    assert name(image) == name(image, sums=("b",))
    uncut = store.read_manifest(sample_artifact)
    baseline = request(sample_artifact, "torch").towers[1]
    before = name(baseline)
    assert uncut.cut_at is not None
    with monkeypatch.context() as patched:
        towers = tuple(dataclasses.replace(tower, cut=None) for tower in uncut.towers)
        uncut = dataclasses.replace(uncut, towers=towers)
        patched.setattr(store, "read_manifest", lambda folder: uncut)
        assert name(baseline) != before, "the baseline cuts its texts as the folder says"
    unknown = dataclasses.replace(image, key="", path="some.onnx")
    assert name(unknown) is None
    foreign = dataclasses.replace(image, cell=dataclasses.replace(image.cell, runtime="theirs"))
    assert name(foreign) is None


def test_a_second_evaluation_starts_no_process(
    sample_artifact: Path, samples: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store_of(sample_artifact, home)

    def prepare(cell: Cell, spec: ModelSpec, on_stage: Callable[[str], None]) -> ModelRequest:
        return request(folder, cell.runtime)

    def run() -> Any:
        spec = zoo.resolve("clipperf-sample")
        devices = {"torch": "cpu", "onnx": "cpu"}
        return evaluate.evaluate([spec], devices, load_dataset(samples), prepare, batch=4)

    first, failures = run()
    assert failures == []

    def refuse(*args: Any) -> Any:
        raise EngineError("no process now")

    monkeypatch.setattr(evaluate, "embed_apart", refuse)
    again, failures = run()
    assert failures == [] and again.scores == first.scores


KILLED = """
import sys, time
from pathlib import Path
from clipperf.evals import accuracy, kept, worker
from clipperf.evals.datasets import load_dataset
from test_kept import request
kept.PART = {"image": 4, "text": 4}
model = request(Path(sys.argv[1]))
with worker.open_model(model) as opened:
    data, embedder = load_dataset(sys.argv[2]), accuracy.ModelEmbedder(opened, 4)
    hang = lambda what, done, total: time.sleep(600 if done == 12 else 0)
    accuracy.embed(data, embedder, 4, hang, shelf=worker.shelf_of(model))
"""


def test_a_killed_process_leaves_parts_that_end_bit_equal(
    sample_artifact: Path, samples: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "PART", {"image": 4, "text": 4})
    folder = store_of(sample_artifact, home)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), samples],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len([*kept.folder().glob("*/*.npy")]) < 2 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert len([*kept.folder().glob("*/*.npy")]) == 2
    model = request(folder)
    with worker.open_model(model) as opened:
        data, embedder = load_dataset(samples), accuracy.ModelEmbedder(opened, 4)
        found = accuracy.embed(data, embedder, 4, shelf=worker.shelf_of(model))
        clean = accuracy.embed(data, embedder, 4, shelf=Shelf({}))
    assert len(data.images) == 24 and len([*kept.folder().glob("*/*.npy")]) == 12
    assert np.array_equal(found.images, clean.images)
    assert np.array_equal(found.texts["captions"], clean.texts["captions"])


def test_texts_are_tokenised_once_for_all_runtimes(
    sample_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a photo of a missile.", "café", "a photo of sunglasses."] * 3
    expected = Tokenizer.from_folder(sample_artifact)(texts)
    calls: list[int] = []
    tokenise = Tokenizer.__call__

    def counted(self: Tokenizer, texts: Sequence[str], tokens: int | None = None) -> np.ndarray:
        calls.append(len(texts))
        return tokenise(self, texts, tokens)

    monkeypatch.setattr(Tokenizer, "__call__", counted)
    for _ in range(2):
        found = shared_tokenizer(sample_artifact, tmp_path)(texts)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert calls == [9]
    assert shared_tokenizer(sample_artifact, tmp_path)(texts[:2]).shape == (2, 77)
    assert calls == [9, 2]
