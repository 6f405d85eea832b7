"""Class folders, as torchvision's ImageFolder reads them: ``CLASS/*.jpg`` and so on.

Images may lie at any depth below CLASS. Optional: ``classes.json`` (``{"folder": "display
name"}``; a folder without images stays a class only if named there), ``classnames.txt`` (a name a
line, in the order of the sorted folders; by number where all are numbers) and ``templates.txt`` (a
template a line, ``{}`` or ``{c}`` stands for the class name). Folders that WordNet's numbers name
(ImageNet, ImageNet-A, -R, -Sketch) have CLIP's names of these of ImageNet's classes. Where the
folders are the splits of a dataset (``test/CLASS``), the wanted one is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from clipperf.errors import ClipperfError, UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    SPLITS,
    Content,
    Layout,
    NoAnswersError,
    Place,
    check_classes,
    class_languages,
    few,
    in_split,
    lines_of,
    published_texts,
)
from clipperf.evals.published import WORDNET, clip_benchmark_texts, imagenet_names
from clipperf.inputs.sources import is_hidden, one_spelling, read_object
from clipperf.system.targets import entries_of, kind_of
from clipperf.text import quoted, shown

NAMES = "classnames.txt"


def _read(place: Place, without: Collection[str]) -> Content:
    loose = [name for name in place.images if "/" not in name]
    if loose:
        raise NoAnswersError(
            f"images outside any class folder in {shown(place.root)} ({few(loose)}): put them into "
            "folders, one a class, or add captions.csv with the columns image,caption"
        )
    within = _within(place)
    images = [name for name in place.images if name.startswith(within)]
    every = _of_all_splits(place, within)
    images = [name for name in images if name not in without]
    names = read_object(place.files["classes.json"]) if "classes.json" in place.files else {}
    for folder, title in names.items():
        if not isinstance(title, str) or not title.strip():
            raise UsageError(
                f'{shown(place.root)}: classes.json must map folders to names: {{"cat": "a cat"}}'
            )
        found = place.root / within / folder
        if one_spelling(folder) not in every and kind_of(found) != "folder":
            raise UsageError(
                f"{shown(place.root)}: classes.json names {quoted(folder)}, which is not a folder "
                "there"
            )
    folders = {_class(name, within) for name in images}
    classes = _in_order(folders | {one_spelling(folder) for folder in names})
    title_of = {one_spelling(folder): title.strip() for folder, title in names.items()}
    class_names = [title_of.get(folder, folder.replace("_", " ")) for folder in classes]
    listed = lines_of(place, NAMES)
    if listed and not names and len(classes) < len(every) == len(listed):
        classes = _in_order(every)  # a class without images in this split
    if listed:
        if len(listed) != len(classes):
            raise UsageError(
                f"{shown(place.root)}: classnames.txt has {len(listed)} names for {len(classes)} "
                "folders"
            )
        class_names = listed
    templates = list(DEFAULT_TEMPLATES)
    if not names and not listed:
        if place.published and len(classes) < len(every):
            classes = _in_order(every)
            class_names = [folder.replace("_", " ") for folder in classes]
        known, those = published_texts(place, len(classes))
        if all(WORDNET.fullmatch(folder) for folder in classes):
            known, those = _imagenet(place, classes), clip_benchmark_texts("imagenet1k")[1]
        class_names, templates = known or class_names, those or templates
    if "templates.txt" in place.files:
        templates = lines_of(place, "templates.txt")
    check_classes(class_names, templates, shown(place.root))
    number = {folder: i for i, folder in enumerate(classes)}
    return Content(
        [place.files[name] for name in images],
        labels=[number[_class(name, within)] for name in images],
        class_names=class_names,
        class_keys=classes,
        templates=templates,
        notes=_empty(place, within, folders | {_class(name, within) for name in without}),
    )


def _imagenet(place: Place, classes: Sequence[str]) -> list[str]:
    """CLIP's names of folders that WordNet's numbers name."""
    try:
        return imagenet_names(classes)
    except ClipperfError as exc:
        raise UsageError(
            f"{shown(place.root)}: its folders are numbers of WordNet's, and {exc}; or name them "
            "in classes.json"
        ) from exc


def _in_order(folders: Collection[str]) -> list[str]:
    """Folders by name; those of ImageNetV2 are numbers of classes without leading zeros."""
    numbers = all(folder.isdecimal() for folder in folders)
    return sorted(folders, key=lambda name: (int(name) if numbers else 0, name))


def _empty(place: Place, within: str, folders: Collection[str]) -> list[str]:
    """Which class folders hold no images."""
    inside = {name for name in place.files if name.startswith(within)}
    there = {_class(name, within) for name in inside if "/" in name[len(within) :]}
    visible = (e for e in entries_of(place.root / within) if not is_hidden(e.name))
    there |= {one_spelling(entry.name) for entry in visible if entry.is_dir()}
    empty = there - set(folders)
    if not empty:
        return []
    return [
        f"{len(empty)} class folders without images ({few(empty)}), no classes unless "
        "classes.json names them"
    ]


def _within(place: Place) -> str:
    """The folder of the split with a "/" behind it, "" where the folders are no splits."""
    top = {name.split("/")[0] for name in place.images}
    if not top <= set(SPLITS) or any(name.count("/") < 2 for name in place.images):
        return ""
    return f"{in_split(place, top)}/"


def _offers(place: Place) -> tuple[str, ...]:
    within = _within(place)
    if all(WORDNET.fullmatch(folder) for folder in _of_all_splits(place, within)):
        return (SPLIT,) if within else ()
    return (*((SPLIT,) if within else ()), *class_languages(place, "classes.json", NAMES))


def _of_all_splits(place: Place, within: str) -> set[str]:
    """The class folders that hold images in any split of the data."""
    if not within:
        return {_class(name, "") for name in place.images}
    return {name.split("/")[1] for name in place.images}


def _class(name: str, within: str) -> str:
    return name[len(within) :].split("/")[0]


LAYOUT = Layout(
    name="class-folders",
    fits=lambda place: bool(place.images),
    read=_read,
    own=("classes.json", NAMES, "templates.txt"),
    offers=_offers,
)
