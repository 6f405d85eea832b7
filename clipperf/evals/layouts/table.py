"""A table of captions or labels beside images.

- ``captions.csv`` (header with ``image`` and ``caption``), ``captions.jsonl`` (an object with
  ``image`` and ``caption`` a line), ``captions.txt`` (Flickr8k as it is passed around: a header
  ``image,caption``, captions with commas in them), ``Flickr8k.token.txt`` and
  ``results_20130124.token`` (``image.jpg#0``, a tab and a caption), ``results.csv`` of Flickr30k;
- ``labels.csv``, ``labels.jsonl`` with ``image`` and ``label``;
- ``metadata.csv``, ``metadata.jsonl`` with ``file_name`` and ``text`` or ``label``, as Hugging
  Face's imagefolder has it.

Several captions an image are several rows. Images are named relative to the folder or to its
``images`` folder, or by a file name that is there once; images that no row names are not used.
With a ``category`` in every row and ``classes.json`` (``{"categories": [...], "class_names":
[...], "templates": [...]}``, the last two optional) the images are also classified. Labels that
are whole numbers index ``classnames.txt`` where that is there; else they are the names of classes.
``fairface_label_train.csv`` and ``fairface_label_val.csv`` are FairFace's, beside its folders
``train`` and ``val``. All other columns are kept as they are, for tasks that
look at groups, places or videos; rows with
``latitude`` and ``longitude`` need no caption and no class.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Collection, Mapping
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    SPLITS,
    Content,
    Layout,
    Place,
    check_classes,
    few,
    in_split,
    lines_of,
    texts_in,
)
from clipperf.evals.rows import read_rows
from clipperf.inputs.sources import ImageSource, one_spelling, read_object, read_text
from clipperf.text import quoted, shown

TABLES = (
    *("captions.csv", "captions.jsonl", "captions.txt", "labels.csv", "labels.jsonl"),
    *("metadata.csv", "metadata.jsonl", "Flickr8k.token.txt", "results_20130124.token"),
    "results.csv",
)
FAIRFACE = {
    "test": "fairface_label_val.csv",
    "val": "fairface_label_val.csv",
    "train": "fairface_label_train.csv",
}
"""Its table of each split; published figures are of the validation split."""

PART = "Flickr_8k.{}Images.txt"
"""Flickr8k's list of the images of a split; without it, all are used."""

IMAGE = ("image", "file_name", "filename", "image_name", "filepath", "file")
CAPTION = ("caption", "text", "comment", "title")
LABEL = ("label", "class")
ALONE = {"latitude", "longitude", "race", "gender", "age", "verb"}
"""What stands in place of a caption or a class: of places, people, actions."""


def _tables(place: Place) -> list[str]:
    if place.table is not None:
        return [place.table]
    parts = [split for split, name in FAIRFACE.items() if name in place.files]
    if parts:
        return [FAIRFACE[in_split(place, parts)]]
    return [name for name in TABLES if name in place.files]


def _offers(place: Place) -> tuple[str, ...]:
    split = place.table is None and {*FAIRFACE.values()} & place.files.keys()
    listed = any(PART.format(name) in place.files for name in SPLITS)
    return (SPLIT,) if split or listed else ()


def _read(place: Place, without: Collection[str]) -> Content:
    table, *more = _tables(place)
    if more:
        raise UsageError(f"{shown(place.root)} holds both {table} and {more[0]}: remove one")
    source = place.files[table]
    classes = _categories(place.files["classes.json"]) if "classes.json" in place.files else {}
    number = {category: i for i, category in enumerate(classes.get("categories", []))}
    where, part = _Where(place), set(lines_of(place, PART.format(place.split)))
    index: dict[str, int] = {}
    captions: list[str] = []
    caption_image: list[int] = []
    found: list[Any] = []
    rest: list[dict[str, str]] = []
    for line, row in read_rows(source, place.columns):
        at = f"{source} line {line}"
        wanted, caption = _first(row, IMAGE), _first(row, CAPTION)
        category, label = row.get("category"), _first(row, LABEL)
        label = label.strip() if isinstance(label, str) else label
        if not isinstance(wanted, str) or not wanted.strip():
            raise UsageError(f"{at}: {_no_image(row)}")
        alone = label is None and not (ALONE & row.keys())
        if alone and (not isinstance(caption, str) or not caption.strip()):
            raise UsageError(f"{at}: {_no_answer(row)}")
        image = where.find(wanted.strip())
        if image is None:
            raise UsageError(f"{at}: no image {quoted(wanted)} in {shown(place.root)}")
        if image in without or (part and posixpath.basename(image) not in part):
            continue
        own = number.get(str(category)) if number else label
        if number and own is None:
            raise UsageError(f"{at}: category {quoted(category)} is not in classes.json")
        if image not in index:
            index[image] = len(index)
            found.append(own)
            rest.append(_rest(row, place.columns))
        else:
            if found[index[image]] != own:
                both: list[Any] = [found[index[image]], own]
                before, here = [classes["categories"][i] if number else i for i in both]
                said = f"{quoted(before)}, here {quoted(here)}"
                raise UsageError(
                    f"{at}: {quoted(wanted)} had another category in an earlier line: {said}"
                )
            one = {*place.asked, *ALONE} if caption else None
            _join(rest[index[image]], _rest(row, place.columns), one, f"{at}: {quoted(wanted)}")
        if isinstance(caption, str) and caption.strip():
            captions.append(caption.strip())
            caption_image.append(index[image])
    if not index:
        raise UsageError(f"{source} {_no_rows(source)}")
    silent = set(range(len(index))) - set(caption_image)
    if captions and silent:
        name = list(index)[min(silent)]
        raise UsageError(f"{source}: {quoted(name)} has no caption, others do")
    _check_spare(place, table, {*index, *without})
    content = Content(
        [place.files[n] for n in index], captions, caption_image, columns=_columns(rest)
    )
    if number:
        labels = [label for label in found if isinstance(label, int)]
        names, templates = classes["class_names"], classes["templates"]
        return _with(content, labels, names, templates, classes["categories"])
    if all(label is None for label in found):
        return content
    return _labelled(place, source, content, found)


def _no_image(row: Mapping[Any, Any]) -> str:
    """Why a row names no image, in words."""
    if {*IMAGE} & row.keys():
        return "no image"
    header = [str(name) for name in row if name is not None]
    said = f"no column image; there are {few(map(quoted, header), 20)}"
    if len(header) == 1 and ";" in header[0]:
        return f"{said}: put commas between columns, not semicolons"
    alike = next((name for name in header if name.lower() in IMAGE), "COLUMN")
    return f'{said}: write it in small letters, or say in a TOML which it is (image = "{alike}")'


def _no_answer(row: Mapping[Any, Any]) -> str:
    """What a row lacks that has no caption, class or place, in words."""
    if {*CAPTION} & row.keys():
        return "empty caption"
    header = few((quoted(name) for name in row if name is not None), 20)
    return (
        f"no column caption, label, or latitude and longitude; there are {header}: rename them, or "
        'say in a TOML which they are (label = "COLUMN", latitude = "COLUMN", ...)'
    )


def _no_rows(source: ImageSource) -> str:
    return "has no row of an image below its header" if read_text(source).strip() else "is empty"


def _labelled(place: Place, source: ImageSource, content: Content, found: list[Any]) -> Content:
    """With classes from labels: numbers that index the list of names, or the names themselves."""
    said = ["" if label is None else str(label).strip() for label in found]
    if "" in said:
        raise UsageError(f"{source}: an image has no label, others do")
    names, keys = lines_of(place, "classnames.txt"), list[str]()
    if names and all(label.isdecimal() for label in said):
        labels = [int(label) for label in said]
        if max(labels) >= len(names):
            raise UsageError(
                f"{source}: label {max(labels)}, and classnames.txt has {len(names)} names"
            )
    else:
        names = names or sorted(set(said), key=lambda n: (len(n), n) if n.isdecimal() else (0, n))
        place_of = {name: i for i, name in reversed([*enumerate(names)])}
        unknown = set(said) - place_of.keys()
        if unknown:
            raise UsageError(f"{source}: labels that classnames.txt does not name: {few(unknown)}")
        labels = [place_of[label] for label in said]
        keys = names if len(place_of) == len(names) else keys
    templates = lines_of(place, "templates.txt") or list(DEFAULT_TEMPLATES)
    check_classes(names, templates, str(source))
    return _with(content, labels, names, templates, keys)


def _with(
    content: Content, labels: list[int], names: list[str], templates: list[str], keys: list[str]
) -> Content:
    return dataclasses.replace(
        content, labels=labels, class_names=names, templates=templates, class_keys=keys
    )


def _first(row: dict[Any, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _rest(row: dict[Any, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """What a row says beside the image, its caption and its class.

    A column that was chosen for the class says so by its own name, too: a race may be what is
    asked, and what it is asked by.
    """
    known = {*IMAGE, *CAPTION, *LABEL, "category"}
    own = {name: value for name, value in row.items() if name not in known}
    if "label" in columns:
        own[columns["label"]] = row.get("label")
    return {
        str(name): str(value).strip()
        for name, value in own.items()
        if isinstance(value, str | int | float)
    }


def _join(
    known: dict[str, str], more: dict[str, str], one: Collection[str] | None, where: str
) -> None:
    """Add to what was said of an image what another of its rows says.

    `one` are the columns of which an image has one value, None for all: beside captions others may
    be of these, such as who wrote each.
    """
    for name, value in more.items():
        before = known.get(name)
        if not before:
            known[name] = value
        elif value and value != before and (one is None or name in one):
            raise UsageError(
                f"{where} had another {shown(name)} in an earlier line: {quoted(before)}, here "
                f"{quoted(value)}: an image has one"
            )


def _columns(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """The columns that are filled for any image, with "" where they are not."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value)
    return {name: [row.get(name, "") for row in rows] for name in names}


class _Where:
    """Which image a row means: a path, one below ``images``, or a file name that is there once."""

    def __init__(self, place: Place) -> None:
        self._files = place.files
        self._by_name: dict[str, str | None] = {}
        for name in place.images:
            base = posixpath.basename(name)
            self._by_name[base] = None if base in self._by_name else name

    def find(self, wanted: str) -> str | None:
        plain = posixpath.normpath(one_spelling(wanted))
        for name in (plain, f"images/{plain}"):
            if name in self._files:
                return name
        return None if "/" in plain else self._by_name.get(plain)


def _check_spare(place: Place, table: str, used: Collection[str]) -> None:
    """Folders of images that no row names make it doubtful what is meant."""
    spare = {n.split("/")[0] for n in place.images if "/" in n} - {n.split("/")[0] for n in used}
    if spare and place.table is None and table not in FAIRFACE.values():
        raise UsageError(
            f"{shown(place.root)} holds {table} and also folders of images without captions "
            f"({few(spare)}): move {table} elsewhere to classify the folders, "
            "or move the folders elsewhere to use the captions"
        )


def _categories(source: ImageSource) -> dict[str, list[str]]:
    """categories, class_names and templates of a ``classes.json`` beside a table."""
    found = read_object(source)
    categories = found.get("categories")
    out = {
        "categories": categories,
        "class_names": found.get("class_names", categories),
        "templates": found.get("templates", list(DEFAULT_TEMPLATES)),
    }
    for key, value in out.items():
        texts_in(value, f"{source}: {quoted(key)}")
    if len(out["categories"]) != len(out["class_names"]):
        raise UsageError(f"{source}: categories and class_names differ in length")
    if len(set(out["categories"])) < len(out["categories"]):
        raise UsageError(f"{source}: a category is there twice: rows could not say which they mean")
    check_classes(out["class_names"], out["templates"], str(source))
    return out


LAYOUT = Layout(
    name="table",
    fits=lambda place: bool(place.images and _tables(place)),
    read=_read,
    own=(
        *TABLES,
        *FAIRFACE.values(),
        "Flickr_8k.*",
        "classes.json",
        "classnames.txt",
        "templates.txt",
    ),
    offers=_offers,
)
