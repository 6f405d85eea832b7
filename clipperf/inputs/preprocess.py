"""Images to the arrays that CLIP image towers expect, without torch.

The result equals open_clip's evaluation transform bit for bit: the same Pillow calls in the same
order, then the same float32 operations, unless a tower takes bytes. Two habits of that transform
matter and are kept:

- an image is resized, padded and cropped in the mode it was stored in (palette, RGBA, CMYK, ...)
  and converted to RGB afterwards, so `decode` does not convert;
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

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clipperf.errors import AccuracyWarning, UsageError
from clipperf.inputs.decode import ImageInput, decode, is_one, name_of
from clipperf.inputs.preprocess_fast import resize_and_crop
from clipperf.inputs.preprocess_spec import (
    INTERPOLATIONS,
    RESIZE_MODES,
    PreprocessSpec,
    Size,
    resized,
)
from clipperf.inputs.preprocess_transformers import crop_as_transformers, on_white, wider
from clipperf.inputs.resize import SCALED, centre, resize_middle, to_rgb
from clipperf.nouns.variant import PIXEL_DTYPES

CLIPPED = (
    "hold values that are no bytes; they are clipped to 0..255 as in open_clip, not scaled, so "
    "that 16 bits become nearly white, and floats up to 1 black (first: {first}); scale them "
    f"first, 16 bits so: {SCALED}"
)


def preprocess(
    images: Sequence[ImageInput], spec: PreprocessSpec, out: np.ndarray | None = None
) -> np.ndarray:
    """Turn images (see `decode.ImageInput`) into one float32 batch [batch, 3, height, width].

    `out` is filled and returned instead of a new array; it may be any writable array of that
    shape, such as a slice of a larger batch or of pinned memory. A uint8 one gets the pixels as
    they are, for towers that normalise them.

    Warns with `AccuracyWarning` where images hold values that are no bytes (see the module's note).

    Raises:
        UsageError: an image cannot be read or converted, or `out` does not fit.
        MissingDependencyError: the spec's method needs a package that is not installed.
    """
    if is_one(images):
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
        normalise(row, spec)
    return clipped


def normalise(pixels: np.ndarray, spec: PreprocessSpec) -> None:
    """Turn bytes [..., 3, height, width] in float32 into what towers take, in place.

    The order of operations is torch's own.
    """
    pixels /= np.float32(255)
    pixels -= np.array(spec.mean, np.float32).reshape(3, 1, 1)
    pixels /= np.array(spec.std, np.float32).reshape(3, 1, 1)


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
