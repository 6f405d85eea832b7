"""How transformers prepares images, by a folder's settings, as a `PreprocessSpec`.

Meant are its image processors with Pillow ("slow" ones). Those with torchvision, which it prefers
where that is installed, resize tensors: of 200 made images of all modes at 32 px the largest
difference in an image was 1.4 of 255 levels on average, and 27 at worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import OPENAI_MEAN, OPENAI_STD, PreprocessSpec
from clipperf.models.transformers_config import PREPROCESSOR, PROCESSOR, Facts, read_settings
from clipperf.text import quoted

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""By Pillow's number."""

_CLIPS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
}
_SIGLIPS = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
_DEFAULTS = {"siglip": _SIGLIPS, "siglip2": {**_SIGLIPS, "resample": 2}}
"""What a processor's settings leave out, by the model's kind; CLIP's for the others."""


def image_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder says of its images; None where it says nothing."""
    own = settings_file(folder)
    found = read_settings(own)
    if found is not None and own.name == PROCESSOR:
        found = found.get("image_processor")
    return found if isinstance(found, dict) else None


def settings_file(folder: Path) -> Path:
    """The file that says, or would have to say, how images are prepared."""
    names = [name for name in (PREPROCESSOR, PROCESSOR) if (folder / name).is_file()]
    return folder / (names or [PREPROCESSOR])[0]


def pixels(folder: Path, facts: Facts) -> PreprocessSpec:
    """The preprocessing of a folder's model; its kind's own, at its size, where none is written.

    Raises:
        UsageError: something is asked for that `inputs.preprocess` does not do.
    """
    kind = facts.kind
    given = image_settings(folder)
    where = settings_file(folder)
    px = facts.image_px
    settings = {**_DEFAULTS.get(kind, _CLIPS), **_known(given or {})}
    if kind == "siglip2" or given is None:
        # NaFlex keeps an image's aspect ratio in a number of patches; here it is always a square.
        square = {"height": px, "width": px}
        settings |= {"size": square, "crop_size": square}
        if settings["do_center_crop"]:
            settings["size"] = {"shortest_edge": px}
    if settings.get("do_resize") is False:
        raise _refused(where, "do_resize", False, "images of any size have to become the tower's")
    if settings.get("do_pad"):
        raise _refused(where, "do_pad", True, "padding is not done here")
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if abs(factor * 255 - 1) > 1e-6:
        raise _refused(where, "rescale_factor", factor, "pixels are divided by 255 here")
    if settings["resample"] not in _RESAMPLE:
        raise _refused(
            where, "resample", settings["resample"], "bilinear (2) and bicubic (3) are known"
        )
    scaled = settings.get("do_normalize", True)
    resize_mode, short, frame = _frame(settings, where)
    if frame != (px, px):
        raise _refused(where, "size", frame, f"the image tower takes {px} x {px} px")
    return PreprocessSpec(
        height_px=frame[0],
        width_px=frame[1],
        mean=_three(settings["image_mean"]) if scaled else (0.0, 0.0, 0.0),
        std=_three(settings["image_std"]) if scaled else (1.0, 1.0, 1.0),
        interpolation=_RESAMPLE[settings["resample"]],
        resize_mode=resize_mode,
        rules="transformers",
        short_px=short,
    )


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _frame(settings: Mapping[str, Any], where: Path) -> tuple[str, int | None, tuple[int, int]]:
    """The resize mode, the short side that it resizes to, and the (height, width) of the result."""
    size, crop = settings["size"], None
    if settings["do_center_crop"]:
        crop = _pair(settings["crop_size"], where, "crop_size")
    if isinstance(size, int):  # older files, whose processors did not squash
        size = {"shortest_edge": size} if crop else {"height": size, "width": size}
    if set(size) == {"shortest_edge"} and crop is not None:
        short = size["shortest_edge"]
        if not isinstance(short, int) or isinstance(short, bool):
            raise _refused(where, "size", size, "a whole number of pixels is needed")
        return "shortest", short, crop
    frame = _pair(size, where, "size")
    if crop not in (None, frame):
        raise _refused(where, "crop_size", crop, f"images are squashed to {frame} before")
    return "squash", None, frame


def _pair(size: Any, where: Path, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    raise _refused(where, name, size, "a height and a width are needed")


def _three(value: Any) -> Any:
    return (value,) * 3 if isinstance(value, int | float) else value


def _refused(where: Path, name: str, value: Any, why: str) -> UsageError:
    return UsageError(f"{where}: {name} {quoted(value)} cannot be done: {why}")
