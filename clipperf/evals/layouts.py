"""How files become images with captions or classes.

Two layouts, told apart by whether there is a captions file:

- **captions**: ``captions.csv`` (header with ``image`` and ``caption``) or ``captions.jsonl``
  (an object with ``image`` and ``caption`` a line); several rows an image are fine. Images are
  named relative to the folder or to its ``images`` folder; images that no row names are not
  used. With a ``category`` in every row and ``classes.json`` (``{"categories": [...],
  "class_names": [...], "templates": [...]}``, the last two optional) the images are also
  classified.
- **class folders**: ``CLASS/*.jpg`` and so on, at any depth below CLASS. Optional:
  ``classes.json`` (``{"folder": "display name"}``; a folder without images stays a class only
  if named there) and ``templates.txt`` (a template a line, ``{}`` stands for the class name).
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.inputs.sources import (
    ImageSource,
    one_spelling,
    parse_object,
    read_object,
    read_text,
)
from clipperf.text import quoted, shown

TABLES = ("captions.csv", "captions.jsonl")
OWN_FILES = (*TABLES, "classes.json", "templates.txt")
"""What a dataset may hold beside images."""

DEFAULT_TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a photo of the {}.",
    "an image that shows a {}.",
)
"""Prompts where a dataset brings none; the first is CLIP's standard prompt."""


def read_layout(
    root: Path, files: dict[str, ImageSource], images: list[str], without: Collection[str]
) -> dict[str, Any]:
    """The fields of a dataset; "images" are names, those in `without` left out.

    `images` are the names of all images among the `files` of the folder or zip at `root`.

    Raises:
        UsageError: the files are no dataset; the message names the file and line.
    """
    tables = [name for name in TABLES if name in files]
    if len(tables) > 1:
        raise UsageError(f"{shown(root)} holds both captions.csv and captions.jsonl: remove one")
    if tables:
        return _captioned(root, files, images, tables[0], without)
    return _class_folders(root, files, images, without)


def _captioned(
    root: Path,
    files: dict[str, ImageSource],
    images: list[str],
    table: str,
    without: Collection[str],
) -> dict[str, Any]:
    """The fields of a dataset with a captions file; "images" are names."""
    classes = _sample_classes(files["classes.json"]) if "classes.json" in files else {}
    number = {category: i for i, category in enumerate(classes.pop("categories", []))}
    index: dict[str, int] = {}
    captions, caption_image, labels = [], [], []
    for line, row in _rows(files[table]):
        at = f"{files[table]} line {line}"
        wanted, caption, category = row.get("image"), row.get("caption"), row.get("category")
        if not isinstance(wanted, str) or not wanted.strip():
            raise UsageError(f"{at}: no image")
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{at}: empty caption")
        plain = posixpath.normpath(one_spelling(wanted.strip()))
        image = plain if plain in files else f"images/{plain}"
        if image not in files:
            raise UsageError(f"{at}: no image {quoted(wanted)} in {shown(root)}")
        if image in without:
            continue
        label = number.get(str(category))  # None too where nothing is to be classified
        if number and label is None:
            raise UsageError(f"{at}: category {quoted(category)} is not in classes.json")
        if image not in index:
            index[image] = len(index)
            if label is not None:
                labels.append(label)
        elif label is not None and labels[index[image]] != label:
            raise UsageError(f"{at}: {quoted(wanted)} had another category in an earlier line")
        captions.append(caption.strip())
        caption_image.append(index[image])
    if not captions:
        raise UsageError(f"{files[table]} holds no captions")
    used = {n.split("/")[0] for n in (*index, *without)}
    spare = {n.split("/")[0] for n in images if "/" in n} - used
    if spare:
        raise UsageError(
            f"{shown(root)} holds {table} and also folders of images without captions "
            f"({few(spare)}): move {table} elsewhere to classify the folders, "
            "or move the folders elsewhere to use the captions"
        )
    texts = {"captions": captions, "caption_image": caption_image}
    return {"images": list(index), **texts, "labels": labels, **classes}


def _class_folders(
    root: Path, files: dict[str, ImageSource], images: list[str], without: Collection[str]
) -> dict[str, Any]:
    """The fields of a dataset with one folder a class; "images" are names."""
    loose = [name for name in images if "/" not in name]
    folders = {name.split("/")[0] for name in images if "/" in name}
    if loose:
        raise UsageError(
            f"images outside any class folder in {shown(root)} ({few(loose)}): put them into "
            "folders, one a class, or add captions.csv with the columns image,caption"
        )
    images = [name for name in images if name not in without]
    names = read_object(files["classes.json"]) if "classes.json" in files else {}
    for folder, title in names.items():
        if not isinstance(title, str) or not title.strip():
            raise UsageError(
                f'{shown(root)}: classes.json must map folders to names: {{"cat": "a cat"}}'
            )
        if one_spelling(folder) not in folders and not (root.is_dir() and (root / folder).is_dir()):
            raise UsageError(
                f"{shown(root)}: classes.json names {quoted(folder)}, which is not a folder there"
            )
    folders = {name.split("/")[0] for name in images}
    classes = sorted(folders | {one_spelling(folder) for folder in names})
    title_of = {one_spelling(folder): title.strip() for folder, title in names.items()}
    class_names = [title_of.get(folder, folder.replace("_", " ")) for folder in classes]
    templates = list(DEFAULT_TEMPLATES)
    if "templates.txt" in files:
        lines = read_text(files["templates.txt"]).split("\n")
        templates = [line.strip() for line in lines if line.strip()]
    _check_classes(class_names, templates, shown(root))
    number = {folder: i for i, folder in enumerate(classes)}
    labels = [number[name.split("/")[0]] for name in images]
    fields = {"labels": labels, "class_names": class_names, "templates": templates}
    return {"images": images, **fields}


def _sample_classes(source: ImageSource) -> dict[str, list[str]]:
    """categories, class_names and templates of a ``classes.json`` beside a captions file."""
    found = read_object(source)
    categories = found.get("categories")
    out = {
        "categories": categories,
        "class_names": found.get("class_names", categories),
        "templates": found.get("templates", list(DEFAULT_TEMPLATES)),
    }
    for key, value in out.items():
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise UsageError(f"{source}: {quoted(key)} must be a list of texts")
    if len(out["categories"]) != len(out["class_names"]):
        raise UsageError(f"{source}: categories and class_names differ in length")
    _check_classes(out["categories"], out["templates"], str(source))
    _check_classes(out["class_names"], out["templates"], str(source))
    return out


def _check_classes(class_names: list[str], templates: list[str], where: str) -> None:
    """Classes must be told apart by name, and every template must have room for one."""
    twice = {name for name, count in Counter(class_names).items() if count > 1}
    if twice:
        raise UsageError(f"{where}: two classes share a name ({few(twice)}): rename one")
    if not class_names or not templates:
        raise UsageError(f"{where}: no {'templates' if class_names else 'classes'}")
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"{where}: template {quoted(template)} has no {{}} for the class name")


def _rows(source: ImageSource) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Line number and fields of each row of a captions file."""
    text = read_text(source)
    if source.name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or ()]
            missing = {"image", "caption"} - set(reader.fieldnames)
            if missing:
                raise UsageError(f"{source}: the header lacks {few(missing)}; need image,caption")
            for row in reader:
                if None in row:
                    raise UsageError(
                        f"{source} line {reader.line_num}: more fields than columns; "
                        "put captions with commas in double quotes"
                    )
                yield reader.line_num, row
        except csv.Error as exc:
            raise UsageError(f"{source} line {reader.line_num}: {shown(exc)}") from exc
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_object(content, f"{source} line {line}")


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, in a bounded text."""
    ordered = sorted(names)
    return ", ".join(map(shown, ordered[:most])) + (", ..." if len(ordered) > most else "")
