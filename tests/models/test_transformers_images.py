"""transformers' image processors as a `PreprocessSpec`: pixel for pixel, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import transformers_images
from clipperf.models.families import hugging_face
from clipperf.models.transformers_config import Facts
from clipperf.nouns.model import ModelSpec

pytest.importorskip("transformers", reason="image processors are transformers' own")
from transformers_folders import image_processor

MODES = ("RGB", "RGB", "RGB", "L", "LA", "RGBA", "P", "CMYK", "1")


def photos(count: int, seed: int) -> Iterator[Image.Image]:
    """Images of every mode, of odd and even sizes, smooth and noisy, some with transparency."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        width, height = (int(n) for n in generator.integers(9, 150, 2))
        if number % 25 == 0:
            width, height = (400, 7) if number % 2 else (5, 301)
        coarse = generator.integers(0, 256, (4, 5, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = generator.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.blend(image, Image.fromarray(noise), 0.3)
        mode = MODES[number % len(MODES)]
        if mode in ("LA", "RGBA"):
            image = image.convert(mode)
            image.putalpha(Image.fromarray(noise[:, :, 0]))
        elif mode == "P":
            image = image.convert("P")
            if number % 2:
                image.info["transparency"] = 3
        yield image.convert(mode) if mode != image.mode else image


def spec_of(kind: str, folder: Path, px: int, processor: Any) -> PreprocessSpec:
    processor.save_pretrained(folder)
    return transformers_images.pixels(folder, Facts(kind, px, 77, 8, 77))


@pytest.mark.parametrize(
    ("kind", "px", "settings"),
    [
        ("clip", 32, {}),
        ("clip", 33, {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 33}}),
        ("clip", 48, {"size": {"shortest_edge": 30}, "crop_size": {"height": 48, "width": 48}}),
        ("siglip", 32, {"resample": 2}),
        ("chinese_clip", 32, {"do_center_crop": False, "size": {"height": 32, "width": 32}}),
        ("clip", 32, {"do_normalize": False}),
    ],
)
def test_pixels_are_those_of_transformers(
    tmp_path: Path, kind: str, px: int, settings: dict[str, Any]
) -> None:
    processor = image_processor(kind, **settings)
    spec = spec_of(kind, tmp_path, px, processor)
    images = list(photos(200, seed=px))
    ours = preprocess(images, spec)
    theirs = processor(images, return_tensors="np")["pixel_values"]
    # The same bytes; on their way to floats one rounding is in another place.
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_siglip_2_sees_squares_as_its_processor_does(tmp_path: Path) -> None:
    processor = image_processor("siglip2")
    spec = spec_of("siglip2", tmp_path, 32, processor)
    assert (spec.resize_mode, spec.interpolation) == ("squash", "bilinear")
    image = next(photos(1, seed=1)).resize((77, 77))
    found = processor(image, return_tensors="np")
    assert found["spatial_shapes"][0].tolist() == [4, 4]
    grid = found["pixel_values"][0].reshape(4, 4, 8, 8, 3)  # rows, columns, pixels, colours
    theirs = grid.transpose(4, 0, 2, 1, 3).reshape(3, 32, 32)
    np.testing.assert_allclose(preprocess([image], spec)[0], theirs, rtol=0, atol=1e-6)


def test_fast_keeps_to_the_same_rules(tmp_path: Path) -> None:
    pytest.importorskip("cykooz_resizer", reason="fast preprocessing is not installed")
    spec = spec_of("clip", tmp_path, 33, image_processor(
        "clip", size={"shortest_edge": 40}, crop_size={"height": 33, "width": 33}
    ))  # fmt: skip
    spec = replace(spec, mean=(0, 0, 0), std=(1, 1, 1))
    images = [image for image in photos(60, seed=5) if min(image.size) > 50]
    exact, fast = (preprocess(images, replace(spec, method=m)) for m in ("exact", "fast"))
    assert len(images) > 20
    assert np.abs(exact - fast).max() < 2.5 / 255


def test_without_settings_the_kinds_own_are_taken_at_the_towers_size(tmp_path: Path) -> None:
    spec = transformers_images.pixels(tmp_path, Facts("clip", 336, 77, 8, 77))
    assert (spec.height_px, spec.short_px, spec.resize_mode) == (336, 336, "shortest")
    spec = transformers_images.pixels(tmp_path, Facts("siglip", 384, 64, 8, 64))
    assert (spec.height_px, spec.resize_mode, spec.mean) == (384, "squash", (0.5, 0.5, 0.5))


def test_a_processors_settings_are_found_in_either_file(tmp_path: Path) -> None:
    inside = {"image_processor": {"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 2}}
    (tmp_path / "processor_config.json").write_text(json.dumps(inside))
    spec = transformers_images.pixels(tmp_path, Facts("clip", 32, 77, 8, 77))
    assert (spec.interpolation, spec.width_px) == ("bilinear", 32)
    older = {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(older))
    spec = transformers_images.pixels(tmp_path, Facts("clip", 32, 77, 8, 77))
    assert (spec.interpolation, spec.resize_mode) == ("bicubic", "shortest")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_the_file_that_is_there_is_named(tmp_path: Path, name: str) -> None:
    own = {"size": {"shortest_edge": 32}, "crop_size": 32, "do_pad": True}
    said = own if name == "preprocessor_config.json" else {"image_processor": own}
    (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(UsageError) as caught:
        transformers_images.pixels(tmp_path, Facts("clip", 32, 77, 8, 77))
    assert str(caught.value).startswith(f"{tmp_path / name}: do_pad True cannot be done")


def test_the_file_without_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    facts = Facts("clip", 32, 77, 8, 77)
    spec = ModelSpec("toy", "hugging_face", "toy", "random:0", 32, 77, 8, source=str(tmp_path))
    assert hugging_face._assumptions(spec, facts, "image") == {
        "preprocessing": "that of CLIPModel, processor_config.json does not say how images are "
        "prepared"
    }
    (tmp_path / "processor_config.json").unlink()
    assert hugging_face._assumptions(spec, facts, "image") == {
        "preprocessing": "that of CLIPModel, preprocessor_config.json is missing"
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"rescale_factor": 0.5}, "rescale_factor"),
        ({"do_rescale": False}, "rescale_factor"),
        ({"resample": 1}, "resample"),
        ({"size": {"longest_edge": 32}}, "size"),
        ({"crop_size": {"height": 64, "width": 64}}, "takes 32 x 32 px"),
        ({"size": {"height": 48, "width": 48}}, "crop_size"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    own = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**own, **settings}))
    with pytest.raises(UsageError, match=said):
        transformers_images.pixels(tmp_path, Facts("clip", 32, 77, 8, 77))
