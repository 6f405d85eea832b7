"""What transformers' image processors (those with Pillow) do otherwise than open_clip's transform.

Images become RGB before they are resized, on white where they are transparent, and the middle is
cut out from a half that is rounded down: open_clip rounds to the even one.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from clipperf.inputs.preprocess_spec import PreprocessSpec, Size
from clipperf.inputs.resize import centre

_SPARE_PX = 4
"""A multiple of four: half of it moves no half from even to odd."""


def on_white(image: Image.Image) -> Image.Image:
    """A decoded image in RGB; what is transparent lies on white."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def wider(spec: PreprocessSpec) -> PreprocessSpec:
    """The spec with a frame large enough to cut from the middle by either rule."""
    width, height = spec.width_px + _SPARE_PX, spec.height_px + _SPARE_PX
    return replace(spec, width_px=width, height_px=height)


def crop_as_transformers(image: Image.Image, size: Size, spec: PreprocessSpec) -> Image.Image:
    """The spec's frame about the middle; what is too small lies on black.

    `image` is one of `size`, or the middle of it that is left for the `wider` frame.
    """
    start, length = [0, 0], [spec.width_px, spec.height_px]
    for axis, wanted in enumerate(length):
        gone = centre(size[axis], image.size[axis])
        # Rounded down, to minus infinity where a border is added.
        start[axis] = (size[axis] - wanted) // 2 - gone
    return image.crop((start[0], start[1], start[0] + length[0], start[1] + length[1]))
