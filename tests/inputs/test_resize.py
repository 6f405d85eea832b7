"""The middle of an enlarged image equals, bit for bit, that of the whole enlarged image."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs import resize
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import INTERPOLATIONS, PreprocessSpec, resized
from clipperf.inputs.resize import SCALED, to_rgb

KNOWN = ("1", "P", "L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F")
OTHERS = ("I;16", "I;16B", "LAB", "PA")
MODES = (*KNOWN, *OTHERS)


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Random pixels over the whole range of a mode; "P" has a transparent colour."""
    rng = np.random.default_rng(seed)
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (width, height), rng.bytes(2 * width * height))
    if mode == "I":
        return Image.fromarray(rng.integers(-(2**31), 2**31, (height, width)).astype(np.int32))
    if mode == "F":
        return Image.fromarray((rng.normal(size=(height, width)) * 300).astype(np.float32))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    if mode in ("LA", "La"):
        return colours.convert("LA").convert(mode)
    if mode in ("RGBA", "RGBa"):
        return colours.convert(mode)
    image = colours.convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    return image


def cropped(image: Image.Image, frame: tuple[int, int]) -> Image.Image:
    width, height = min(frame[0], image.width), min(frame[1], image.height)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


@settings(max_examples=400, deadline=None)
@example("1", 40, 7, False, 9, 9, "bicubic", 0)
@example("RGB", 7, 1, True, 2, 2, "bilinear", 0)
@given(
    mode=st.sampled_from(MODES),
    long=st.integers(1, 1200),
    short=st.integers(1, 40),
    wide=st.booleans(),
    frame_width=st.integers(1, 64),
    frame_height=st.integers(1, 64),
    interpolation=st.sampled_from(list(INTERPOLATIONS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_bit_equal_to_the_whole(
    mode: str,
    long: int,
    short: int,
    wide: bool,
    frame_width: int,
    frame_height: int,
    interpolation: str,
    seed: int,
) -> None:
    short, long = min(short, long), max(short, long)
    image = noise(mode, *((long, short) if wide else (short, long)), seed)
    spec = PreprocessSpec(frame_height, frame_width, interpolation=interpolation)
    size, frame = resized(image.size, spec), (frame_width, frame_height)
    resample = INTERPOLATIONS[interpolation]
    if 0 in size or size[0] * size[1] > 4_000_000:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "WHOLE_PX", 0)
        try:
            found = cropped(resize.resize_middle(image, size, frame, resample), frame)
        except UsageError as exc:
            assert mode in OTHERS and "beyond the limit of 0 pixels: crop the image" in str(exc)
            return
    expected = cropped(image.resize(size, resample), frame)
    assert (found.mode, found.size, found.info) == (expected.mode, expected.size, expected.info)
    assert found.tobytes() == expected.tobytes()
    assert found.getpalette("RGBA") == expected.getpalette("RGBA")


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
@pytest.mark.parametrize(("width", "height"), [(1, 400), (400, 1), (2, 801)])
def test_bit_equal_where_it_is_taken_by_itself(mode: str, width: int, height: int) -> None:
    """224 px a side, and a whole that is beyond the limit: 20 million pixels, made here once."""
    image = noise(mode, width, height, 5)
    spec = PreprocessSpec()
    size = resized(image.size, spec)
    assert size[0] * size[1] > resize.WHOLE_PX
    whole = cropped(image.resize(size, Image.Resampling.BICUBIC), (224, 224))
    expected = preprocess([whole], spec)
    np.testing.assert_array_equal(preprocess([image], spec), expected)


def test_a_constant_image_stays_constant_however_long() -> None:
    for size in ((1, 20_000), (20_000, 1), (3, 300_000)):
        for mode, colour in (("RGB", (10, 200, 30)), ("L", 7), ("F", 99.0), ("I", 200)):
            image = Image.new(mode, size, colour)
            pixels = preprocess([image], PreprocessSpec(), np.empty((1, 3, 224, 224), np.uint8))
            wanted = np.broadcast_to(np.array(colour, np.uint8).reshape(-1, 1, 1), (3, 224, 224))
            np.testing.assert_array_equal(pixels[0], wanted)


def test_a_ramp_by_hand() -> None:
    """Rows 0, 1, 2, ... of one pixel, 16 times enlarged: the middle rises by 1/16 a row."""
    ramp = Image.fromarray(np.arange(200, dtype=np.float32)[:, None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "WHOLE_PX", 0)
        found = resize.resize_middle(ramp, (16, 3200), (16, 16), Image.Resampling.BILINEAR)
    # Row r of 3200 looks at (r + 0.5) / 16 - 0.5 of the source; the middle 16 begin at 1592.
    expected = (np.arange(1592, 1608) + 0.5) / 16 - 0.5
    assert found.size == (16, 16)
    np.testing.assert_allclose(np.asarray(found), expected[:, None].repeat(16, 1), atol=1e-5)


def test_what_cannot_be_cut_is_refused_with_its_size_and_the_fix() -> None:
    with pytest.raises(UsageError, match=r"1x20000 pixels of mode I;16 would be resized to 224x4"):
        preprocess([Image.new("I;16", (1, 20_000))], PreprocessSpec())
    with pytest.raises(UsageError, match=r"beyond the limit of 67108864 pixels: crop the image"):
        preprocess([Image.new("P", (1, 300_000))], PreprocessSpec())


CHILD = """
import resource, sys
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preprocess(sys.argv[2:], PreprocessSpec())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_small_files_of_long_images_take_little_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1, 20_000), "red").save(tmp_path / "tall.png")
    Image.new("P", (20_000, 1)).save(tmp_path / "wide.png")
    Image.new("RGBA", (2, 60_000)).save(tmp_path / "taller.png")
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 2000
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(2**31), *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200, "MiB"


def test_advice_turns_an_image_into_rgb_without_loss() -> None:
    """16 bits become white by conversion, and premultiplied colours have none to RGB."""
    for mode, values in {"I;16": 0x8080, "RGBa": (9, 9, 9, 255), "La": (9, 255), "LAB": 0}.items():
        image = Image.new(mode, (4, 4), values)
        way = to_rgb(mode)
        if mode == "I;16":
            assert SCALED in way
            scaled = eval(SCALED, {"PIL": PIL, "numpy": np, "image": image})
            assert set(scaled.convert("RGB").getdata()) == {(128, 128, 128)}
            continue
        code = re.fullmatch(r"convert it with (image\S+) first", way)
        assert code is not None
        assert eval(code[1], {"image": image}).mode == "RGB"
