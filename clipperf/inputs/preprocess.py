"""Images to the arrays that CLIP image towers expect, without torch.

The result equals open_clip's evaluation transform bit for bit: the same Pillow calls in the same
order, then the same float32 operations, unless a tower takes bytes. Two habits of that transform
matter and are kept:

- an image is resized, padded and cropped in the mode it was stored in (palette, RGBA, CMYK, ...)
  and converted to RGB afterwards, so `load_image` does not convert;
- EXIF orientation is ignored. Apply `PIL.ImageOps.exif_transpose` first if upright photos matter
  more than equality with the reference.

A third one is kept, with an `AccuracyWarning`: values that are no bytes (16-bit PNG and TIFF files,
modes "I;16", "I" and "F") are clipped, not scaled, so that such an image becomes nearly white.
Scaling them here would give other embeddings than the reference for the same file, which "exact"
rules out; the warning says how to scale them before.

That is the method "exact". `preprocess_fast` has the others, which are chosen by name. Models of
transformers come with rules of their own: see `preprocess_transformers`.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clipperf.errors import AccuracyWarning, UsageError
from clipperf.inputs.preprocess_fast import resize_and_crop
from clipperf.inputs.preprocess_spec import INTERPOLATIONS, RESIZE_MODES, PreprocessSpec, Size
from clipperf.inputs.preprocess_transformers import crop_as_transformers, on_white, wider
from clipperf.inputs.reading import MAX_IMAGE_BYTES, no_path, open_image, why_unreadable
from clipperf.inputs.resize import SCALED, centre, resize_middle, to_rgb
from clipperf.nouns.variant import PIXEL_DTYPES
from clipperf.system.reading import check_bytes, open_regular
from clipperf.text import quoted, shown

ImageInput = str | Path | Image.Image

DRAFT_GAP = 2

# What Pillow and the file system raise for a file that is missing, unreadable, truncated, broken
# or no image; the rest of them are damaged files of single formats.
PIL_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, RuntimeError),
    *(AttributeError, OverflowError, AssertionError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

CLIPPED = (
    "hold values that are no bytes; they are clipped to 0..255 as in open_clip, not scaled, so "
    "that 16 bits become nearly white, and floats up to 1 black (first: {first}); scale them "
    f"first, 16 bits so: {SCALED}"
)


def load_image(source: ImageInput) -> Image.Image:
    """Open an image file and decode it fully, in the mode it is stored in (see the module's note).

    A Pillow image is passed through after being decoded. Of a multi-frame file the first frame
    is taken.

    Raises:
        UsageError: the file is missing, unreadable, truncated, too large or not an image, it is
            no regular file, or of a format that is not read (`reading.FORMATS`).
    """
    return decode(source)[0]


def decode(source: ImageInput, draft: PreprocessSpec | None = None) -> tuple[Image.Image, Size]:
    """`load_image`, beside the (width, height) that the image is stored in.

    With `draft` a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, where that still is
    `DRAFT_GAP` times what that spec resizes it to.
    """
    if isinstance(source, Image.Image):
        try:
            source.load()
        except PIL_ERRORS as exc:
            raise UsageError(f"cannot decode {name_of(source)}: {why_unreadable(exc)}") from exc
        return source, source.size
    if not isinstance(source, str | Path):
        raise UsageError(f"expected a path or a PIL image, got {type(source).__name__}")
    try:
        with open_regular(source) as file:
            check_bytes(source, os.fstat(file.fileno()).st_size, MAX_IMAGE_BYTES)
            image = open_image(file)
            size = image.size
            if draft is not None and 0 not in size:
                width, height = (DRAFT_GAP * max(side, 1) for side in resized(size, draft))
                image.draft(image.mode, (width, height))
            image.load()
    except Image.UnidentifiedImageError as exc:
        raise UsageError(f"{shown(source)}: {why_unreadable(exc)}") from exc
    except PIL_ERRORS as exc:
        advice = no_path(source) if isinstance(source, str) else None
        if advice is not None:
            raise UsageError(f"{quoted(source)}: {advice}") from exc
        raise UsageError(f"{shown(source)}: cannot read the image: {why_unreadable(exc)}") from exc
    return image, size


def name_of(source: ImageInput) -> str:
    """What to call an image in a message."""
    if not isinstance(source, Image.Image):
        return shown(source)
    name = getattr(source, "filename", "")
    return shown(name) if name else f"a {source.mode} image of {source.size}"


def preprocess(
    images: Sequence[ImageInput], spec: PreprocessSpec, out: np.ndarray | None = None
) -> np.ndarray:
    """Turn image files or Pillow images into one float32 batch [batch, 3, height, width].

    `out` is filled and returned instead of a new array; it may be any writable array of that
    shape, such as a slice of a larger batch or of pinned memory. A uint8 one gets the pixels as
    they are, for towers that normalise them.

    Warns with `AccuracyWarning` where images hold values that are no bytes (see the module's note).

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
    clipped = [name_of(s) for row, s in zip(out, images, strict=True) if fill(row, s, spec)]
    if clipped:
        message = f"{len(clipped)} of {len(images)} images {CLIPPED.format(first=clipped[0])}"
        warnings.warn(message, AccuracyWarning, stacklevel=2)
    return out


def fill(row: np.ndarray, source: ImageInput, spec: PreprocessSpec) -> bool:
    """One image into `row` [3, height, width], as `preprocess` does; whether it was clipped."""
    frame, clipped = _frame(source, spec)
    np.copyto(row, np.asarray(frame).transpose(2, 0, 1))
    if row.dtype != np.uint8:
        # From bytes to normalised floats in torch's own order of float32 operations, in place.
        row /= np.float32(255)
        row -= np.array(spec.mean, np.float32).reshape(3, 1, 1)
        row /= np.array(spec.std, np.float32).reshape(3, 1, 1)
    return clipped


def may_exceed_bytes(mode: str) -> bool:
    """Whether pixels of a mode can hold values that are no bytes."""
    return mode in ("I", "F") or mode.startswith("I;16")


def exceeds_bytes(image: Image.Image) -> bool:
    """Whether a decoded image holds values that are no bytes, which turning it into RGB clips."""
    if not may_exceed_bytes(image.mode):
        return False
    if image.mode.startswith("I;16"):
        order = ">u2" if image.mode.endswith("B") else "<u2"
        return bool((np.frombuffer(image.tobytes(), order) > 255).any())
    low, high = image.getextrema()
    fractions = image.mode == "F" and 0 < high <= 1  # type: ignore[operator]
    return fractions or not (low >= 0 and high <= 255)  # type: ignore[operator]


def check_frames(image: Image.Image, name: str) -> None:
    """Make sure that a decoded image fits into the usual frame, resized in any way.

    Raises:
        UsageError: it does not; the message begins with its name.
    """
    for mode in RESIZE_MODES:
        spec = PreprocessSpec(resize_mode=mode)
        if 0 in image.size or 0 in resized(image.size, spec):
            raise _too_narrow(name, image.size, spec)
    try:
        _frame(image, PreprocessSpec())
    except UsageError as exc:
        raise UsageError(f"{name}: {str(exc).removeprefix(f'{name_of(image)}: ')}") from exc


def _too_narrow(name: str, size: Size, spec: PreprocessSpec) -> UsageError:
    """What to raise for an image of which resizing leaves nothing."""
    if 0 in size:
        return UsageError(f"{name}: the image has no pixels, its size is {size}")
    return UsageError(
        f"{name}: {size[0]}x{size[1]} pixels are too narrow for resize mode {spec.resize_mode!r}: "
        f"one side would shrink to 0 pixels; crop the image first"
    )


def _frame(source: ImageInput, spec: PreprocessSpec) -> tuple[Image.Image, bool]:
    """Decode, resize, pad and crop to the spec's frame, then convert to RGB; whether it clips."""
    image, full_size = decode(source, spec if spec.method == "draft" else None)
    size = full_size if 0 in full_size else resized(full_size, spec)
    if 0 in size:
        raise _too_narrow(name_of(source), full_size, spec)
    try:
        clipped = exceeds_bytes(image)
        cut = spec
        if spec.rules == "transformers":
            image, cut = on_white(image), wider(spec)
        if spec.method == "exact":
            frame = (cut.width_px, cut.height_px)
            image = resize_middle(image, size, frame, INTERPOLATIONS[spec.interpolation])
        else:
            image = resize_and_crop(image, full_size, size, cut)
        if spec.rules == "transformers":
            return crop_as_transformers(image, size, spec), clipped
        return _centre(image, spec).convert("RGB"), clipped
    except UsageError as exc:
        raise UsageError(f"{name_of(source)}: {exc}") from exc
    except (ValueError, OSError, MemoryError) as exc:
        raise UsageError(
            f"{name_of(source)}: cannot turn a {image.mode} image into RGB {spec.width_px}x"
            f"{spec.height_px}: {exc}; {to_rgb(image.mode)}"
        ) from exc


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


def _centre(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Pad what is too small and crop what is too large, both around the centre."""
    gap_x, gap_y = max(spec.width_px - image.width, 0), max(spec.height_px - image.height, 0)
    if gap_x or gap_y:
        border = (gap_x // 2, gap_y // 2, (gap_x + 1) // 2, (gap_y + 1) // 2)
        image = _pad(image, border, spec.fill)
    if image.size == (spec.width_px, spec.height_px):
        return image
    left, top = centre(image.width, spec.width_px), centre(image.height, spec.height_px)
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
