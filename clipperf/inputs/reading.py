"""Images of known formats, opened with care, and what is wrong with those that cannot be.

Pillow knows formats that start other programs (EPS starts Ghostscript) or that
nobody keeps photos in; `FORMATS` are those that are read, here and in datasets alike.
"""

from __future__ import annotations

import functools
import re
from typing import BinaryIO

from PIL import Image

from clipperf.text import shown

FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI"),
    *("SGI", "TGA", "TIFF", "WEBP"),
)
"""Pillow's names of the formats that are read, where the installed Pillow has them.

A plugin that does not come with Pillow is read as well: whoever has registered it (pillow-heif's
`register_heif_opener`) wants its format.
"""

MAX_IMAGE_BYTES = 1 << 29
"""The largest image file, 512 MiB: twice Pillow's own limit of pixels (`Image.MAX_IMAGE_PIXELS`,
89 million), at three bytes each. Above that limit Pillow warns, above twice it refuses."""

MAX_TEXT_BYTES = 1 << 26
"""The largest captions file, 64 MiB: about a million captions."""


def open_image(file: BinaryIO) -> Image.Image:
    """`Image.open`, for `FORMATS` alone.

    Raises: as `Image.open`.
    """
    Image.preinit()
    try:
        return Image.open(file, formats=_readable())
    except Image.UnidentifiedImageError:
        # The rarer plugins are imported when they are needed, as Pillow does.
        if not Image.init():
            raise
    return Image.open(file, formats=_readable())


def image_suffixes() -> frozenset[str]:
    """How the names of files end that `open_image` can read, such as ".jpg"."""
    by_suffix = Image.registered_extensions()
    formats = {*FORMATS, *_readable()}
    return frozenset(suffix for suffix, name in by_suffix.items() if name in formats)


def _readable() -> tuple[str, ...]:
    """The formats that are read, of those whose plugins are there so far."""
    return _formats(len(Image.OPEN))


@functools.lru_cache(maxsize=1)
def _formats(plugins: int) -> tuple[str, ...]:
    """Asked for every image; the number of plugins says when others have come."""
    del plugins
    return tuple(
        name
        for name, (factory, _) in list(Image.OPEN.items())  # another thread may add plugins
        if name in FORMATS or not str(getattr(factory, "__module__", "")).startswith("PIL.")
    )


def why_unreadable(exc: Exception) -> str:
    """What an error of Pillow's or of the file system says about an image, and what to do."""
    if isinstance(exc, Image.UnidentifiedImageError):
        return (
            "not an image, or a format that is not read here; convert it to one of "
            f"{', '.join(FORMATS)}"
        )
    if isinstance(exc, Image.DecompressionBombError):
        return f"{exc}; shrink it first, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    said = (isinstance(exc, OSError) and exc.strerror) or str(exc) or type(exc).__name__
    return shown(said)


def no_path(text: str) -> str | None:
    """What to do with a text that cannot be a path but something else; None where it may be one."""
    if re.match(r"data:", text, re.IGNORECASE):
        return (
            "a data: URI is not a path; decode it first: "
            "PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(',', 1)[1])))"
        )
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        return "a URL is not a path; download it first"
    return None
