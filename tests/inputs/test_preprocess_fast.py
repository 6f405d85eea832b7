"""The fast ways to preprocess, against the exact one."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.inputs.decode import decode
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("cykooz_resizer") is None,
    reason="cykooz-resizer is not installed: pip install 'clipperf[fast]'",
)

# Images that are hard on rounding, as the tool counts them: noise, black and white, blocks, slopes.
pattern = runpy.run_path(str(ROOT / "tools" / "fast_pixels.py"))["picture"]

# Pixels as they are: mean 0 and standard deviation 1/255 give back the bytes.
BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth seeded colours with the falling spectrum of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    channels = []
    for _ in range(3):
        phases = rng.standard_normal((2, *frequency.shape)) / frequency**1.6
        plane = np.fft.irfft2(phases[0] + 1j * phases[1], (height, width))
        channels.append(120 + 50 * plane / plane.std())
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def differences(images: list[Image.Image], spec: PreprocessSpec, method: str) -> np.ndarray:
    exact = preprocess(images, replace(spec, **BYTES))
    return np.abs(preprocess(images, replace(spec, **BYTES, method=method)) - exact).round()


@needs_library
@pytest.mark.parametrize("kind", ["noise", "black and white", "blocks", "slopes"])
def test_hard_images_differ_by_one_in_few_values_and_by_two_almost_never(kind: str) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(30):
        width, height = (int(side) for side in rng.integers(20, 900, 2))
        spec = PreprocessSpec(
            *(224, 224) if rng.random() < 0.5 else (int(v) for v in rng.integers(30, 400, 2)),
            interpolation=str(rng.choice(["bicubic", "bilinear"])),
            resize_mode=str(rng.choice(["shortest", "longest", "squash"])),
        )
        image = pattern(kind, width, height, rng).convert(str(rng.choice(["RGB", "L"])))
        found.append(differences([image], spec, "fast").ravel())
    values = np.concatenate(found)
    assert values.max() <= 2
    assert (values == 2).mean() < 1e-5  # as the README says; `tools/fast_pixels.py` counts more
    assert (values >= 1).mean() < 0.01
    assert values.any()  # it did run


@needs_library
def test_large_photographs_differ_as_little() -> None:
    sizes = [(640, 480), (480, 640), (1000, 750), (1920, 1080)]
    photos = [photo(*size, seed=i) for i, size in enumerate(sizes)]
    values = differences(photos, PreprocessSpec(224, 224), "fast")
    assert values.max() <= 2
    assert (values == 2).mean() < 1e-5 and (values >= 1).mean() < 0.01


@needs_library
def test_a_value_that_is_off_by_two_is_known() -> None:
    """So that nobody claims that there is none."""
    spec = PreprocessSpec(224, 224, resize_mode="squash")
    rng = np.random.default_rng(7)
    images = [pattern("blocks", 300 + 7 * i, 260 + 5 * i, rng) for i in range(40)]
    assert differences(images, spec, "fast").max() == 2


@needs_library
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_other_modes_are_exact(mode: str) -> None:
    image = photo(300, 200).convert("I" if mode == "I;16" else mode)
    spec = PreprocessSpec(64, 64)
    assert not differences([image], spec, "fast").any()


@needs_library
def test_tall_images_are_exact_whatever_the_version_of_pillow() -> None:
    image = pattern("noise", 300, 900, np.random.default_rng(0))
    assert not differences([image], PreprocessSpec(224, 224), "fast").any()
    assert not differences([image], PreprocessSpec(200, 280, resize_mode="squash"), "fast").any()


@needs_library
def test_what_needs_no_resize_is_exact() -> None:
    image = pattern("noise", 224, 224, np.random.default_rng(0))
    assert not differences([image], PreprocessSpec(224, 224), "fast").any()


@needs_library
def test_extreme_shapes_have_the_reference_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for size in [(1, 1), (1, 9), (900, 1), (3, 2), (223, 225), (2000, 31)]:
        for spec in (PreprocessSpec(24, 24), PreprocessSpec(31, 17, resize_mode="squash")):
            assert differences([pattern("noise", *size, rng)], spec, "fast").max() <= 2, size
    Image.new("RGB", (999, 1)).save(tmp_path / "line.jpg")
    for method in ("fast", "draft"):
        spec = PreprocessSpec(resize_mode="longest", method=method)
        with pytest.raises(UsageError, match=r"line\.jpg: 999x1 pixels are too narrow"):
            preprocess([tmp_path / "line.jpg"], spec)


@needs_library
def test_threads_do_not_disturb_each_other() -> None:
    spec = PreprocessSpec(64, 64, method="fast")
    images = [photo(200 + i, 150 + i, seed=i) for i in range(16)]
    alone = preprocess(images, spec)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: preprocess([image], spec)[0], images * 4))
    assert np.array_equal(np.stack(together), np.concatenate([alone] * 4))


@needs_library
def test_images_given_are_left_as_they_were() -> None:
    image = photo(90, 70)
    before = image.tobytes()
    preprocess([image], PreprocessSpec(32, 32, method="draft"))
    assert (image.mode, image.size, image.tobytes()) == ("RGB", (90, 70), before)


@pytest.mark.parametrize(
    ("size", "px", "decoded"),
    [
        ((1920, 1080), 224, (960, 540)),  # 1/4 would leave 270 of the 448 rows asked for
        ((1800, 1900), 224, (450, 475)),
        ((1801, 1999), 224, (451, 500)),  # rounded up
        ((1000, 800), 64, (250, 200)),
        ((640, 480), 224, (640, 480)),
        ((60, 50), 224, (60, 50)),
    ],
)
def test_drafts_keep_twice_the_size(
    size: tuple[int, int], px: int, decoded: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", size, "red").save(path)
    spec = PreprocessSpec(px, px)
    image, full_size = decode(path, draft=spec)
    assert (image.size, full_size) == (decoded, size)
    assert decode(path)[0].size == size
    Image.new("RGB", size, "red").save(tmp_path / "photo.png")
    assert decode(tmp_path / "photo.png", draft=spec)[0].size == size


@needs_library
def test_drafts_stay_close_and_in_place(tmp_path: Path) -> None:
    for i, size in enumerate([(1920, 1080), (1801, 1999), (1300, 901)]):
        path = tmp_path / f"{i}.jpg"
        photo(*size, seed=i).save(path, quality=92)
        gaps = differences([path], PreprocessSpec(128, 128), "draft")  # type: ignore[list-item]
        assert 0 < gaps.max() <= 3, size
        # A frame shifted by half a pixel would be off everywhere.
        assert gaps.mean() < 0.3, size


@needs_library
@pytest.mark.parametrize("method", ["fast", "draft"])
def test_unreadable_files_are_named(method: str, tmp_path: Path) -> None:
    photo(200, 150).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "text.jpg", "absent.jpg"):
        with pytest.raises(UsageError, match=name):
            preprocess([tmp_path / name], PreprocessSpec(32, 32, method=method))


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[fast\]"):
        preprocess([photo(90, 70)], PreprocessSpec(32, 32, method="fast"))
    assert preprocess([photo(90, 70)], PreprocessSpec(32, 32)).shape == (1, 3, 32, 32)
