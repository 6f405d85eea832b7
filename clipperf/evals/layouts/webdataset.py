"""WebDataset shards as CLIP_benchmark publishes them: ``test/0.tar``, ``test/1.tar``, ...

Beside them lie ``test/nshards.txt``, ``classnames.txt``, and templates in
``zeroshot_classification_templates.txt`` (``{c}`` stands for the class name), or
``dataset_type.txt`` with ``retrieval`` or ``multilabel``. A sample is the files of a shard with one
name before the first dot of its last part: an image, and its class as a number (``.cls``), the
classes that it has as numpy's array of zeros and ones (``.npy``), captions one a line (``.txt``),
or an object with ``caption`` or ``label`` (``.json``). Numbers in a ``.npy`` beside a ``.cls`` say
what else is known of the image, as DataComp publishes FMoW's regions and Dollar Street's incomes.

Shards are read in place, image by image; nothing of them is unpacked, and no pickle is opened. A
single tar in this form is one shard.
"""

from __future__ import annotations

import dataclasses
import io
import math
import posixpath
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    SPLITS,
    Content,
    Layout,
    Place,
    check_classes,
    class_languages,
    few,
    in_split,
    lines_of,
    published_texts,
)
from clipperf.evals.published import METADATA, METADATA_GROUPS
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, list_tar, parse_object, read_text
from clipperf.text import quoted, shown

NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
TYPE, NUMBER = "dataset_type.txt", "nshards.txt"
ANSWERS = (".cls", ".npy", ".txt", ".json")
"""The files of a sample that say what is right for it, in the order in which they count."""

MOST_ANSWER_BYTES = 1 << 20

Sample = dict[str, ImageSource]
"""The files of a sample by suffix."""


def _shards(place: Place) -> list[ImageSource]:
    """The shards of the wanted split, in order; none where this is another layout."""
    tars = [name for name in place.files if name.endswith(".tar")]
    folders = {posixpath.dirname(name) for name in tars}
    if not tars or not folders <= {"", *SPLITS}:
        return []
    folder = "" if folders == {""} else in_split(place, folders - {""})
    own = [name for name in tars if posixpath.dirname(name) == folder]
    return [place.files[name] for name in sorted(own, key=_in_order)]


def _in_order(name: str) -> tuple[int, str]:
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return (int(stem), name) if stem.isdecimal() else (0, name)


def _fits(place: Place) -> bool:
    if _shards(place):
        return True
    images = set(place.images)
    return place.root.suffix == ".tar" and any(
        posixpath.splitext(name)[1] in (".cls", ".npy") or f"{_split(name)[0]}.txt" in place.files
        for name in place.files
        if name in images or name.endswith((".cls", ".npy"))
    )


def _read(place: Place, without: Collection[str]) -> Content:
    images: list[ImageSource] = []
    answers: list[tuple[str, ImageSource]] = []
    beside: list[ImageSource | None] = []
    for sample in _samples(place):
        image = next((sample[s] for s in sorted(sample) if s in _IMAGES), None)
        answer = next((s for s in ANSWERS if s in sample), None)
        if image is None or answer is None:
            lacks = "an image" if image is None else f"any of {', '.join(ANSWERS)}"
            raise UsageError(f"{next(iter(sample.values()))}: its sample lacks {lacks}")
        if image.name not in without:
            images.append(image)
            answers.append((answer, sample[answer]))
            beside.append(sample.get(".npy"))
    if not images:
        raise UsageError(f"no images in the shards of {shown(place.root)}")
    kinds = {kind for kind, _ in answers}
    if len(kinds) > 1:
        raise UsageError(f"{shown(place.root)}: samples of several kinds ({few(kinds)})")
    said = lines_of(place, TYPE)
    (kind,) = kinds
    if said == ["retrieval"] and kind not in (".txt", ".json"):
        raise UsageError(f"{shown(place.root)}: {TYPE} says retrieval, samples have {kind}")
    if kind == ".txt":
        return _captioned(images, [read_text(source).splitlines() for _, source in answers])
    if kind == ".json":
        return _described(place, images, [source for _, source in answers])
    if kind == ".npy":
        return _classified(place, images, [_several(s) for _, s in answers], several=True)
    content = _classified(place, images, [[_one(s)] for _, s in answers], several=False)
    return dataclasses.replace(
        content,
        columns=_metadata(place, beside),
        groups=METADATA_GROUPS.get(place.published, ()) if all(beside) else (),
    )


def _metadata(place: Place, beside: list[ImageSource | None]) -> dict[str, list[str]]:
    """The numbers beside each class, by the names of a published set's or by their places."""
    if not all(beside):
        return {}
    rows = [
        [f"{float(number):.12g}" for number in np.atleast_1d(_numbers(s))]
        for s in beside
        if s is not None
    ]
    width = len(rows[0])
    for source, row in zip(beside, rows, strict=True):
        if len(row) != width:
            raise UsageError(f"{source}: {len(row)} numbers, the first sample has {width}")
    names = METADATA.get(place.published, ())
    if len(names) != width:
        names = tuple(f"metadata {i}" for i in range(width))
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _samples(place: Place) -> Iterator[Sample]:
    shards = _shards(place)
    if not shards:
        yield from _grouped(place.files)
        return
    _check_number(place, shards)
    for shard in shards:
        if shard.member is not None:
            raise UsageError(f"{shard}: a shard inside of an archive cannot be read: unpack that")
        yield from _grouped(list_tar(shard.path), shard.name)


def _check_number(place: Place, shards: list[ImageSource]) -> None:
    """Raise UsageError where other shards are here than the file beside them says."""
    told = posixpath.join(posixpath.dirname(shards[0].name), NUMBER)
    if told not in place.files:
        return
    number = " ".join(lines_of(place, told))
    where = f"{shown(place.root)}: {shown(told)}"
    if not number.isdecimal() or len(number) > 9:
        raise UsageError(f"{where} holds {quoted(number)}: it must be the number of shards")
    said, most = f"{where} says {number} shards, {len(shards)} are here", int(number)
    # Which are missing or too many can be told where the others are 0.tar, 1.tar, ... alone.
    more = [source.name for source in shards if not _is_numbered(source.name, most)]
    if len(shards) < most:
        there = {posixpath.basename(source.name) for source in shards}
        absent = (f"{i}.tar" for i in range(most) if f"{i}.tar" not in there)
        named = "" if more else f" ({few(islice(absent, 4))})"
        raise UsageError(f"{said}: fetch those that are missing{named}")
    if len(shards) > most:
        named = few(more) if len(shards) - len(more) == most else f"{len(shards) - most} of them"
        raise UsageError(
            f"{said}: {named} would be left out. Take them away if they are no part of it; if "
            f"they are, {NUMBER} is of an older version: write {len(shards)} into it"
        )


def _is_numbered(name: str, most: int) -> bool:
    """Whether a shard is one of 0.tar, 1.tar, ..., of which there are so many."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return len(stem) < 10 and stem.isdecimal() and stem == str(int(stem)) and int(stem) < most


def _grouped(files: dict[str, ImageSource], shard: str = "") -> Iterator[Sample]:
    """The samples of one shard in their order; images are named after it, too."""
    found: dict[str, Sample] = {}
    for name, source in sorted(files.items(), key=lambda item: item[1].span or (0, 0)):
        key, suffix = _split(name)
        named = ImageSource(posixpath.join(shard, name), source.path, source.member, source.span)
        found.setdefault(key, {})[suffix] = named
    yield from (sample for sample in found.values() if sample.keys() & (_IMAGES | {*ANSWERS}))


def _split(name: str) -> tuple[str, str]:
    """The key of a sample and the suffix of one of its files: "a/b.c.jpg" is ("a/b", ".c.jpg")."""
    folder, base = posixpath.split(name)
    stem, dot, suffix = base.partition(".")
    return posixpath.join(folder, stem), (dot + suffix).lower()


def _captioned(images: list[ImageSource], captions: list[list[str]]) -> Content:
    flat = [(i, text.strip()) for i, own in enumerate(captions) for text in own if text.strip()]
    for image, own in zip(images, captions, strict=True):
        if not any(text.strip() for text in own):
            raise UsageError(f"{image}: its sample has no caption")
    return Content(images, [text for _, text in flat], [i for i, _ in flat])


def _described(place: Place, images: list[ImageSource], sources: list[ImageSource]) -> Content:
    rows = [parse_object(read_text(source), str(source)) for source in sources]
    if all(isinstance(row.get("caption"), str) for row in rows):
        return _captioned(images, [[row["caption"]] for row in rows])
    labels = [row.get("label") for row in rows]
    for source, label in zip(sources, labels, strict=True):
        if not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise UsageError(f"{source}: neither a caption nor a label from 0")
    return _classified(place, images, [[int(str(label))] for label in labels], several=False)


def _one(source: ImageSource) -> int:
    text = source.read(MOST_ANSWER_BYTES).strip()
    if not text.isdigit() or len(text) > 9:
        raise UsageError(f"{source}: {quoted(text[:40])} is no number of a class")
    return int(text)


def _numbers(source: ImageSource) -> np.ndarray:
    """The numbers in one of numpy's files; its header is not believed more than there is."""
    data = source.read(MOST_ANSWER_BYTES)
    file = io.BytesIO(data)
    try:
        read = _HEADERS[np.lib.format.read_magic(file)]
        shape, _, kind = read(file)
        if kind.kind not in "biuf" or len(shape) > 1 or min(shape, default=0) < 0:
            raise ValueError("it must be one row of numbers")
        found = np.frombuffer(data, kind, math.prod(shape), file.tell())
    except (ValueError, KeyError, TypeError, OverflowError, SyntaxError) as exc:
        raise UsageError(f"{source} is no array of numbers: {shown(exc)}") from exc
    numbers: np.ndarray = found.reshape(shape)
    return numbers


def _several(source: ImageSource) -> list[int]:
    """The classes of an array of zeros and ones, or a number that is the class."""
    found = _numbers(source)
    if not found.ndim:
        return [_class(source, found[()])]
    if not np.isin(found, (0, 1)).all():
        raise UsageError(f"{source}: need zeros and ones")
    return [int(i) for i in np.flatnonzero(found)]


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _class(source: ImageSource, number: Any) -> int:
    if not math.isfinite(number) or number < 0 or number != int(number):
        raise UsageError(f"{source}: {quoted(number)} is no number of a class")
    return int(number)


def _classified(
    place: Place, images: list[ImageSource], found: list[list[int]], several: bool
) -> Content:
    names, templates = lines_of(place, NAMES), lines_of(place, TEMPLATES)
    largest = max((label for own in found for label in own), default=0)
    if not names or not templates:
        known, those = published_texts(place, len(names) or largest + 1)
        names, templates = names or known, templates or those or list(DEFAULT_TEMPLATES)
    if not names:
        raise UsageError(f"{shown(place.root)} holds classes, and no {NAMES} that names them")
    if largest >= len(names):
        raise UsageError(
            f"{shown(place.root)}: a sample is of class {largest}, and {NAMES} has {len(names)}"
        )
    check_classes(names, templates, shown(place.root))
    content = Content(images, class_names=names, templates=templates, label_sets=found)
    if several:
        return content
    labels = [own[0] for own in found]
    return Content(images, labels=labels, class_names=names, templates=templates)


_IMAGES = image_suffixes() | {".jpeg"}


def _offers(place: Place) -> tuple[str, ...]:
    in_folders = any(name.endswith(".tar") and "/" in name for name in place.files)
    split = (SPLIT,) if in_folders else ()
    captions = lines_of(place, TYPE) == ["retrieval"]
    return split if captions else (*split, *class_languages(place, NAMES))


LAYOUT = Layout(
    name="webdataset",
    fits=_fits,
    read=_read,
    own=("*.tar", NAMES, TEMPLATES, TYPE, NUMBER, "*.cls", "*.npy", "*.txt", "*.json"),
    offers=_offers,
)
