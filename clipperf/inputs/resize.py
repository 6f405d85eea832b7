"""Pillow's resize of which only the middle is wanted, without the rest being made.

To fill a frame, the reference enlarges an image until its short side fits, then crops. Of one of
1 x 20,000 pixels that makes 224 x 4,480,000, of which 224 x 224 stay. `resize_middle` gives these
bit for bit from the few source pixels that they depend on.

Pillow's own `box` cannot: it adds the box's offset (a float32) to each position, so positions, and
with them weights, are others in their last bits. So the long side is resampled here, with
Pillow's arithmetic: positions and weights in double precision, one operation after the other,
weights of images of bytes then rounded to 22 bits (Resample.c). The short side remains Pillow's.
Where a C compiler has fused multiplications with additions (not on x86-64), weights may differ in
their last bit, which is seen in about one of a million pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import Size

WHOLE_PX = 1 << 24
"""Up to here the whole image is resized, by Pillow alone: 64 MiB in colour."""

LONGEST_NEAREST_PX = 1 << 26
"""The longest side to which images of palettes and of bits are resized: 256 MiB of positions."""

_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
"""Modes that Pillow resizes as others."""

_STORED = {
    **dict.fromkeys(("L", "La", "RGB", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"), np.uint8),
    "I": np.int32,
    "F": np.float32,
}
"""What pixels are made of, by mode. In 16 bits the arithmetic depends on Pillow's version."""

_REACH = {Image.Resampling.BICUBIC: 2, Image.Resampling.BILINEAR: 1}
"""How many source pixels a filter reaches to either side when it enlarges."""

_WEIGHT_BITS = 22


def resize_middle(
    image: Image.Image, size: Size, frame: Size, resample: Image.Resampling
) -> Image.Image:
    """`image.resize(size, resample)`, of whose long side no more than the frame's middle is left.

    What is small (`WHOLE_PX`) is left whole, so the caller crops what comes back, about its centre.

    Raises:
        UsageError: the image would become too large, and its mode is none that is known here.
    """
    if size == image.size:
        return image
    width, height = size
    # Sides are enlarged by one factor, so what is not enlarged is no larger than the image.
    if width * height <= WHOLE_PX or width <= image.width or height <= image.height:
        return image.resize(size, resample)
    if image.mode in ("1", "P"):
        return _nearest_middle(image, size, frame)
    mode = _PREMULTIPLIED.get(image.mode, image.mode)
    if mode not in _STORED:
        raise too_large(image, size, WHOLE_PX)
    if width > height:
        first, bounds, weights = _weights(image.width, width, frame[0], resample)
        part = image.crop((first, 0, first + _extent(bounds), image.height)).convert(mode)
        middle = _resample(part, bounds, weights, axis=1)
        middle = middle.resize((middle.width, height), resample)
    else:
        first, bounds, weights = _weights(image.height, height, frame[1], resample)
        part = image.crop((0, first, image.width, first + _extent(bounds))).convert(mode)
        middle = part.resize((width, part.height), resample)
        middle = _resample(middle, bounds, weights, axis=0)
    return middle.convert(image.mode)


def too_large(image: Image.Image, size: Size, limit_px: int) -> UsageError:
    """What to raise where an image would become larger than can be."""
    return UsageError(
        f"{image.width}x{image.height} pixels of mode {image.mode} would be resized to "
        f"{size[0]}x{size[1]}, beyond the limit of {limit_px} pixels: crop the image, or "
        f"{to_rgb(image.mode)}"
    )


SCALED = "PIL.Image.fromarray((numpy.asarray(image) / 257).astype('uint8'))"
"""How 16 bits become eight, which no conversion of Pillow's does."""


def to_rgb(mode: str) -> str:
    """What turns an image of a mode into one that every step takes, in words of advice."""
    if mode.startswith("I;16"):
        return f"scale it to 8 bits first: {SCALED}"
    plain = {to: mode for mode, to in _PREMULTIPLIED.items()}.get(mode)
    way = "" if plain is None else f".convert({plain!r})"
    return f"convert it with image{way}.convert('RGB') first"


def centre(size_px: int, frame_px: int) -> int:
    """Where the middle of a side begins. Python rounds halves to even, as the reference does."""
    return round((size_px - frame_px) / 2)


def _extent(bounds: np.ndarray) -> int:
    return int(bounds.max()) + 1


def _weights(
    source_px: int, resized_px: int, frame_px: int, resample: Image.Resampling
) -> tuple[int, np.ndarray, np.ndarray]:
    """The first source pixel of an enlarged side's middle; then its taps and their weights.

    Both are [pixels, taps]: taps count from that first pixel, weights are float64. Taps beyond
    the image have the weight 0, and stand on a pixel within.
    """
    kept = min(resized_px, frame_px)
    scale = source_px / resized_px
    places = np.arange(kept, dtype=np.float64) + centre(resized_px, kept)
    centres = (places + 0.5) * scale
    reach = float(_REACH[resample])
    low = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    high = np.minimum((centres + reach + 0.5).astype(np.int64), source_px)
    taps = low[:, None] + np.arange(int((high - low).max()))
    inside = taps < high[:, None]
    filtered = _FILTERS[resample](np.abs(taps - centres[:, None] + 0.5))
    weights = np.where(inside, filtered, 0.0)
    total = np.zeros(kept)
    for column in weights.T:  # in Pillow's order: numpy's own sum is pairwise
        total = total + column
    weights /= total[:, None]
    taps = np.where(inside, taps, low[:, None])
    first = int(low.min())
    return first, taps - first, weights


def _bicubic(x: np.ndarray) -> np.ndarray:
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1, 1.0 - x, 0.0)


_FILTERS = {Image.Resampling.BICUBIC: _bicubic, Image.Resampling.BILINEAR: _bilinear}


def _resample(image: Image.Image, taps: np.ndarray, weights: np.ndarray, axis: int) -> Image.Image:
    """One pass of Pillow's: rows (axis 0) or columns (axis 1) from their taps."""
    kind = np.dtype(_STORED[image.mode])
    shape = (image.height, image.width, -1)
    pixels = np.moveaxis(np.frombuffer(image.tobytes(), kind).reshape(shape), axis, 0)
    if kind == np.uint8:
        whole = np.trunc(np.copysign(0.5, weights) + weights * (1 << _WEIGHT_BITS))
        total = np.full((len(taps), *pixels.shape[1:]), 1 << (_WEIGHT_BITS - 1), np.int64)
        for tap, weight in zip(taps.T, whole.astype(np.int64).T, strict=True):
            total += pixels[tap] * weight[:, None, None]
        made = np.clip(total >> _WEIGHT_BITS, 0, 255)
    else:
        exact = np.zeros((len(taps), *pixels.shape[1:]))
        for tap, weight in zip(taps.T, weights.T, strict=True):
            exact += pixels[tap] * weight[:, None, None]
        made = exact if kind == np.float32 else np.trunc(exact + np.copysign(0.5, exact))
    with np.errstate(invalid="ignore"):  # beyond int32 Pillow casts as the processor does
        stored = np.ascontiguousarray(np.moveaxis(made, 0, axis).astype(kind))
    return Image.frombytes(image.mode, (stored.shape[1], stored.shape[0]), stored.tobytes())


def _nearest_middle(image: Image.Image, size: Size, frame: Size) -> Image.Image:
    """The same where Pillow takes the nearest pixel. Which one that is, it says itself."""
    nearest = Image.Resampling.NEAREST
    wide = size[0] > size[1]
    source_px, resized_px = (image.width, size[0]) if wide else (image.height, size[1])
    if resized_px > LONGEST_NEAREST_PX:
        raise too_large(image, size, LONGEST_NEAREST_PX)
    kept = min(resized_px, frame[0] if wide else frame[1])
    start = centre(resized_px, kept)
    numbers = Image.fromarray(np.arange(1, source_px + 1, dtype=np.int32)[None])
    numbers = numbers.resize((resized_px, 1), nearest).crop((start, 0, start + kept, 1))
    found = np.asarray(numbers)[0]  # 0 where rounding has led beyond the image
    places = np.maximum(found - 1, 0)
    first, last = int(places.min()), int(places.max()) + 1
    box = (first, 0, last, image.height) if wide else (0, first, image.width, last)
    part = image.crop(box)
    rest = part.resize((part.width, size[1]) if wide else (size[0], part.height), nearest)
    pixels = np.moveaxis(np.asarray(rest), 1 if wide else 0, 0)[places - first]
    pixels[found == 0] = 0
    middle = rest.resize((kept, rest.height) if wide else (rest.width, kept), nearest)
    upright = np.ascontiguousarray(np.moveaxis(pixels, 0, 1 if wide else 0))
    middle.frombytes(Image.fromarray(upright).tobytes())  # which keeps its palette
    return middle
