"""Images as users hold them: paths, Pillow images, bytes, binary files, arrays; to Pillow images.

What is wrong with one is a `UsageError` whose message begins with `name_of` it.
"""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec, Size, resized
from clipperf.inputs.reading import MAX_IMAGE_BYTES, no_path, open_image, why_unreadable
from clipperf.system.reading import check_bytes, open_regular
from clipperf.text import quoted, shown

ImageInput = str | Path | Image.Image | bytes | bytearray | memoryview | BinaryIO | np.ndarray
"""One image: a path, a Pillow image, what is in a file (as bytes, or a binary file that is read
from where it stands to its end), or pixels: uint8 [height, width, 3] in RGB."""

Buffer = bytes | bytearray | memoryview

DRAFT_GAP = 2
CHUNK_BYTES = 1 << 24

# What Pillow and the file system raise for a file that is missing, unreadable, truncated, broken
# or no image; the rest of them are damaged files of single formats.
PIL_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, RuntimeError),
    *(AttributeError, OverflowError, AssertionError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def load_image(source: ImageInput) -> Image.Image:
    """An image, decoded fully, in the mode it is stored in (see the note of `preprocess`).

    A Pillow image is passed through after being decoded. Of a multi-frame file the first frame
    is taken.

    Raises:
        UsageError: the file is missing, unreadable, truncated, too large or not an image, it is
            no regular file, or of a format that is not read (`reading.FORMATS`); or an array is
            none of pixels.
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
            raise _unreadable(source, exc) from exc
        return source, source.size
    if isinstance(source, np.ndarray):
        image = _of_array(source)
        return image, image.size
    try:
        if not isinstance(source, str | Path):
            return _decode_file(_held(source), draft)
        with open_regular(source) as file:
            check_bytes(source, os.fstat(file.fileno()).st_size, MAX_IMAGE_BYTES)
            return _decode_file(file, draft)
    except PIL_ERRORS as exc:
        raise _unreadable(source, exc) from exc


def _decode_file(file: BinaryIO, draft: PreprocessSpec | None) -> tuple[Image.Image, Size]:
    image = open_image(file)
    size = image.size
    if draft is not None and 0 not in size:
        width, height = (DRAFT_GAP * max(side, 1) for side in resized(size, draft))
        image.draft(image.mode, (width, height))
    image.load()
    return image, size


def _held(source: Buffer | BinaryIO) -> BytesIO:
    """What bytes or a file hold, as a file in memory."""
    if hasattr(source, "read"):
        return BytesIO(content_of(source))
    if not isinstance(source, Buffer):
        raise UsageError(
            f"{name_of(source)}: give a path, a PIL image, the bytes of a file, a binary file, or "
            f"a uint8 array [height, width, 3] in RGB"
        )
    check_bytes(name_of(source), memoryview(source).nbytes, MAX_IMAGE_BYTES)
    return BytesIO(source)


def content_of(file: Any) -> bytes:
    """The bytes of a file of the user's, from where it stands to its end; it is left open.

    Raises:
        UsageError: it cannot be read, holds text, no bytes or too many.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while part := file.read(CHUNK_BYTES):
            size += len(part)
            parts.append(part)
            check_bytes(name_of(file), size, MAX_IMAGE_BYTES)
        data = b"".join(parts)
    except TypeError as exc:
        said = "it gives text: open it in binary mode, 'rb'"
        raise UsageError(f"{name_of(file)}: {said}") from exc
    except Exception as exc:
        raise _unreadable(file, exc) from exc
    if not data:
        raise UsageError(f"{name_of(file)}: there is nothing to read from where it stands; seek(0)")
    return data


def _of_array(array: np.ndarray) -> Image.Image:
    """An image of pixels [height, width, 3]; raises UsageError that says what else they are."""
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        wrong = "it is grey; numpy.stack([grey] * 3, axis=-1) has three channels"
    elif array.ndim != 3:
        wrong = f"it has {array.ndim} dimensions; one image has three"
    elif array.shape[2] == 4:
        wrong = "it has four channels; PIL.Image.fromarray(array) is read as RGBA"
    elif array.shape[2] != 3 and array.shape[0] in (1, 3, 4):
        wrong = "its channels come first; array.transpose(1, 2, 0) has them last"
    elif array.shape[2] != 3:
        wrong = f"it has {array.shape[2]} channels"
    elif array.dtype != np.uint8:
        wrong = "its values are no bytes; scale them to 0..255, then astype(numpy.uint8)"
    else:
        return Image.fromarray(np.ascontiguousarray(array))
    raise UsageError(f"{name_of(array)}: give uint8 [height, width, 3] in RGB: {wrong}")


def is_one(value: Any) -> bool:
    """Whether a value is one image or text, which users pass by mistake where a list is wanted."""
    if isinstance(value, np.ndarray):
        return value.ndim == 3  # of four dimensions, it is a list of images
    return isinstance(value, str | Path | Image.Image | Buffer) or hasattr(value, "read")


def name_of(source: object) -> str:
    """What to call an image in a message."""
    if isinstance(source, str):
        return shown(source) if no_path(source) is None else quoted(source)
    if isinstance(source, Path):
        return shown(source)
    if isinstance(source, Buffer):
        return "bytes"
    if isinstance(source, np.ndarray):
        return f"{source.dtype} array {list(source.shape)}"
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "")
        return shown(name) if name else f"a {source.mode} image of {source.size}"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return f"file {shown(name)}" if isinstance(name, str) else "a file"
    return f"a value of type {type(source).__name__}"


def _unreadable(source: object, exc: Exception) -> UsageError:
    """What an error of reading an image means."""
    name, why = name_of(source), why_unreadable(exc)
    if isinstance(source, str) and (advice := no_path(source)) is not None:
        return UsageError(f"{name}: {advice}")
    if isinstance(exc, Image.UnidentifiedImageError):
        return UsageError(f"{name}: {why}")
    return UsageError(f"{name}: cannot read the image: {why}")
