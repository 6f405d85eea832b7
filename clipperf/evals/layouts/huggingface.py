"""What Hugging Face's ``datasets`` wrote with ``save_to_disk``: Arrow files and their description.

``state.json`` names the files of a part, ``dataset_info.json`` its columns; several parts lie in
folders that ``dataset_dict.json`` names. The column of images is the one of the kind Image, with
their bytes in the files; the class is one of the kind ClassLabel, or captions are texts, one or a
list an image. Needs pyarrow, which finds where in the files the bytes lie; they are read there,
image by image.
"""

from __future__ import annotations

import mmap
import posixpath
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    Content,
    Layout,
    Place,
    check_classes,
    few,
    in_split,
    lines_of,
    texts_in,
)
from clipperf.inputs.sources import ImageSource, read_object
from clipperf.system import extras
from clipperf.system.reading import open_regular
from clipperf.text import quoted, shown

if TYPE_CHECKING:
    import pyarrow

STATE, INFO, PARTS = "state.json", "dataset_info.json", "dataset_dict.json"
CAPTIONS = ("caption", "captions", "text", "sentences", "sentence")


def _part(place: Place) -> str | None:
    """The folder of the wanted split with a "/" behind it, "" for the only one."""
    arrows = [name for name in place.files if name.endswith(".arrow")]
    if not arrows:
        return None
    if STATE in place.files:
        return ""
    folders = {posixpath.dirname(name) for name in arrows}
    if any(f"{folder}/{STATE}" not in place.files for folder in folders):
        return None
    return f"{in_split(place, folders)}/"


def _read(place: Place, without: Collection[str]) -> Content:
    part = _part(place)
    assert part is not None
    features = _features(place.files[part + INFO])
    image, label, caption = _columns(place, features)
    named = [entry.get("filename") for entry in _files(place, part)]
    images: list[ImageSource] = []
    answers: list[Any] = []
    for name in named:
        if not isinstance(name, str) or part + name not in place.files:
            raise UsageError(f"{shown(place.root)}: {part}{STATE} names {shown(name)}, not there")
        source = place.files[part + name]
        for i, (span, answer) in enumerate(_rows(source, image, label or caption)):
            own = ImageSource(f"{part}{name}/{i}", source.path, f"row {i}", span)
            if own.name not in without:
                images.append(own)
                answers.append(answer)
    if not images:
        raise UsageError(f"{shown(place.root)} holds no images")
    if label is None:
        return _captioned(place, images, answers)
    said = features[label].get("names")
    if said:
        names = texts_in(said, f"{place.files[part + INFO]}: the names of {quoted(label)}")
    else:
        names = lines_of(place, "classnames.txt")
    templates = lines_of(place, "templates.txt") or list(DEFAULT_TEMPLATES)
    check_classes(names, templates, shown(place.root))
    for own, answer in zip(images, answers, strict=True):
        if not isinstance(answer, int) or not 0 <= answer < len(names):
            raise UsageError(f"{own}: {label} is {shown(answer)}, of {len(names)} classes")
    keys = names if said and len({*names}) == len(names) else ()
    return Content(images, labels=answers, class_names=names, class_keys=keys, templates=templates)


def _features(source: ImageSource) -> dict[str, dict[str, Any]]:
    """The description of each column."""
    found = read_object(source).get("features") or {}
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        raise UsageError(f"{source}: 'features' must be an object of objects")
    return found


def _files(place: Place, part: str) -> list[dict[str, Any]]:
    found = read_object(place.files[part + STATE]).get("_data_files")
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UsageError(f"{place.files[part + STATE]}: '_data_files' must be a list of objects")
    return found


def _columns(
    place: Place, features: dict[str, dict[str, Any]]
) -> tuple[str, str | None, str | None]:
    """The columns of the images, the class, and the captions."""
    kinds = {name: row.get("_type") for name, row in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    chosen = place.columns.get("label")
    label = chosen or ("label" if "label" in labels else next(iter(labels), None))
    caption = place.columns.get("caption") or next((n for n in CAPTIONS if n in kinds), None)
    if len(images) != 1 or (label is None and caption is None):
        raise UsageError(
            f"{shown(place.root)}: need one column of images and one of classes or captions, "
            f"found {few(kinds, 20)}"
        )
    for name in (label, caption):
        if name is not None and name not in kinds:
            raise UsageError(f"{shown(place.root)}: no column {quoted(name)} in {few(kinds, 20)}")
    return images[0], label, caption


def _rows(
    source: ImageSource, image: str, other: str | None
) -> Iterator[tuple[tuple[int, int], Any]]:
    """Where each image's bytes lie in an Arrow file, and what the other column says of it."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as exc:
        raise MissingDependencyError(
            f"{source}: Arrow files need pyarrow: {extras.bring('pyarrow')}"
        ) from exc
    try:
        with open_regular(source.path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        whole = pyarrow.py_buffer(mapped)
        _check_unpacked(source, pyarrow.ipc.MessageReader.open_stream(whole))
        with pyarrow.ipc.open_stream(whole) as batches:
            if other is not None:
                _check_kind(source, other, batches.schema.field(other).type)
            for batch in batches:
                batch.validate(full=True)
                column = batch.column(image)
                answers = batch.column(other).to_pylist()
                yield from zip(_spans(source, column, whole), answers, strict=True)
    except (pyarrow.ArrowException, *_WRONG) as exc:
        raise UsageError(f"{source} is no Arrow file of images: {shown(exc)}") from exc


_DICTIONARY, _BATCH = 2, 3
"""Kinds of messages that hold data."""


def _check_unpacked(source: ImageSource, messages: Iterable[pyarrow.Message]) -> None:
    """Raise UsageError where columns are packed: nobody knows how large they are before.

    A few KB can be many GB, and a batch is unpacked as a whole as soon as it is read. Messages are
    flatbuffers; whether one is packed stands in its header.
    """
    for message in messages:
        data = memoryview(message.metadata)
        (root,) = struct.unpack_from("<I", data)
        kind, held = _field(data, root, 1), _field(data, root, 2)
        number = data[kind] if kind is not None else 0
        if held is None or number not in (_DICTIONARY, _BATCH):
            continue
        batch = _followed(data, held)
        if number == _DICTIONARY:
            inner = _field(data, batch, 1)
            if inner is None:
                continue
            batch = _followed(data, inner)
        if _field(data, batch, 3) is not None:
            raise UsageError(f"{source}: packed Arrow files cannot be read in place: save it anew")


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table lies; None where it is not set."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * number)
    return table + offset if offset else None


def _followed(data: memoryview, at: int) -> int:
    (offset,) = struct.unpack_from("<I", data, at)
    return at + int(offset)


def _check_kind(source: ImageSource, name: str, kind: pyarrow.DataType) -> None:
    """Raise UsageError where a column can say more than there are bytes in the file.

    Views and dictionaries may name the same bytes for every row, and nulls need none.
    """
    import pyarrow.types as kinds

    each = kind.value_type if kinds.is_list(kind) or kinds.is_large_list(kind) else kind
    if not (kinds.is_integer(each) or kinds.is_string(each) or kinds.is_large_string(each)):
        raise UsageError(
            f"{source}: column {quoted(name)} is {shown(kind)}: need whole numbers, texts, or "
            "lists of texts"
        )


_WRONG = (OSError, KeyError, IndexError, AttributeError, TypeError, ValueError, struct.error)
# What columns of other kinds, or of no rows, give.


def _spans(
    source: ImageSource, column: pyarrow.Array, whole: pyarrow.Buffer
) -> Iterator[tuple[int, int]]:
    """First byte and size of each image; images that lie elsewhere are refused."""
    content = column.field("bytes") if hasattr(column, "field") else column
    offsets, data = content.buffers()[1:]
    width = 8 if "large" in str(content.type) else 4
    starts = memoryview(offsets).cast("B").cast("q" if width == 8 else "i")
    there = [
        a and b for a, b in zip(*(a.is_valid().to_pylist() for a in (column, content)), strict=True)
    ]
    for i in range(len(content)):
        if not there[i]:
            raise UsageError(f"{source} row {i}: the image is not in the file: save it with bytes")
        begin, end = starts[content.offset + i], starts[content.offset + i + 1]
        start = data.address - whole.address + begin
        if not 0 <= start <= start + end - begin <= whole.size:
            raise UsageError(f"{source} row {i}: packed Arrow files cannot be read in place")
        yield start, end - begin


def _captioned(place: Place, images: list[ImageSource], answers: list[Any]) -> Content:
    captions: list[str] = []
    caption_image: list[int] = []
    for i, (image, answer) in enumerate(zip(images, answers, strict=True)):
        texts = answer if isinstance(answer, list) else [answer]
        own = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if not own:
            raise UsageError(f"{image}: it has no caption")
        captions += own
        caption_image += [i] * len(own)
    return Content(images, captions, caption_image)


LAYOUT = Layout(
    name="huggingface",
    fits=lambda place: _part(place) is not None,
    read=_read,
    own=("*.arrow", f"*{STATE}", f"*{INFO}", PARTS, "classnames.txt", "templates.txt"),
    offers=lambda place: () if STATE in place.files else (SPLIT,),
)
