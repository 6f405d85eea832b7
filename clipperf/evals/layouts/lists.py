"""Images with text files that list a split, as torchvision reads the original archives.

- Food-101: ``meta/test.txt`` with ``CLASS/ID`` a line,
- DTD: ``labels/test1.txt`` with ``CLASS/FILE`` a line,
- Oxford-IIIT Pets: ``annotations/test.txt`` with ``NAME_1 NUMBER ...`` a line,
- FGVC Aircraft: ``images_variant_test.txt`` with ``ID VARIANT`` a line,

each with its images below ``images`` beside it; all of them may lie in one folder more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    Content,
    Layout,
    MissingSplitError,
    Place,
    check_classes,
    class_languages,
    lines_of,
    published_texts,
)
from clipperf.text import quoted, shown


@dataclass(frozen=True)
class Listed:
    """One set's list: the end of its name by split, and what a line says.

    `read(line)` is the image's name below ``images``, and its class as it sorts.
    """

    ends: dict[str, str]
    read: Callable[[str], tuple[str, str]]


def _food(line: str) -> tuple[str, str]:
    return f"{line}.jpg", line.split("/")[0]


def _textures(line: str) -> tuple[str, str]:
    return line, line.split("/")[0]


def _pets(line: str) -> tuple[str, str]:
    image = line.split(" ")[0]
    # Numbers follow the names without regard to case.
    return f"{image}.jpg", image.rpartition("_")[0]


def _aircraft(line: str) -> tuple[str, str]:
    image, _, variant = line.partition(" ")
    return f"{image}.jpg", variant


LISTS = (
    Listed({"test": "meta/test.txt", "train": "meta/train.txt"}, _food),
    Listed({s: f"labels/{s}1.txt" for s in ("test", "train", "val")}, _textures),
    Listed({"test": "annotations/test.txt", "train": "annotations/trainval.txt"}, _pets),
    Listed({s: f"images_variant_{s}.txt" for s in ("test", "train", "val")}, _aircraft),
)


def _found(place: Place) -> tuple[Listed, str] | None:
    """The list that is there, and the folder that it and ``images`` lie in, with a "/" behind."""
    for listed in LISTS:
        for end in listed.ends.values():
            for folder in ("", *sorted({f"{name.split('/')[0]}/" for name in place.files})):
                images = f"{folder}images/"
                if folder + end in place.files and any(n.startswith(images) for n in place.images):
                    return listed, folder
    return None


def _read(place: Place, without: Collection[str]) -> Content:
    found = _found(place)
    assert found is not None
    listed, folder = found
    end = listed.ends.get(place.split)
    if end is None or folder + end not in place.files:
        there = [split for split, name in listed.ends.items() if folder + name in place.files]
        raise MissingSplitError(
            f"{shown(place.root)} has no split {quoted(place.split)}: choose one of "
            f"{', '.join(there)} with --split"
        )
    rows = [listed.read(line) for line in lines_of(place, folder + end)]
    classes = sorted({name for _, name in rows}, key=str.lower)
    names, templates = published_texts(place, len(classes))
    images, labels = [], []
    for image, name in rows:
        source = place.files.get(f"{folder}images/{image}")
        if source is None:
            raise UsageError(f"{place.files[folder + end]}: no image {quoted(image)} in images")
        if source.name not in without:
            images.append(source)
            labels.append(classes.index(name))
    names = names or [name.replace("_", " ") for name in classes]
    templates = templates or list(DEFAULT_TEMPLATES)
    check_classes(names, templates, shown(place.root))
    return Content(
        images, labels=labels, class_names=names, class_keys=classes, templates=templates
    )


LAYOUT = Layout(
    name="lists",
    fits=lambda place: bool(place.images) and _found(place) is not None,
    read=_read,
    own=("*.txt", "*.json", "*.mat", "*.xml", "*.png"),
    offers=lambda place: (SPLIT, *class_languages(place)),
)
