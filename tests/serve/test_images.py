"""Images are prepared by threads, one batch ahead of the engine and no further."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import EngineError, UsageError
from clipperf.inputs.preprocess import fill, preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.serve import images as image_batches
from clipperf.serve.load import ClipModel

SPEC = PreprocessSpec(16, 16)
WAIT_S = 30


class Means:
    """An engine that embeds an image as its mean pixel; `during` is called first in each run."""

    def __init__(self, during: Any = lambda run: None) -> None:
        self.runs = 0
        self.during = during

    def run(self, array: np.ndarray) -> np.ndarray:
        self.during(self.runs)
        self.runs += 1
        return array.mean((2, 3))

    def close(self) -> None:
        pass


def image_model(engine: Means) -> ClipModel:
    return ClipModel({"image": engine}, SPEC, None, embed_dim=3, short_texts=False)


def coloured(folder: Path, n: int) -> list[Path]:
    """Files whose colour tells their place."""
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 30), (i, 2 * i, 255 - i)).save(path)
    return paths


def pixel_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("clipperf-pixels")]


class Watch:
    """Stands in for `fill` and knows which images were begun and which are done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.changed = threading.Condition()
        monkeypatch.setattr(image_batches, "fill", self)

    def __call__(self, row: np.ndarray, image: Path, spec: PreprocessSpec) -> bool:
        with self.changed:
            self.begun.append(image.stem)
        clipped = fill(row, image, spec)
        with self.changed:
            self.done.append(image.stem)
            self.changed.notify_all()
        return clipped

    def wait_for(self, n: int, timeout_s: float = WAIT_S) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.done) >= n, timeout_s)


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_threads_keep_the_order(tmp_path: Path, workers: int | None) -> None:
    paths = coloured(tmp_path, 23)
    expected = preprocess(paths, SPEC).mean((2, 3))
    for size in (1, 4, 23, 99):
        found = image_model(Means()).encode_images(paths, batch_size=size, workers=workers)
        np.testing.assert_array_equal(found, expected)
    found = image_model(Means()).encode_images(iter(paths), workers=workers)
    np.testing.assert_array_equal(found, expected)
    assert not pixel_threads()


def test_the_next_batch_and_no_more_is_prepared_while_the_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    overlapped = []

    def during(run: int) -> None:
        # The engine does not return before the next batch is ready: without overlap, never.
        overlapped.append(watch.wait_for(min(4 * (run + 2), 16)))
        assert len(watch.begun) <= 4 * (run + 2)

    image_model(Means(during)).encode_images(coloured(tmp_path, 16), batch_size=4, workers=2)
    assert overlapped == [True] * 4


def test_without_workers_nothing_is_prepared_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    done = []
    engine = Means(lambda run: done.append(len(watch.begun)))
    image_model(engine).encode_images(coloured(tmp_path, 6), batch_size=2, workers=0)
    assert done == [2, 4, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_unreadable_image_is_named_with_its_place(tmp_path: Path, workers: int) -> None:
    paths = coloured(tmp_path, 12)
    paths[5].write_text("no pixels here")
    paths[7].unlink()
    with pytest.raises(UsageError, match=r"^image 5: .*5\.png: not an image"):
        image_model(Means()).encode_images(paths, batch_size=4, workers=workers)
    nameless = [Image.new("RGB", (9, 9)), Image.new("RGB", (0, 5))]
    with pytest.raises(UsageError, match=r"^image 1: .*no pixels"):
        image_model(Means()).encode_images(nameless, workers=workers)
    assert not pixel_threads()


@pytest.mark.parametrize("error", [EngineError, KeyboardInterrupt])
def test_when_a_run_ends_badly_the_threads_end_and_drop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    watch = Watch(monkeypatch)
    Image.effect_noise((900, 700), 80).convert("RGB").save(tmp_path / "slow.png")

    def fail(run: int) -> None:
        raise error("stop")

    with pytest.raises(error, match="stop"):
        image_model(Means(fail)).encode_images(
            [tmp_path / "slow.png"] * 60, batch_size=20, workers=2
        )
    assert not pixel_threads()
    assert len(watch.begun) < 30


def test_one_undecoded_image_listed_often_is_decoded_once(tmp_path: Path) -> None:
    Image.effect_noise((900, 700), 80).convert("RGB").save(tmp_path / "noise.png")
    expected = preprocess([tmp_path / "noise.png"], SPEC).mean((2, 3))
    with Image.open(tmp_path / "noise.png") as image:
        found = image_model(Means()).encode_images([image] * 12, workers=4)
    np.testing.assert_array_equal(found, expected.repeat(12, 0))


def test_bad_workers_are_refused() -> None:
    for workers in (-1, 1.5, "2"):
        with pytest.raises(UsageError, match="workers is"):
            image_model(Means()).encode_images([], workers=workers)  # type: ignore[arg-type]
