"""Evaluation data from a folder, a zip, or the bundled sample, checked before anything runs.

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
import hashlib
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.inputs.sources import (
    ImageSource,
    decode,
    list_folder,
    list_zip,
    one_spelling,
    parse_object,
    read_object,
    read_text,
)
from clipperf.system.targets import expanded

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "eval.zip"

DEFAULT_TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a photo of the {}.",
    "an image that shows a {}.",
)
"""Prompts where a dataset brings none; the first is CLIP's standard prompt."""


@dataclass(frozen=True)
class Dataset:
    """Images with captions, or classes, or both; what is absent is empty.

    `captions[i]` belongs to `images[caption_image[i]]`; `labels[i]` is the index in
    `class_names` of `images[i]`. `sha256` covers all that scores depend on: names and bytes of
    the images, captions, labels, class names, templates. It does not change with the folder's
    place, the kind of captions file, or packing into a zip.
    """

    name: str
    sha256: str
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...] = ()
    caption_image: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every template with every class name in it: [classes * templates], classes outermost."""
        return tuple(t.replace("{}", c) for c in self.class_names for t in self.templates)


def load_dataset(name_or_dir: str | Path) -> Dataset:
    """Load the bundled "sample", a folder, or a zip of the same layout; see the module's text.

    Reads every image once, for its checksum and to see that it is an image; pixels are decoded
    later, by `ImageSource.open`. A folder that is itself called "sample" is ``./sample``.

    Raises:
        UsageError: the data is missing, damaged, ambiguous or inconsistent; the message names
            the file and line, and what to change.
    """
    if not str(name_or_dir).strip():
        raise UsageError("the dataset is empty: give 'sample' or a folder")
    path = SAMPLE if str(name_or_dir) == "sample" else expanded(name_or_dir)
    if not path.exists():
        raise UsageError(
            f"no dataset at {path}: give 'sample', a folder with one folder a class, "
            "or a folder of images with captions.csv"
        )
    files = list_folder(path) if path.is_dir() else list_zip(path)
    images = [name for name in files if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    if not images:
        raise UsageError(f"no images in {path}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    tables = [name for name in ("captions.csv", "captions.jsonl") if name in files]
    if len(tables) > 1:
        raise UsageError(f"{path} holds both captions.csv and captions.jsonl: remove one")
    content = (
        _captioned(path, files, images, tables[0])
        if tables
        else _class_folders(path, files, images)
    )
    sources = [files[name] for name in content.pop("images")]
    name = "sample" if path == SAMPLE else path.resolve().name
    fields = {key: tuple(value) for key, value in content.items()}
    return Dataset(name, _digest(sources, content), tuple(sources), **fields)


def _captioned(
    root: Path, files: dict[str, ImageSource], images: list[str], table: str
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
            raise UsageError(f"{at}: no image {wanted!r} in {root}")
        label = number.get(str(category))  # None too where nothing is to be classified
        if number and label is None:
            raise UsageError(f"{at}: category {category!r} is not in classes.json")
        if image not in index:
            index[image] = len(index)
            if label is not None:
                labels.append(label)
        elif label is not None and labels[index[image]] != label:
            raise UsageError(f"{at}: {wanted!r} had another category in an earlier line")
        captions.append(caption.strip())
        caption_image.append(index[image])
    if not captions:
        raise UsageError(f"{files[table]} holds no captions")
    spare = {n.split("/")[0] for n in images if "/" in n} - {n.split("/")[0] for n in index}
    if spare:
        raise UsageError(
            f"{root} holds {table} and also folders of images without captions "
            f"({_few(spare)}): move {table} elsewhere to classify the folders, "
            "or move the folders elsewhere to use the captions"
        )
    texts = {"captions": captions, "caption_image": caption_image}
    return {"images": list(index), **texts, "labels": labels, **classes}


def _class_folders(root: Path, files: dict[str, ImageSource], images: list[str]) -> dict[str, Any]:
    """The fields of a dataset with one folder a class; "images" are names."""
    loose = [name for name in images if "/" not in name]
    folders = {name.split("/")[0] for name in images if "/" in name}
    if loose:
        raise UsageError(
            f"images outside any class folder in {root} ({_few(loose)}): put them into folders, "
            "one a class, or add captions.csv with the columns image,caption"
        )
    names = read_object(files["classes.json"]) if "classes.json" in files else {}
    for folder, shown in names.items():
        if not isinstance(shown, str) or not shown.strip():
            raise UsageError(f'{root}: classes.json must map folders to names: {{"cat": "a cat"}}')
        if one_spelling(folder) not in folders and not (root.is_dir() and (root / folder).is_dir()):
            raise UsageError(f"{root}: classes.json names {folder!r}, which is not a folder there")
    classes = sorted(folders | {one_spelling(folder) for folder in names})
    shown_by = {one_spelling(folder): shown.strip() for folder, shown in names.items()}
    class_names = [shown_by.get(folder, folder.replace("_", " ")) for folder in classes]
    templates = list(DEFAULT_TEMPLATES)
    if "templates.txt" in files:
        lines = read_text(files["templates.txt"]).split("\n")
        templates = [line.strip() for line in lines if line.strip()]
    _check_classes(class_names, templates, str(root))
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
            raise UsageError(f"{source}: {key!r} must be a list of texts")
    if len(out["categories"]) != len(out["class_names"]):
        raise UsageError(f"{source}: categories and class_names differ in length")
    _check_classes(out["categories"], out["templates"], str(source))
    _check_classes(out["class_names"], out["templates"], str(source))
    return out


def _check_classes(class_names: list[str], templates: list[str], where: str) -> None:
    """Classes must be told apart by name, and every template must have room for one."""
    twice = {name for name, count in Counter(class_names).items() if count > 1}
    if twice:
        raise UsageError(f"{where}: two classes share a name ({_few(twice)}): rename one")
    if not class_names or not templates:
        raise UsageError(f"{where}: no {'templates' if class_names else 'classes'}")
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"{where}: template {template!r} has no {{}} for the class name")


def _rows(source: ImageSource) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Line number and fields of each row of a captions file."""
    text = read_text(source)
    if source.name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or ()]
            missing = {"image", "caption"} - set(reader.fieldnames)
            if missing:
                raise UsageError(f"{source}: the header lacks {_few(missing)}; need image,caption")
            for row in reader:
                if None in row:
                    raise UsageError(
                        f"{source} line {reader.line_num}: more fields than columns; "
                        "put captions with commas in double quotes"
                    )
                yield reader.line_num, row
        except csv.Error as exc:
            raise UsageError(f"{source} line {reader.line_num}: {exc}") from exc
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_object(content, f"{source} line {line}")


def _digest(images: list[ImageSource], content: dict[str, Any]) -> str:
    """sha256 over the images' names and bytes and all else; every image's header is checked."""
    total = hashlib.sha256()
    for source in images:
        data = source.read()
        decode(source, data, fully=False)
        total.update(json.dumps([source.name, hashlib.sha256(data).hexdigest()]).encode())
    total.update(json.dumps({k: content[k] for k in sorted(content) if content[k]}).encode())
    return total.hexdigest()


def _few(names: Iterable[str], most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")
