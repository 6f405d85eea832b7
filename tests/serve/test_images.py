"""Images are prepared by threads, one batch ahead of the engine and no further."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import AccuracyWarning, EngineError, UnreadableWarning, UsageError
from clipperf.inputs.preprocess import fill, preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.serve import images as image_batches
from clipperf.serve.model import ClipModel

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
    return ClipModel({"image": engine}, SPEC, None, embed_dim=3, cut=None)


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
    with pytest.raises(UsageError, match=r"^image 5 \(.*5\.png\): not an image"):
        image_model(Means()).encode_images(paths, batch_size=4, workers=workers)
    nameless = [Image.new("RGB", (9, 9)), Image.new("RGB", (0, 5))]
    with pytest.raises(UsageError, match=r"^image 1 \(.*\): .*no pixels"):
        image_model(Means()).encode_images(nameless, workers=workers)
    assert not pixel_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_every_kind_share_a_list(tmp_path: Path, workers: int) -> None:
    """A file that is there twice is read once, by one thread, and gives both."""
    paths = coloured(tmp_path, 3)
    twice = io.BytesIO(paths[1].read_bytes())
    images: list[Any] = [
        *(paths[0], paths[1].read_bytes(), twice, np.asarray(Image.open(paths[2]).convert("RGB"))),
        *(str(paths[0]), twice, Image.open(paths[2]), twice),
    ]
    model = image_model(Means())
    expected = model.encode_images([paths[i] for i in (0, 1, 1, 2, 0, 1, 2, 1)], batch_size=3)
    found = model.encode_images(images, batch_size=3, workers=workers)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_whatever_is_wrong_is_named_with_its_place_and_kind(tmp_path: Path, workers: int) -> None:
    good = coloured(tmp_path, 1)[0]
    bad = {
        "bytes": b"no pixels",
        "a file": io.BytesIO(b"no pixels"),
        "float32 array [4, 4, 3]": np.zeros((4, 4, 3), np.float32),
        "a value of type int": 7,
    }
    for name, image in bad.items():
        with pytest.raises(UsageError, match=rf"^image 3 \({re.escape(name)}\): "):
            image_model(Means()).encode_images([good, good, good, image], workers=workers)
    failed: dict[int, UsageError] = {}
    rows = image_model(Means()).encode_images(
        [*bad.values(), good], workers=workers, on_error=failed.__setitem__
    )
    assert list(failed) == [0, 1, 2, 3]
    assert np.isnan(rows[:4]).all() and np.isfinite(rows[4]).all()


def test_one_image_is_to_be_put_in_brackets(tmp_path: Path) -> None:
    good = coloured(tmp_path, 1)[0]
    pixels = np.asarray(Image.open(good).convert("RGB"))
    for one in (good, good.read_bytes(), io.BytesIO(good.read_bytes()), pixels, Image.open(good)):
        with pytest.raises(UsageError, match="put it in brackets"):
            image_model(Means()).encode_images(one)  # type: ignore[arg-type]
    assert len(image_model(Means()).encode_images(pixels[None])) == 1


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


# --- images that cannot be read --------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 99])
def test_rows_of_unreadable_images_are_marked(
    tmp_path: Path, workers: int, batch_size: int
) -> None:
    paths = coloured(tmp_path, 11)
    expected = preprocess(paths, SPEC).mean((2, 3))
    bad = [0, 4, 5, 6, 7, 10]
    for place in bad:
        paths[place].write_text("no pixels here")
    expected[bad] = np.nan
    options: Any = {"batch_size": batch_size, "workers": workers}
    with pytest.warns(UnreadableWarning) as caught:
        found = image_model(Means()).encode_images(paths, on_error="mark", **options)
    np.testing.assert_array_equal(found, expected)
    (warning,) = [w for w in caught if w.category is UnreadableWarning]
    assert str(warning.message).startswith("6 of 11 images cannot be read, their rows are NaN: ")
    assert warning.filename == __file__
    reasons = warning.message.reasons  # type: ignore[union-attr]
    assert list(reasons) == bad and "4.png" in reasons[4]
    failed: dict[int, UsageError] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = image_model(Means()).encode_images(paths, on_error=failed.__setitem__, **options)
    np.testing.assert_array_equal(found, expected)
    assert list(failed) == bad and "image 10 (" in str(failed[10])
    assert not pixel_threads()


def test_unreadable_images_are_given_to_no_engine(tmp_path: Path) -> None:
    """Some graphs scale a batch as a whole: what stands beside a row changes it."""
    paths = coloured(tmp_path, 6)
    sizes: list[int] = []

    class Counting(Means):
        def run(self, array: np.ndarray) -> np.ndarray:
            sizes.append(len(array))
            return super().run(array)

    for place in (0, 1, 4):
        paths[place].unlink()
    failed: dict[int, UsageError] = {}
    model = image_model(Counting())
    model.encode_images(paths, batch_size=2, on_error=failed.__setitem__)
    assert sizes == [2, 1]
    for path in paths:
        path.unlink(missing_ok=True)
    rows = model.encode_images(paths, normalize=True, on_error=failed.__setitem__)
    assert rows.shape == (6, 3) and rows.dtype == np.float32 and np.isnan(rows).all()
    assert sizes == [2, 1]


def test_one_broken_image_listed_often_is_marked_each_time(tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-900])
    failed: dict[int, UsageError] = {}
    with Image.open(tmp_path / "cut.jpg") as image:
        rows = image_model(Means()).encode_images(
            [image, image, Image.new("RGB", (9, 9))], on_error=failed.__setitem__, workers=2
        )
    assert list(failed) == [0, 1] and np.isnan(rows).any(1).tolist() == [True, True, False]


def test_bad_ways_to_go_on_are_refused() -> None:
    for way in ("skip", None, 3):
        with pytest.raises(UsageError, match=r"on_error is .*: give 'raise', 'mark' or a function"):
            image_model(Means()).encode_images([], on_error=way)  # type: ignore[arg-type]


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match=r"^image 0 \(.*pipe\.png\): .*it is a named pipe"):
        image_model(Means()).encode_images([tmp_path / "pipe.png"])


@pytest.mark.parametrize("workers", [0, 2])
def test_clipped_images_are_named_once_a_call(tmp_path: Path, workers: int) -> None:
    paths = coloured(tmp_path, 4)
    for place in (1, 3):
        Image.fromarray(np.full((4, 3), 40_000, np.uint16)).save(paths[place])
    with pytest.warns(AccuracyWarning) as caught:
        image_model(Means()).encode_images(paths, workers=workers)
    (warning,) = caught
    assert str(warning.message).startswith("2 of 4 images hold values that are no bytes")
    assert f"first: {paths[1]}" in str(warning.message) and warning.filename == __file__
