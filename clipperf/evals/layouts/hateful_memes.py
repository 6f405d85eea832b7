"""Hateful Memes (Kiela et al. 2020) as it is published: a table of each split beside ``img``.

``dev.jsonl`` or ``dev_seen.jsonl`` has an object with ``img``, ``label`` (1 is hateful) and
``text`` a line. The text stands in the image and is no caption. Published figures are of dev, so
that is what is read where nothing else is asked for; the test split has no labels.
"""

from __future__ import annotations

from collections.abc import Collection

from clipperf.errors import UsageError
from clipperf.evals.layout import SPLIT, Content, Layout, Place, in_split, lines_of
from clipperf.evals.rows import read_rows
from clipperf.inputs.sources import ImageSource, one_spelling
from clipperf.text import quoted, shown

FOLDER = "img/"
DEV = ("dev.jsonl", "dev_seen.jsonl")
SPLITS = {
    "test": DEV,
    "dev": DEV,
    "train": ("train.jsonl",),
    "dev_unseen": ("dev_unseen.jsonl",),
    "test_seen": ("test_seen.jsonl",),
    "test_unseen": ("test_unseen.jsonl",),
}
CLASSES = ("meme", "hatespeech meme")
TEMPLATES = ("a {}.",)
"""The prompts of CLIP's authors."""


def _tables(place: Place) -> dict[str, str]:
    """The table of each split that is there."""
    found = {
        split: next((n for n in names if n in place.files), "") for split, names in SPLITS.items()
    }
    return {split: name for split, name in found.items() if name}


def _read(place: Place, without: Collection[str]) -> Content:
    tables = _tables(place)
    table = tables[in_split(place, tables)]
    source = place.files[table]
    images: list[ImageSource] = []
    labels: list[int] = []
    for line, row in read_rows(source):
        at = f"{source} line {line}"
        image, label = row.get("img"), row.get("label")
        name = one_spelling(image) if isinstance(image, str) else ""
        if name not in place.files:
            raise UsageError(f"{at}: no image {quoted(image)} in {shown(place.root)}")
        if label not in (0, 1) or isinstance(label, bool):
            raise UsageError(f"{at}: its label is {quoted(label)}, not 0 or 1: no split to score")
        if name not in without:
            images.append(place.files[name])
            labels.append(int(label))
    names = lines_of(place, "classnames.txt") or list(CLASSES)
    templates = lines_of(place, "templates.txt") or list(TEMPLATES)
    if len(names) != len(CLASSES):
        raise UsageError(f"{shown(place.root)}: classnames.txt must have two names")
    return Content(
        images, labels=labels, class_names=names, templates=templates, notes=[f"read {table}"]
    )


LAYOUT = Layout(
    name="hateful-memes",
    fits=lambda place: (
        place.table is None
        and any(name.startswith(FOLDER) for name in place.images)
        and bool(_tables(place))
    ),
    read=_read,
    own=("*.jsonl", "classnames.txt", "templates.txt", "LICENSE.txt", "README.md"),
    offers=lambda place: (SPLIT,),
)
