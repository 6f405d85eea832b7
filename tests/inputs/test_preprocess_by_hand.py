"""Frames of small images worked out pixel by pixel, and the words for images that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs import preprocess_fast
from clipperf.inputs.decode import decode, load_image
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec, resized

BYTES: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


def spec(height: int, width: int, mode: str = "shortest", **more: Any) -> PreprocessSpec:
    return PreprocessSpec(height, width, resize_mode=mode, **more)


def image(rows: list[list[int]], mode: str = "L") -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8)).convert(mode)


def pixels(one: Image.Image, wanted: PreprocessSpec) -> list[list[int]]:
    """The first channel of the frame, as bytes."""
    out = np.empty((1, *wanted.shape), np.uint8)
    return preprocess([one], wanted, out)[0, 0].tolist()


# --- sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "found"),
    [
        # A square frame: the long side is cut off behind the point.
        ((100, 51), spec(10, 10), (19, 10)),
        ((51, 100), spec(10, 10), (10, 19)),
        ((77, 77), spec(10, 10), (10, 10)),
        # Others are rounded, halves to even.
        ((100, 51), spec(10, 20), (20, 10)),
        ((100, 40), spec(10, 20), (25, 10)),
        ((10, 4), spec(2, 1), (5, 2)),
        ((9, 4), spec(2, 1), (4, 2)),
        ((11, 4), spec(2, 1), (6, 2)),
        ((40, 100), spec(10, 20), (20, 50)),
        ((100, 51), spec(10, 10, "longest"), (10, 5)),
        ((51, 100), spec(10, 10, "longest"), (5, 10)),
        ((40, 100), spec(10, 20, "longest"), (4, 10)),
        ((100, 40), spec(10, 20, "longest"), (20, 8)),
        ((100, 51), spec(10, 20, "squash"), (20, 10)),
        ((7, 3), spec(30, 20, "squash"), (20, 30)),
    ],
)
def test_resized(size: tuple[int, int], wanted: PreprocessSpec, found: tuple[int, int]) -> None:
    assert resized(size, wanted) == found


# --- crops and borders ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "kept"),
    [(3, [0, 1, 2]), (4, [0, 1, 2]), (5, [1, 2, 3]), (6, [2, 3, 4]), (7, [2, 3, 4])],
)
def test_the_middle_is_kept(width: int, kept: list[int]) -> None:
    # 4: 0.5 rounds to 0; 6: 1.5 rounds to 2.
    row = list(range(width))
    assert pixels(image([row] * 3), spec(3, 3)) == [kept] * 3
    upright = [[i] * 3 for i in range(width)]
    assert pixels(image(upright), spec(3, 3)) == [[i] * 3 for i in kept]


def test_a_border_has_its_odd_pixel_behind() -> None:
    longest = spec(4, 4, "longest", fill=9)
    wide = image([[1, 2, 3, 4]])
    assert pixels(wide, longest) == [[9] * 4, [1, 2, 3, 4], [9] * 4, [9] * 4]
    tall = image([[1], [2], [3], [4]])
    assert pixels(tall, longest) == [[9, i, 9, 9] for i in (1, 2, 3, 4)]
    two = image([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert pixels(two, longest) == [[9] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [9] * 4]


def test_a_fill_of_three_channels() -> None:
    coloured = spec(2, 2, "longest", fill=(1, 2, 3))
    out = preprocess([image([[7, 7]], "RGB")], coloured, np.empty((1, 3, 2, 2), np.uint8))
    assert out[0, :, 1].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert out[0, :, 0].tolist() == [[7, 7]] * 3
    for mode, bands in (("L", 1), ("RGBA", 4)):
        with pytest.raises(UsageError, match=rf"three channels but the image has {bands}"):
            preprocess([image([[7, 7]], mode)], coloured)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "LA", "F", "I"])
def test_a_fill_of_one_value_is_every_channel_s(mode: str) -> None:
    longest = spec(3, 3, "longest", fill=60)
    grey = 60 if len(mode) == 1 else (60,) * len(mode)
    padded, flat = Image.new(mode, (3, 3), grey), Image.new(mode, (3, 1), grey)
    assert pixels(flat, longest) == pixels(padded, spec(3, 3))


def test_a_fill_of_an_image_with_a_palette_is_its_colour() -> None:
    made = Image.new("P", (3, 1), 0)
    made.putpalette([5, 6, 7, 80, 90, 100])
    out = preprocess([made], spec(3, 3, "longest", fill=1), np.empty((1, 3, 3, 3), np.uint8))
    assert out[0, :, 0, 0].tolist() == [80, 90, 100] and out[0, :, 1, 1].tolist() == [5, 6, 7]


# --- arithmetic and arrays -----------------------------------------------------------------


def test_channels_and_floats() -> None:
    made = Image.new("RGB", (2, 2), (255, 51, 0))
    wanted = spec(2, 2, mean=(0.5, 0.1, 0.25), std=(0.5, 0.2, 0.125))
    found = preprocess([made], wanted)
    assert found.dtype == np.float32 and found.shape == (1, 3, 2, 2)
    assert found[0, :, 1, 0] == pytest.approx([1.0, 0.5, -2.0], abs=1e-6)
    raw = np.empty((2, 3, 2, 2), np.uint8)
    assert preprocess([made, made], wanted, raw) is raw
    assert raw[1, :, 0, 1].tolist() == [255, 51, 0]


def test_images_keep_their_places() -> None:
    wanted = spec(1, 1)
    out = preprocess([image([[i]]) for i in (3, 9, 6)], wanted, np.empty((3, 3, 1, 1), np.uint8))
    assert out[:, 0, 0, 0].tolist() == [3, 9, 6]
    assert preprocess([], wanted).shape == (0, 3, 1, 1)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 3, 1, 1), np.float32),
        np.empty((1, 3, 1, 2), np.float32),
        np.empty((1, 3, 1, 1), np.float64),
        np.empty((1, 3, 1, 1), np.int8),
        np.broadcast_to(np.float32(0), (1, 3, 1, 1)),
    ],
)
def test_arrays_that_do_not_fit(out: np.ndarray) -> None:
    with pytest.raises(UsageError, match="out must be a writable float32 or uint8 array of shape"):
        preprocess([image([[1]])], spec(1, 1), out)


@pytest.mark.parametrize("single", ["x.png", Path("x.png"), Image.new("L", (1, 1))])
def test_a_single_image_belongs_in_a_list(single: Any) -> None:
    with pytest.raises(UsageError, match="put a single one in a list"):
        preprocess(single, spec(1, 1))


# --- files ---------------------------------------------------------------------------------


def test_images_without_pixels_or_too_narrow() -> None:
    for size in ((0, 5), (5, 0)):
        with pytest.raises(UsageError, match=r"the image has no pixels, its size is \("):
            preprocess([Image.new("L", size)], spec(2, 2))
    for size in ((100, 1), (1, 100)):
        with pytest.raises(UsageError, match=f"{size[0]}x{size[1]} pixels are too narrow"):
            preprocess([Image.new("L", size)], spec(10, 10, "longest"))
    assert preprocess([Image.new("L", (18, 1))], spec(10, 10, "longest")).shape == (1, 3, 10, 10)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bytes: not an image"):
        load_image(b"x")  # type: ignore[arg-type]
    path = tmp_path / "a.png"
    with pytest.raises(UsageError, match=r"a\.png: .*No such file"):
        load_image(path)
    path.write_text("no image")
    with pytest.raises(UsageError, match=r"a\.png: not an image"):
        load_image(path)
    image(np.random.default_rng(0).integers(0, 256, (64, 64)).tolist()).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"a\.png: cannot read the image"):
        load_image(path)


def test_an_open_image_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image(np.random.default_rng(0).integers(0, 256, (64, 64)).tolist()).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"a\.png: cannot read"):
        preprocess([Image.open(path)], spec(2, 2))
    closed = image([[1]])
    closed.close()
    with pytest.raises(UsageError, match=r"a L image of \(1, 1\): cannot read"):
        preprocess([closed], spec(2, 2))


def test_an_image_is_decoded_fully_and_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image([[1, 2], [3, 4]]).save(path)
    found, size = decode(path)
    path.unlink()
    assert size == (2, 2) and np.asarray(found).tolist() == [[1, 2], [3, 4]]
    given, size = decode(found)
    assert given is found and size == (2, 2)


@pytest.mark.parametrize(
    ("side", "px", "decoded"),
    [(8, 1, 2), (64, 32, 64), (127, 32, 127), (128, 32, 64), (129, 32, 65), (128, 33, 128)],
)
def test_drafts(side: int, px: int, decoded: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (side, side)).save(path)
    found, size = decode(path, draft=PreprocessSpec(px, px))
    assert size == (side, side)
    assert found.size == (decoded, decoded)


# --- the fast methods ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source_px", "resized_px", "frame_px", "start", "length"),
    [
        (100.0, 50, 50, 0.0, 100.0),
        (100.0, 50, 30, 20.0, 60.0),
        (100.0, 50, 80, 0.0, 100.0),
        # (7 - 4) / 2 = 1.5 rounds to 2; (5 - 4) / 2 to 0.
        (14.0, 7, 4, 4.0, 8.0),
        (10.0, 5, 4, 0.0, 8.0),
        (3.0, 6, 2, 1.0, 1.0),
    ],
)
def test_the_middle_in_pixels_of_the_source(
    source_px: float, resized_px: int, frame_px: int, start: float, length: float
) -> None:
    found = preprocess_fast._middle(source_px, resized_px, frame_px)
    assert found == pytest.approx((start, length))


def test_the_middle_never_reaches_beyond_the_source() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20_000):
        source, resized_px, frame = (int(n) for n in rng.integers(1, [9000, 3000, 3000]))
        start, length = preprocess_fast._middle(source / 8, resized_px, frame)
        assert start >= 0 and start + length <= source / 8


def test_methods_are_checked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(preprocess_fast, "library", lambda: asked.append(1))
    for method in ("exact", "fast", "draft"):
        preprocess_fast.check(method)
    assert len(asked) == 2
    with pytest.raises(UsageError, match="preprocess 'slow': choose from exact, fast, draft"):
        preprocess_fast.check("slow")
    assert preprocess_fast.MODES == ("RGB", "L")
