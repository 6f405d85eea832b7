"""How images become the input of an image tower: what an artifact's `preprocess.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from clipperf.errors import ArtifactError, UsageError
from clipperf.serialize import from_json
from clipperf.text import quoted

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
PREPROCESS_FILE = "preprocess.json"
"""Its name in an artifact folder."""

Size = tuple[int, int]
"""Width and height of an image, in pixels."""

MAX_SIDE_PX = 4096
"""The largest side of a frame, far above any published model's (512): a batch of 32 takes 6 GiB."""

RESIZE_MODES = ("shortest", "longest", "squash")
RULES = ("open_clip", "transformers")
METHODS = ("exact", "fast", "draft")

# The statistics of OpenAI's CLIP training images, open_clip's default.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the input of one image tower.

    `resize_mode` is "shortest" (fill the frame, crop the rest), "longest" (show everything, pad
    the rest with `fill`) or "squash" (ignore the aspect ratio). `mean` and `std` are per RGB
    channel, for pixels in [0, 1]. `fill` is one 0..255 value for every channel, or an RGB triple.
    `method` is "exact" (the reference), or "fast" or "draft" of `preprocess_fast`.
    `rules` names the library whose transform is the reference. With "transformers" an image becomes
    RGB first, on white where it is transparent, "shortest" resizes its short side to `short_px`
    (half of the frame's at least: what an image does not fill is padded), and what is cut off at
    both sides differs by a pixel where it is odd.

    Raises:
        UsageError: a value is out of range or of another type; the message names the field.
    """

    height_px: int = 224
    width_px: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int | tuple[int, int, int] = 0
    mode: str = "RGB"
    method: str = "exact"
    rules: str = "open_clip"
    short_px: int | None = None

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            if not _is_int(getattr(self, name), 1, MAX_SIDE_PX):
                wanted = f"a whole number of pixels, 1 to {MAX_SIDE_PX}"
                raise _bad(name, getattr(self, name), wanted)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or len(values) != 3:
                raise _bad(name, values, "three numbers, one for each of R, G, B")
            if not all(_is_number(v) for v in values):
                raise _bad(name, values, "three finite numbers")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if not all(np.float32(v) > 0 for v in self.std):
            raise _bad("std", self.std, "three numbers above 0, because pixels are divided by them")
        if self.interpolation not in INTERPOLATIONS:
            raise _bad("interpolation", self.interpolation, f"one of {', '.join(INTERPOLATIONS)}")
        if self.resize_mode not in RESIZE_MODES:
            raise _bad("resize_mode", self.resize_mode, f"one of {', '.join(RESIZE_MODES)}")
        if self.method not in METHODS:
            raise _bad("method", self.method, f"one of {', '.join(METHODS)}")
        if self.rules not in RULES:
            raise _bad("rules", self.rules, f"one of {', '.join(RULES)}")
        least = -(-min(self.height_px, self.width_px) // 2)
        if self.short_px is not None and not _is_int(self.short_px, least, MAX_SIDE_PX):
            wanted = f"a whole number of pixels, {least} (half of the frame's) to {MAX_SIDE_PX}"
            raise _bad("short_px", self.short_px, wanted)
        if isinstance(self.fill, list | tuple):
            if len(self.fill) != 3 or not all(_is_int(v, 0, 255) for v in self.fill):
                raise _bad("fill", self.fill, "0..255, or three of them")
            object.__setattr__(self, "fill", tuple(self.fill))
        elif not _is_int(self.fill, 0, 255):
            raise _bad("fill", self.fill, "0..255, or three of them")
        if self.mode != "RGB":
            raise _bad("mode", self.mode, "RGB")

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of one image: [3, height, width]."""
        return 3, self.height_px, self.width_px

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> PreprocessSpec:
        """Build a spec from `to_json`'s values; unknown fields are ignored.

        Artifacts without `method` or `rules` are older than these: exact, and open_clip's.

        Raises:
            ArtifactError: a field is missing or wrong; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ArtifactError(f"preprocess: expected an object, got {type(data).__name__}")
        given = {"method": "exact", "rules": "open_clip", "short_px": None, **data}
        missing = [field.name for field in fields(cls) if field.name not in given]
        if missing:
            raise ArtifactError(f"preprocess.{missing[0]}: missing; export the model again")
        try:
            return from_json(cls, given, "preprocess")
        except (ArtifactError, UsageError) as exc:
            raise ArtifactError(f"{exc}; export the model again") from exc

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any]) -> PreprocessSpec:
        """Translate open_clip's PreprocessCfg, given as a dict.

        Absent and None values take open_clip's defaults, unknown keys are ignored. The spec says
        what open_clip's evaluation transform really does: `interpolation` "random" means bicubic,
        a non-square frame in "shortest" mode is always bicubic, and only "longest" uses the fill.

        Raises:
            UsageError: a value that open_clip's transform would not take either.
        """
        cfg = {key: value for key, value in preprocess_cfg.items() if value is not None}
        size = cfg.get("size", 224)
        pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if len(pair) != 2:
            raise _bad("size", size, "a number of pixels, or (height, width)")
        resize_mode = cfg.get("resize_mode", "shortest")
        interpolation = cfg.get("interpolation", "bicubic")
        always_bicubic = resize_mode == "shortest" and pair[0] != pair[1]
        if interpolation == "random" or (always_bicubic and interpolation in INTERPOLATIONS):
            interpolation = "bicubic"
        return cls(
            height_px=pair[0],
            width_px=pair[1],
            mean=_three(cfg.get("mean", OPENAI_MEAN)),
            std=_three(cfg.get("std", OPENAI_STD)),
            interpolation=interpolation,
            resize_mode=resize_mode,
            fill=cfg.get("fill_color", 0) if resize_mode == "longest" else 0,
            mode=cfg.get("mode", "RGB"),
        )


def _three(value: Any) -> Any:
    """A single number stands for all three channels."""
    return (value,) * 3 if _is_number(value) else value


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    """Whether it is a number that float32 can hold; integers may be larger than any float."""
    most = float(np.finfo(np.float32).max)
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def resized(size: Size, spec: PreprocessSpec) -> Size:
    """The (width, height) that an image of `size` is resized to before cropping or padding."""
    width, height = size
    if spec.resize_mode == "squash":
        return spec.width_px, spec.height_px
    short = spec.short_px or spec.width_px
    alone = spec.rules == "transformers" or spec.height_px == spec.width_px
    if spec.resize_mode == "shortest" and alone:
        # Truncating here, rounding below: the reference has two code paths.
        long = int(short * max(size) / min(size))
        return (short, long) if width <= height else (long, short)
    pick = max if spec.resize_mode == "longest" else min
    ratio = pick(height / spec.height_px, width / spec.width_px)
    return round(width / ratio), round(height / ratio)


def _bad(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"preprocess.{name}: expected {wanted}; got {quoted(value)}")
