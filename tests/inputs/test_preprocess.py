"""The torch-free preprocessing against open_clip's evaluation transform, bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.decode import load_image
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec

open_clip = pytest.importorskip("open_clip")

MODES = (
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
)
# (width, height): landscape, portrait, exact, upscaled, one pixel wide, very long.
SIZES = ((90, 70), (61, 300), (224, 224), (5, 4), (1, 50), (50, 1), (200, 2))


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A seeded image of random pixels; "P" has a transparent colour, as GIF and PNG files do."""
    rng = np.random.default_rng(seed)
    width, height = size
    if mode.startswith("I;16"):
        return Image.frombytes(mode, size, rng.bytes(2 * width * height))
    rgb = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    if mode in ("RGBA", "LA"):
        return rgb.convert(mode)
    image = rgb.convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    return image


def configurations() -> dict[str, dict]:
    """Every distinct preprocessing that an open_clip model or pretrained tag asks for."""
    from open_clip.factory import _MODEL_CONFIGS
    from open_clip.pretrained import _PRETRAINED
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    found = {}
    for architecture, config in _MODEL_CONFIGS.items():
        size = {"size": config["vision_cfg"].get("image_size", 224)}
        tags = _PRETRAINED.get(architecture, {})
        for overlay in ({}, *tags.values()):
            merged = merge_preprocess_dict(merge_preprocess_dict(PreprocessCfg(), size), overlay)
            name = "{size}-{resize_mode}-{interpolation}-{mean[0]}-{std[0]}-{fill_color}"
            found[name.format(**merged)] = merged
    return found


# What no model asks for today, but a configuration file may: frames that are not square, padding.
UNUSED = [
    {"size": (100, 200), "interpolation": "bilinear"},
    {"size": (201, 100), "fill_color": 9},
    {"size": (64, 99), "resize_mode": "squash", "interpolation": "random"},
    {"size": 96, "resize_mode": "longest", "fill_color": 7},
    {"size": (97, 200), "resize_mode": "longest", "interpolation": "bilinear", "fill_color": 255},
]


def reference(cfg: dict):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**cfg), is_train=False)


def test_open_clip_still_has_variants():
    assert len(configurations()) >= 20


@pytest.mark.parametrize("cfg", configurations().values(), ids=configurations().keys())
def test_every_model_of_open_clip_gets_the_same_pixels(cfg):
    transform, spec = reference(cfg), PreprocessSpec.from_open_clip(cfg)
    images = [noise(size) for size in SIZES]
    images += [noise((90, 70), mode) for mode in ("RGBA", "L", "P", "CMYK", "I;16")]
    batch = preprocess(images, spec)
    assert batch.dtype == np.float32
    for image, ours in zip(images, batch, strict=True):
        assert np.array_equal(ours, transform(image).numpy()), (image.mode, image.size)


@pytest.mark.parametrize("mode", MODES)
def test_every_image_mode_and_shape(mode):
    for cfg in [
        *({"resize_mode": resize_mode, "size": 64} for resize_mode in ("shortest", "squash")),
        *UNUSED,
    ]:
        transform, spec = reference(cfg), PreprocessSpec.from_open_clip(cfg)
        for size in SIZES:
            image = noise(size, mode)
            try:
                expected = transform(image).numpy()
            except ValueError:
                with pytest.raises(UsageError):
                    preprocess([image], spec)
                continue
            assert np.array_equal(preprocess([image], spec)[0], expected), (cfg, size)


def test_sizes_round_as_the_reference_does():
    rng = np.random.default_rng(1)
    cases = [({"size": int(s)}, wh) for s, *wh in rng.integers(1, 60, (150, 3))]
    for mode in ("shortest", "longest", "squash"):
        for h, w, *wh in rng.integers(1, 60, (150, 4)):
            cases.append(({"size": (int(h), int(w)), "resize_mode": mode}, wh))
    for cfg, (width, height) in cases:
        image = noise((int(width), int(height)), "RGB")
        try:
            expected = reference(cfg)(image).numpy()
        except ValueError:
            with pytest.raises(UsageError, match="shrink to 0 pixels"):
                preprocess([image], PreprocessSpec.from_open_clip(cfg))
            continue
        ours = preprocess([image], PreprocessSpec.from_open_clip(cfg))[0]
        assert np.array_equal(ours, expected), (cfg, image.size)


def test_every_pixel_value_is_normalised_as_torch_does():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    image = Image.fromarray(ramp)
    rng = np.random.default_rng(2)
    for _ in range(50):
        mean, std = rng.random(3).tolist(), (rng.random(3) + 0.01).tolist()
        cfg = {"size": 16, "mean": mean, "std": std}
        ours = preprocess([image], PreprocessSpec.from_open_clip(cfg))[0]
        assert np.array_equal(ours, reference(cfg)(image).numpy())


def test_files_are_read_as_the_reference_reads_them(tmp_path):
    image = noise((300, 200))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=rotated)
    image.convert("CMYK").save(tmp_path / "print.jpg")
    image.convert("P").save(tmp_path / "palette.png", transparency=5)
    noise((300, 200), "RGBA").save(tmp_path / "alpha.webp")
    frames = [noise((30, 20), "P", seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    image.save(tmp_path / "plain.bmp")
    noise((30, 20), "I;16").save(tmp_path / "deep.png")
    paths = sorted(tmp_path.iterdir())
    transform = reference({"size": 64})
    batch = preprocess([str(path) for path in paths], PreprocessSpec(64, 64))
    assert np.array_equal(batch, preprocess([load_image(p) for p in paths], PreprocessSpec(64, 64)))
    for path, ours in zip(paths, batch, strict=True):
        with Image.open(path) as opened:
            assert np.array_equal(ours, transform(opened).numpy()), path.name


def test_images_given_are_left_as_they_were():
    image = noise((90, 70), "RGBA")
    before = image.tobytes()
    preprocess([image], PreprocessSpec(32, 32))
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (90, 70), before)


def test_out_is_filled_in_place():
    images = [noise((90, 70)), noise((30, 40), seed=1)]
    spec = PreprocessSpec(32, 48)
    expected = preprocess(images, spec)
    batch = np.full((5, 3, 32, 48), np.nan, np.float32)
    assert preprocess(images, spec, out=batch[1:3]).base is batch
    assert np.array_equal(batch[1:3], expected)
    assert np.isnan(batch[0]).all() and np.isnan(batch[3:]).all()
    strided = np.empty((2, 32, 48, 3), np.float32).transpose(0, 3, 1, 2)
    assert np.array_equal(preprocess(images, spec, out=strided), expected)
    assert preprocess([], spec).shape == (0, 3, 32, 48)


def test_an_unfit_out_is_refused():
    frozen = np.empty((1, 3, 32, 32), np.float32)
    frozen.flags.writeable = False
    for out in (np.empty((1, 3, 32, 31), np.float32), np.empty((1, 3, 32, 32)), frozen):
        with pytest.raises(UsageError, match="out must be a writable float32 or uint8 array"):
            preprocess([noise((9, 9))], PreprocessSpec(32, 32), out=out)


def test_unreadable_files_are_named(tmp_path):
    noise((200, 200)).save(tmp_path / "whole.jpg")
    noise((200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for suffix in ("jpg", "png"):
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    broken = bytearray((tmp_path / "whole.png").read_bytes())
    broken[60:90] = bytes(30)
    (tmp_path / "broken.png").write_bytes(broken)
    spec = PreprocessSpec(32, 32)
    for name in ("text.jpg", "empty.png", "cut.jpg", "cut.png", "broken.png", "absent.jpg"):
        with pytest.raises(UsageError, match=name):
            preprocess([tmp_path / name], spec)
    with pytest.raises(UsageError, match=str(tmp_path)):
        preprocess([tmp_path], spec)
    with Image.open(tmp_path / "cut.jpg") as lazy, pytest.raises(UsageError, match=r"cut\.jpg"):
        preprocess([lazy], spec)
    with pytest.raises(UsageError, match="bytes: not an image"):
        preprocess([b"bytes"], spec)  # type: ignore[list-item]
    with pytest.raises(UsageError, match="put a single one in a list"):
        preprocess("photo.jpg", spec)


def test_oversized_files_are_refused(tmp_path, monkeypatch):
    noise((90, 70)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UsageError, match=r"bomb\.png.*decompression bomb"):
        load_image(tmp_path / "bomb.png")


def test_images_that_cannot_be_framed_are_refused():
    with pytest.raises(UsageError, match="no pixels"):
        preprocess([Image.new("RGB", (0, 5))], PreprocessSpec())
    with pytest.raises(UsageError, match="too narrow for resize mode 'longest'"):
        preprocess([noise((1000, 1))], PreprocessSpec(resize_mode="longest"))
    with pytest.raises(UsageError, match=r"convert it with image\.convert"):
        preprocess([Image.new("La", (9, 9))], PreprocessSpec())
    coloured = PreprocessSpec(resize_mode="longest", fill=(1, 2, 3))
    with pytest.raises(UsageError, match="three channels but the image has 1"):
        preprocess([noise((9, 5), "L")], coloured)
    wide = preprocess([noise((9, 5))], coloured)[0]
    top = (np.array([1, 2, 3], np.float32) / 255 - np.float32(coloured.mean)) / coloured.std
    assert np.allclose(wide[:, 0, 0], top)


def test_specs_survive_json():
    for spec in (
        PreprocessSpec(),
        PreprocessSpec(32, 48, (0, 0.5, 1), (1, 1, 2), "bilinear", "longest", (1, 2, 3)),
        PreprocessSpec(method="draft"),
    ):
        data = json.loads(json.dumps(spec.to_json()))
        assert PreprocessSpec.from_json({**data, "newer": 1}) == spec
    assert PreprocessSpec(mean=(0, 0, 1)).mean == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height_px", 0),
        ("width_px", 2.5),
        ("width_px", True),
        ("mean", (1, 2)),
        ("mean", 0.5),
        ("mean", (0, 0, float("nan"))),
        ("std", (1, 0, 1)),
        ("std", (1, 1e-60, 1)),
        ("std", "abc"),
        ("interpolation", "nearest"),
        ("resize_mode", "stretch"),
        ("resize_mode", ["squash"]),
        ("fill", 256),
        ("fill", (1, 2)),
        ("fill", "black"),
        ("mode", "L"),
        ("method", "quick"),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=rf"preprocess\.{name}: expected"):
        replace(PreprocessSpec(), **{name: value})
    with pytest.raises(ArtifactError, match=rf"preprocess\.{name}.*export the model again"):
        PreprocessSpec.from_json({**PreprocessSpec().to_json(), name: value})


def test_damaged_json_is_refused():
    with pytest.raises(ArtifactError, match="expected an object"):
        PreprocessSpec.from_json(None)
    data = PreprocessSpec().to_json()
    del data["method"]  # an artifact of a version without it
    assert PreprocessSpec.from_json(data).method == "exact"
    del data["std"]
    with pytest.raises(ArtifactError, match=r"preprocess\.std: missing"):
        PreprocessSpec.from_json(data)


def test_open_clip_dictionaries_are_translated():
    from open_clip.transform import PreprocessCfg

    assert PreprocessSpec.from_open_clip(asdict(PreprocessCfg())) == PreprocessSpec()
    assert PreprocessSpec.from_open_clip({}) == PreprocessSpec()
    partial = {"size": None, "mean": 0.5, "std": [0.5] * 3, "hf_hub": "x", "fill_color": 3}
    assert PreprocessSpec.from_open_clip(partial) == PreprocessSpec(mean=(0.5,) * 3, std=(0.5,) * 3)
    # Bilinear and the fill are ignored here by the reference, so the spec does not claim them.
    odd = PreprocessSpec.from_open_clip({"size": [8, 9], "interpolation": "bilinear"})
    assert (odd.height_px, odd.width_px, odd.interpolation) == (8, 9, "bicubic")
    for cfg, field in [
        ({"size": (1, 2, 3)}, "size"),
        ({"size": 224.5}, "height_px"),
        ({"interpolation": "nearest", "size": (8, 9)}, "interpolation"),
        ({"mode": "L"}, "mode"),
    ]:
        with pytest.raises(UsageError, match=field):
            PreprocessSpec.from_open_clip(cfg)


def test_paths_may_be_text_or_path(tmp_path: Path):
    noise((9, 9)).save(tmp_path / "a.png")
    text, path = load_image(str(tmp_path / "a.png")), load_image(tmp_path / "a.png")
    assert text.tobytes() == path.tobytes()
