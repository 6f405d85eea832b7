"""Specs of preprocessing: what they take, what open_clip's mean, and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs import preprocess_spec
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.serve.towers import read_pixels

USUAL: dict[str, Any] = {
    "height_px": 224,
    "width_px": 224,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill": 0,
    "mode": "RGB",
    "method": "exact",
    "rules": "open_clip",
    "short_px": None,
}
NEWER = ("method", "rules", "short_px")
"""Artifacts without these are older than them."""


def test_the_usual_spec_is_openai_s() -> None:
    assert PreprocessSpec().to_json() == USUAL
    assert PreprocessSpec.from_json(USUAL) == PreprocessSpec()
    assert PreprocessSpec(32, 48).shape == (3, 32, 48)
    assert preprocess_spec.PREPROCESS_FILE == "preprocess.json"
    assert preprocess_spec.RESIZE_MODES == ("shortest", "longest", "squash")
    assert preprocess_spec.RULES == ("open_clip", "transformers")
    assert preprocess_spec.METHODS == ("exact", "fast", "draft")
    assert {k: int(v) for k, v in preprocess_spec.INTERPOLATIONS.items()} == {
        "bicubic": 3,
        "bilinear": 2,
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("height_px", 0, "a whole number of pixels, 1"),
        ("width_px", 2.0, "a whole number of pixels, 1"),
        ("height_px", True, "a whole number of pixels, 1"),
        ("rules", "keras", "one of open_clip, transformers"),
        ("short_px", 0, r"a whole number of pixels, 112 \(half of the frame's\) to 4096"),
        ("short_px", 1, "a whole number of pixels, 112"),
        ("short_px", 111, "a whole number of pixels, 112"),
        ("short_px", 4097, "a whole number of pixels, 112"),
        ("short_px", 224.0, "a whole number of pixels, 112"),
        ("mean", (1, 2, 3, 4), "three numbers, one for each of R, G, B"),
        ("std", "abc", "three numbers, one for each of R, G, B"),
        ("std", (1, 2, "3"), "three finite numbers"),
        ("mean", (0, True, 0), "three finite numbers"),
        ("mean", (0, 0, float("inf")), "three finite numbers"),
        ("mean", (0, 0, float("nan")), "three finite numbers"),
        ("std", (1, 1, float("nan")), "three finite numbers"),
        ("std", (1, 1, 0), "three numbers above 0, because pixels are divided by them"),
        ("std", (1, -1, 1), "three numbers above 0, because pixels are divided by them"),
        ("std", (1, 1e-60, 1), "three numbers above 0, because pixels are divided by them"),
        ("interpolation", "lanczos", "one of bicubic, bilinear"),
        ("resize_mode", "x", "one of shortest, longest, squash"),
        ("method", "x", "one of exact, fast, draft"),
        ("fill", -1, "0..255, or three of them"),
        ("fill", 256, "0..255, or three of them"),
        ("fill", True, "0..255, or three of them"),
        ("fill", (0, 0, 256), "0..255, or three of them"),
        ("fill", (0, -1, 0), "0..255, or three of them"),
        ("fill", (0, 0), "0..255, or three of them"),
        ("fill", (0, 0, 0, 0), "0..255, or three of them"),
        ("fill", 0.5, "0..255, or three of them"),
        ("mode", "L", "RGB"),
    ],
)
def test_each_field_says_what_it_takes(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^preprocess.{name}: expected {said}.*; got "):
        replace(PreprocessSpec(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height_px", 1),
        ("width_px", 1),
        ("mean", [0, 0.5, 1]),
        ("std", (1, 2, 0.001)),
        ("short_px", 112),
        ("short_px", 4096),
        ("fill", 255),
        ("fill", 0),
        ("fill", [0, 255, 7]),
    ],
)
def test_values_at_the_ends_are_taken(name: str, value: Any) -> None:
    found = getattr(replace(PreprocessSpec(), **{name: value}), name)
    assert found == (tuple(value) if isinstance(value, list) else value)
    assert not isinstance(found, list)
    if name in ("mean", "std"):
        assert all(type(v) is float for v in found)


@pytest.mark.parametrize("wrong", [None, [], "x"])
def test_json_that_is_no_object(wrong: Any) -> None:
    with pytest.raises(ArtifactError, match="preprocess: expected an object, got "):
        PreprocessSpec.from_json(wrong)


@pytest.mark.parametrize("name", sorted(USUAL))
def test_fields_that_json_lacks(name: str) -> None:
    data = {key: value for key, value in USUAL.items() if key != name}
    if name in NEWER:
        assert PreprocessSpec.from_json(data) == PreprocessSpec()
        return
    with pytest.raises(ArtifactError, match=f"preprocess.{name}: missing; export the model again"):
        PreprocessSpec.from_json(data)


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("std", "[0.2, -1, 0.2]", "three numbers above 0"),
        ("std", "[0.2, 0, 0.2]", "three numbers above 0"),
        ("std", "[0.2, NaN, 0.2]", "three finite numbers"),
        ("mean", "[NaN, 0, 0]", "three finite numbers"),
        ("mean", "[1e999, 0, 0]", "three finite numbers"),
        ("short_px", "1", "a whole number of pixels, 112"),
        ("short_px", "0", "a whole number of pixels, 112"),
        ("short_px", "-224", "a whole number of pixels, 112"),
        ("height_px", "0", "a whole number of pixels"),
    ],
)
def test_files_with_values_that_cannot_be(
    name: str, written: str, said: str, tmp_path: Path
) -> None:
    """As they are read from an artifact's folder."""
    text = json.dumps({**USUAL, name: "here"}).replace('"here"', written)
    (tmp_path / "preprocess.json").write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_pixels(tmp_path)
    assert str(caught.value).startswith(f"preprocess.{name}: expected {said}")
    assert str(caught.value).endswith("; export the model again")


def test_wrong_json_says_to_export_again() -> None:
    for wrong in ({"fill": "x"}, {"height_px": 0}):
        with pytest.raises(ArtifactError, match=r"^preprocess\..*; export the model again$"):
            PreprocessSpec.from_json({**USUAL, **wrong})


@pytest.mark.parametrize(
    ("cfg", "changed"),
    [
        ({}, {}),
        ({"size": 32}, {"height_px": 32, "width_px": 32}),
        ({"size": (32, 48)}, {"height_px": 32, "width_px": 48}),
        ({"size": [48, 32]}, {"height_px": 48, "width_px": 32}),
        ({"mean": 0.5}, {"mean": (0.5,) * 3}),
        ({"std": (0.5, 0.25, 1)}, {"std": (0.5, 0.25, 1.0)}),
        ({"interpolation": "bilinear"}, {"interpolation": "bilinear"}),
        ({"interpolation": "random"}, {"interpolation": "bicubic"}),
        (
            {"size": (8, 9), "interpolation": "bilinear"},
            {"height_px": 8, "width_px": 9, "interpolation": "bicubic"},
        ),
        (
            {"size": (8, 9), "interpolation": "bilinear", "resize_mode": "squash"},
            {
                "height_px": 8,
                "width_px": 9,
                "interpolation": "bilinear",
                "resize_mode": "squash",
            },
        ),
        ({"fill_color": 7}, {}),
        (
            {"fill_color": 7, "resize_mode": "longest"},
            {"fill": 7, "resize_mode": "longest"},
        ),
        ({"resize_mode": "longest"}, {"resize_mode": "longest"}),
        ({"mode": "RGB", "mean": None, "unknown": 1}, {}),
    ],
)
def test_open_clip_s_words(cfg: dict[str, Any], changed: dict[str, Any]) -> None:
    assert PreprocessSpec.from_open_clip(cfg) == replace(PreprocessSpec(), **changed)


@pytest.mark.parametrize("size", [(1,), (1, 2, 3)])
def test_sizes_that_open_clip_would_not_take(size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"preprocess.size: expected a number of pixels, or \(h"):
        PreprocessSpec.from_open_clip({"size": size})
