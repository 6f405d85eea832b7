"""Layouts: how files become images with captions or classes. One is a record in `layouts`.

The first that fits a folder or archive reads it. What several need is here: class names and
templates, and words for what is met of a published layout that cannot be read.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.published import clip_benchmark_texts
from clipperf.inputs.sources import ImageSource, read_text
from clipperf.registry import Registry
from clipperf.text import quoted, shown


class MissingSplitError(UsageError):
    """The data is there, and has no such split."""


class NoAnswersError(UsageError):
    """There are images, and nothing that says what is right for them."""


DEFAULT_TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a photo of the {}.",
    "an image that shows a {}.",
)
"""Prompts where a dataset brings none; the first is CLIP's standard prompt."""

SPLITS = ("test", "train", "val", "valid", "validation", "dev")
"""What folders are called that hold a part of a dataset each."""

HALF = {
    "*.parquet": "Parquet files are packed: read them with Hugging Face's `datasets` once, and "
    "give what save_to_disk wrote",
    "*.tar.*": "a packed tar cannot be read in place: unpack it first (gzip -d), or all of it "
    "into a folder",
    "*.tgz": "a packed tar cannot be read in place: unpack it first (gzip -d), or all of it into "
    "a folder",
    "*.tar": "a tar inside of a folder is read as a WebDataset: SPLIT/0.tar, SPLIT/1.tar, ... with "
    "SPLIT/nshards.txt; give the tar itself, or its folder",
    "*.zip": "give the zip itself, or unpack it",
    "*.tfrecord*": "TensorFlow's records are not read: convert them with clip_benchmark_export_wds",
    "*_batch": "CIFAR's batches for Python are pickles, which are never opened: convert them with "
    "clip_benchmark_export_wds",
    "*.pkl": "pickles are never opened: convert them to a folder or a WebDataset",
    "*.mat": "MATLAB's files are not read: convert the set with clip_benchmark_export_wds",
    "*-ubyte.gz": "MNIST's files are packed: unpack them first (gzip -d)",
    "*-ubyte": "MNIST's files come in pairs: t10k-images-idx3-ubyte with t10k-labels-idx1-ubyte",
    "nshards.txt": "the shards of this WebDataset are not here: fetch SPLIT/0.tar and so on, too",
    "dataset_info.json": "this is a dataset that save_to_disk of Hugging Face's `datasets` wrote, "
    "without its .arrow files",
    "dataset_*.json": "these are Karpathy's captions without their images: put them beside it",
}
"""What is met of published layouts without being one that can be read, and what to do."""


@dataclass(frozen=True)
class Place:
    """What lies at the path of a dataset.

    `files` are all of the folder or archive at `root` by name, `images` those with the suffix of
    one. `split` and `language` are the ones wanted, where there are several. `table` names the
    file with captions or labels where it has a name of its own, and `columns` its columns; `asked`
    are those that a recipe wants of the images beside, and `named` the files that are read for it.
    `published` is the name of a published dataset that it is.
    """

    root: Path
    files: dict[str, ImageSource]
    images: tuple[str, ...]
    split: str = "test"
    language: str = "en"
    table: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    published: str = ""
    asked: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """The fields of a `Dataset` that a layout found; `notes` say what is to be known beside.

    `class_keys` are what the files call the classes, such as folders; none where they go by number.
    `groups`, `clip` and `folds` are those that the layout itself has; a recipe's come before them.
    """

    images: Sequence[ImageSource]
    captions: Sequence[str] = ()
    caption_image: Sequence[int] = ()
    labels: Sequence[int] = ()
    label_sets: Sequence[Sequence[int]] = ()
    class_names: Sequence[str] = ()
    templates: Sequence[str] = ()
    class_prompts: Sequence[Sequence[str]] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    class_keys: Sequence[str] = ()
    groups: Sequence[str] = ()
    clip: str = ""
    pools: Sequence[int] = ()
    cues: Sequence[str] = ()
    choices: Sequence[Sequence[int]] = ()
    chosen: Sequence[Sequence[int]] = ()
    folds: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which datasets are laid out.

    `fits(place)` says whether it is this one. `read(place, without)` is what it holds, without the
    images of the names in `without`; it raises UsageError, which names file and line, where the
    files contradict each other. `own` are patterns of the names of files that belong to it beside
    the images. `offers(place)` says which of "split" and "language" can be chosen there: where one
    cannot be, asking for it is an error.
    """

    name: str
    fits: Callable[[Place], bool]
    read: Callable[[Place, Collection[str]], Content]
    own: tuple[str, ...] = ()
    offers: Callable[[Place], Collection[str]] = lambda place: ()


SPLIT, LANGUAGE = "split", "language"
"""What a layout may offer."""


LAYOUTS: Registry[Layout] = Registry(
    "layout",
    room="clipperf.evals.layouts",
    first=(
        "webdataset",
        "huggingface",
        "karpathy",
        "crossmodal3600",
        "winogavil",
        "table",
        "lists",
    ),
)
"""Every layout, in the order in which they are tried, but for the `LAST`."""

LAST = "class-folders"
"""The layout that takes all that has images, and says what is wrong with it."""


def layout_of(place: Place) -> Layout:
    """The layout of a place.

    Raises:
        UsageError: there is none; the message says what was met instead.
    """
    for layout in sorted(LAYOUTS, key=lambda layout: layout.name == LAST):
        if layout.fits(place):
            return layout
    met = half_met(place)
    if met:
        raise UsageError(f"{shown(place.root)} cannot be read as a dataset: {met}")
    raise UsageError(f"no images in {shown(place.root)}")


def half_met(place: Place) -> str | None:
    """What a published layout that cannot be read needs; None where there is none."""
    for pattern, advice in HALF.items():
        met = [n for n in place.files if fnmatch.fnmatch(posixpath.basename(n).lower(), pattern)]
        if met:
            return f"{shown(met[0])}: {advice}"
    return None


def in_split(place: Place, folders: Collection[str]) -> str:
    """The folder of the wanted split among those that are there.

    Raises:
        MissingSplitError: it is not among them.
    """
    if place.split in folders:
        return place.split
    raise MissingSplitError(
        f"{shown(place.root)} has no split {quoted(place.split)}: choose one of "
        f"{few(folders, 8)} with --split"
    )


def lines_of(place: Place, name: str) -> list[str]:
    """The lines of a text file, stripped and without empty ones; none where it is not there."""
    if name not in place.files:
        return []
    return [line.strip() for line in read_text(place.files[name]).split("\n") if line.strip()]


def published_texts(place: Place, classes: int) -> tuple[list[str], list[str]]:
    """Class names and templates of the published dataset that a place is; none where it is none.

    Raises:
        MissingDependencyError: they come with a package that is not installed.
        UsageError: there are other than so many `classes`.
    """
    if not place.published:
        return [], []
    names, templates = clip_benchmark_texts(place.published, place.language)
    if names and len(names) != classes:
        raise UsageError(
            f"{shown(place.root)}: {classes} classes, {place.published} has {len(names)}"
        )
    return names, templates


def class_languages(place: Place, *names: str) -> tuple[str, ...]:
    """That the language of class names can be chosen, where no file of these `names` has them."""
    return (LANGUAGE,) if place.published and not {*names} & place.files.keys() else ()


def check_classes(class_names: Sequence[str], templates: Sequence[str], where: str) -> None:
    """Every template must have room for a class name. Names are labels for people.

    Two classes of one name are two classes: CLIP's own names of ImageNet's have "missile" and
    "sunglasses" twice.
    """
    if not class_names or not templates:
        raise UsageError(f"{where}: no {'templates' if class_names else 'classes'}")
    for template in templates:
        if "{}" not in template and "{c}" not in template:
            raise UsageError(
                f"{where}: template {quoted(template)} has no {{}} or {{c}} for the class name"
            )


def texts_in(values: Any, where: str) -> list[str]:
    """A list of texts as it was written; raises UsageError where it is something else."""
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise UsageError(f"{where} must be a list of texts")
    return values


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, in a bounded text."""
    ordered = sorted(names)
    return ", ".join(map(shown, ordered[:most])) + (", ..." if len(ordered) > most else "")
