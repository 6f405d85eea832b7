"""The fast methods of `preprocess`: cykooz-resizer's SIMD code in the place of Pillow's resize.

- "fast": the pixels of "exact" to within 2/255. Both resize the rows, round to bytes, then resize
  the columns; they differ in the precision of their weights (14 bits or more against 22), so a
  value near a half may round the other way. Both passes can, and negative weights enlarge the
  first's error to 1.25/255 at most, so that the sum is 2/255 and never more. By `fast_pixels` in
  `tools`, 1/255 is seen in 0.1 to 0.4 % of values, 2/255 in 0 to 5 of a million. Pillow stays
  where its own order of passes depends on its version, and for images that are neither RGB nor
  grey, whose alpha or ink would enlarge a rounding error.
- "draft": besides, large JPEG files are decoded at a fraction of their size (libjpeg's scaled
  DCT), which averages pixels a little differently from the resize that it stands in for.

Decoding stays with Pillow: it wraps libjpeg-turbo, too.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.inputs.preprocess_spec import INTERPOLATIONS, METHODS, PreprocessSpec, Size
from clipperf.inputs.resize import resize_middle
from clipperf.system import extras
from clipperf.text import quoted

MODES = ("RGB", "L")

# Name of the filter there, and how many source pixels it reaches to either side when enlarging.
_FILTERS = {"bicubic": ("catmull_rom", 2), "bilinear": ("bilinear", 1)}


def library() -> Any:
    """The cykooz_resizer module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import cykooz_resizer
    except ImportError as exc:
        raise MissingDependencyError(
            f"fast preprocessing needs cykooz-resizer: {extras.bring('cykooz_resizer')}, "
            'or choose preprocess="exact"'
        ) from exc
    return cykooz_resizer


def check(method: str, asked: str = "preprocess") -> None:
    """Make sure that a method is known and can be used here; `asked` is how it was asked for.

    Raises:
        UsageError: there is no such method.
        MissingDependencyError: it needs a package that is not installed.
    """
    if method not in METHODS:
        raise UsageError(f"{asked} {quoted(method)}: choose from {', '.join(METHODS)}")
    if method != "exact":
        library()


def resize_and_crop(
    image: Image.Image, full_size: Size, size: Size, spec: PreprocessSpec
) -> Image.Image:
    """`image.resize(size)`, of which only the middle that fits the spec's frame is computed.

    `full_size` is that of the file, of which `image` may be a draft.
    """
    width, height = size
    shrinks_x, shrinks_y = image.width - width, image.height - height
    if image.mode not in MODES or shrinks_y > max(0, 2 * shrinks_x):
        # From Pillow 13 on the second kind has its height resized before its width.
        frame = (spec.width_px, spec.height_px)
        return resize_middle(image, size, frame, INTERPOLATIONS[spec.interpolation])
    # A draft's sides are rounded up, so its last row and column may hold only part of a pixel.
    drafted = next(
        s for s in (1, 2, 4, 8) if image.size == tuple(math.ceil(side / s) for side in full_size)
    )
    filter_name, reach = _FILTERS[spec.interpolation]
    left, columns = _middle(full_size[0] / drafted, width, spec.width_px)
    top, rows = _middle(full_size[1] / drafted, height, spec.height_px)
    # The first pass leaves out rows that the second one never reads.
    margin = math.ceil(reach * max(1.0, image.height / height)) + 1
    first = max(0, math.floor(top) - margin)
    last = min(image.height, math.ceil(top + rows) + margin)
    kept_width, kept_height = min(width, spec.width_px), min(height, spec.height_px)
    narrow = _pass(
        image, filter_name, (left, first, columns, last - first), (kept_width, last - first)
    )
    return _pass(narrow, filter_name, (0, top - first, kept_width, rows), (kept_width, kept_height))


def _middle(source_px: float, resized_px: int, frame_px: int) -> tuple[float, float]:
    """Start and length, in pixels of the source, of what stays of one side after the crop."""
    kept = min(resized_px, frame_px)
    start = round((resized_px - kept) / 2) * source_px / resized_px
    return start, kept * source_px / resized_px


def _pass(
    image: Image.Image, filter_name: str, box: tuple[float, float, float, float], size: Size
) -> Image.Image:
    """Resample the box (left, top, width, height), which keeps one side's pixels, to `size`."""
    cr = library()
    result = Image.new(image.mode, size)
    options = cr.ResizeOptions(
        resize_alg=cr.ResizeAlg.convolution(cr.FilterType[filter_name]),
        crop_box=cr.CropBox(*box),
    )
    cr.Resizer().resize_pil(image, result, options)
    return result
