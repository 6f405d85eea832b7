"""Images to the arrays that CLIP image towers expect, without torch.

The result equals open_clip's evaluation transform bit for bit: the same Pillow calls in the same
order, then the same float32 operations, unless a tower takes bytes. Two habits of that transform
matter and are kept:

- an image is resized, padded and cropped in the mode it was stored in (palette, RGBA, CMYK, ...)
  and converted to RGB afterwards, so `load_image` does not convert;
- EXIF orientation is ignored. Apply `PIL.ImageOps.exif_transpose` first if upright photos matter
  more than equality with the reference.

That is the method "exact". `preprocess_fast` has the others, which are chosen by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_fast import resize_and_crop
from clipperf.inputs.preprocess_spec import INTERPOLATIONS, PreprocessSpec, Size
from clipperf.nouns.variant import PIXEL_DTYPES

ImageInput = str | Path | Image.Image

DRAFT_GAP = 2

# What Pillow raises for a file that is missing, unreadable, truncated, broken or no image.
_PIL_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def load_image(source: ImageInput) -> Image.Image:
    """Open an image file and decode it fully, in the mode it is stored in (see the module's note).

    A Pillow image is passed through after being decoded. Of a multi-frame file the first frame
    is taken.

    Raises:
        UsageError: the file is missing, unreadable, truncated, too large or not an image.
    """
    return decode(source)[0]


def decode(source: ImageInput, draft: PreprocessSpec | None = None) -> tuple[Image.Image, Size]:
    """`load_image`, beside the (width, height) that the image is stored in.

    With `draft` a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, where that still is
    `DRAFT_GAP` times what that spec resizes it to.
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"a {source.mode} image of {source.size}"
        try:
            source.load()
        except _PIL_ERRORS as exc:
            raise UsageError(f"cannot decode {name}: {exc}") from exc
        return source, source.size
    if not isinstance(source, str | Path):
        raise UsageError(f"expected a path or a PIL image, got {type(source).__name__}")
    try:
        with open(source, "rb") as file:
            image = Image.open(file)
            size = image.size
            if draft is not None and 0 not in size:
                width, height = (DRAFT_GAP * max(side, 1) for side in resized(size, draft))
                image.draft(image.mode, (width, height))
            image.load()
    except Image.UnidentifiedImageError as exc:
        raise UsageError(
            f"{source}: not an image, or a format that this Pillow cannot read"
        ) from exc
    except _PIL_ERRORS as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise UsageError(f"{source}: cannot read the image: {reason}") from exc
    return image, size


def preprocess(
    images: Sequence[ImageInput], spec: PreprocessSpec, out: np.ndarray | None = None
) -> np.ndarray:
    """Turn image files or Pillow images into one float32 batch [batch, 3, height, width].

    `out` is filled and returned instead of a new array; it may be any writable array of that
    shape, such as a slice of a larger batch or of pinned memory. A uint8 one gets the pixels as
    they are, for towers that normalise them.

    Raises:
        UsageError: an image cannot be read or converted, or `out` does not fit.
        MissingDependencyError: the spec's method needs a package that is not installed.
    """
    if isinstance(images, str | Path | Image.Image):
        raise UsageError("preprocess takes a list of images; put a single one in a list")
    shape = (len(images), *spec.shape)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype.name not in PIXEL_DTYPES or not out.flags.writeable:
        raise UsageError(
            f"out must be a writable {' or '.join(PIXEL_DTYPES)} array of shape {shape}, "
            f"got {out.dtype} {out.shape}{'' if out.flags.writeable else ' (read-only)'}"
        )
    mean = np.array(spec.mean, np.float32).reshape(3, 1, 1)
    std = np.array(spec.std, np.float32).reshape(3, 1, 1)
    for row, source in zip(out, images, strict=True):
        np.copyto(row, np.asarray(_frame(source, spec)).transpose(2, 0, 1))
        if out.dtype == np.uint8:
            continue
        # From bytes to normalised floats in torch's own order of float32 operations, in place.
        row /= np.float32(255)
        row -= mean
        row /= std
    return out


def _frame(source: ImageInput, spec: PreprocessSpec) -> Image.Image:
    """Decode, resize, pad and crop to the spec's frame, then convert to RGB."""
    image, full_size = decode(source, spec if spec.method == "draft" else None)
    name = source if isinstance(source, str | Path) else "the image"
    if 0 in full_size:
        raise UsageError(f"{name}: the image has no pixels, its size is {full_size}")
    size = resized(full_size, spec)
    if 0 in size:
        raise UsageError(
            f"{name}: {full_size[0]}x{full_size[1]} pixels are too narrow for resize mode "
            f"{spec.resize_mode!r}: one side would shrink to 0 pixels; crop the image first"
        )
    try:
        if spec.method != "exact":
            image = resize_and_crop(image, full_size, size, spec)
        elif size != image.size:
            image = image.resize(size, INTERPOLATIONS[spec.interpolation])
        return _centre(image, spec).convert("RGB")
    except (ValueError, OSError, MemoryError) as exc:
        raise UsageError(
            f"{name}: cannot turn a {image.mode} image into RGB {spec.width_px}x"
            f"{spec.height_px}: {exc}; convert it with Image.convert('RGB') first"
        ) from exc


def resized(size: Size, spec: PreprocessSpec) -> Size:
    """The (width, height) that an image of `size` is resized to before cropping or padding."""
    width, height = size
    if spec.resize_mode == "squash":
        return spec.width_px, spec.height_px
    if spec.resize_mode == "shortest" and spec.height_px == spec.width_px:
        # Truncating here, rounding below: the reference has two code paths.
        short = spec.width_px
        long = int(short * max(size) / min(size))
        return (short, long) if width <= height else (long, short)
    pick = max if spec.resize_mode == "longest" else min
    ratio = pick(height / spec.height_px, width / spec.width_px)
    return round(width / ratio), round(height / ratio)


def _centre(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Pad what is too small and crop what is too large, both around the centre."""
    gap_x, gap_y = max(spec.width_px - image.width, 0), max(spec.height_px - image.height, 0)
    if gap_x or gap_y:
        border = (gap_x // 2, gap_y // 2, (gap_x + 1) // 2, (gap_y + 1) // 2)
        image = _pad(image, border, spec.fill)
    if image.size == (spec.width_px, spec.height_px):
        return image
    # Python rounds halves to even, and so must this.
    left = round((image.width - spec.width_px) / 2)
    top = round((image.height - spec.height_px) / 2)
    return image.crop((left, top, left + spec.width_px, top + spec.height_px))


def _pad(
    image: Image.Image, border: tuple[int, int, int, int], fill: int | tuple[int, int, int]
) -> Image.Image:
    """Add a border (left, top, right, bottom) in the image's own mode."""
    bands = len(image.getbands())
    if isinstance(fill, tuple) and bands != 3:
        raise ValueError(f"fill {fill} has three channels but the image has {bands}")
    colour: Any = fill if isinstance(fill, tuple) else (fill,) * bands if bands > 1 else fill
    if image.mode == "F":
        colour = float(fill)  # type: ignore[arg-type]
    padded = ImageOps.expand(image, border, colour)
    if image.mode == "P":
        # The fill is a palette index here, and the palette is taken over whole.
        padded.putpalette(image.getpalette())  # type: ignore[arg-type]
    return padded
