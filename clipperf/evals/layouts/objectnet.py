"""ObjectNet as it is published: ``images/FOLDER/*.png`` with ``mappings`` beside, in one folder.

``mappings/folder_to_objectnet_label.json`` names the folders, ``objectnet_to_imagenet_1k.json``
those of them that are classes of ImageNet's: published figures are of these 113 alone, by their
own names in lower case. Its images have a red border of two pixels, which is cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    Content,
    Layout,
    Place,
    check_classes,
    few,
    lines_of,
    published_texts,
)
from clipperf.inputs.sources import one_spelling, read_object
from clipperf.text import number_of, shown

NAMES = "mappings/folder_to_objectnet_label.json"
SHARED = "mappings/objectnet_to_imagenet_1k.json"
IMAGES = "images/"
BORDER = 2


def _within(place: Place) -> str | None:
    """The folder of the mappings with a "/" behind it, or ""; None where they are not there."""
    for name in place.files:
        within = name.removesuffix(SHARED)
        if within != name and within.count("/") < 2 and within + NAMES in place.files:
            return within
    return None


def _read(place: Place, without: Collection[str]) -> Content:
    within = _within(place)
    assert within is not None
    named, shared = (read_object(place.files[within + name]) for name in (NAMES, SHARED))
    titles = {one_spelling(f): t for f, t in named.items() if isinstance(t, str) and t in shared}
    absent = shared.keys() - {*titles.values()}
    if absent or not titles:
        raise UsageError(f"{place.files[within + NAMES]} names no folder of {few(absent)}")
    start = within + IMAGES
    folders = sorted(titles)
    place_of = {folder: i for i, folder in enumerate(folders)}
    images, labels, others = [], [], 0
    for name in place.images:
        folder = name.removeprefix(start).split("/")[0] if name.startswith(start) else ""
        if folder not in place_of:
            others += 1
        elif name not in without:
            images.append(dataclasses.replace(place.files[name], border=BORDER))
            labels.append(place_of[folder])
    if not images:
        raise UsageError(f"{shown(place.root)}: no images of ImageNet's classes in {shown(start)}")
    names = [titles[folder].lower() for folder in folders]
    templates = lines_of(place, "templates.txt") or published_texts(place, len(names))[1]
    templates = templates or list(DEFAULT_TEMPLATES)
    check_classes(names, templates, shown(place.root))
    notes = (
        [f"left out {number_of(others, 'image')} of classes that ImageNet does not have"]
        if others
        else []
    )
    return Content(
        images,
        labels=labels,
        class_names=names,
        class_keys=folders,
        templates=templates,
        notes=notes,
    )


LAYOUT = Layout(
    name="objectnet",
    fits=lambda place: bool(place.images) and _within(place) is not None,
    read=_read,
    own=("*.json", "*.txt", "*imagenet_to_label_2012_v2", "*.md"),
)
