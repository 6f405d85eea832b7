"""Evaluation data from a folder, an archive, or the bundled sample, checked before anything runs.

`layouts` says which files make one, `recipe` what a TOML beside them may ask for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    LANGUAGE,
    SPLIT,
    SPLITS,
    Content,
    Layout,
    Place,
    few,
    layout_of,
)
from clipperf.evals.place import OnStage, others, path_here, path_of, place_at
from clipperf.evals.published import PublishedSet
from clipperf.evals.recipe import RECIPE, Recipe, applied, for_part, prompts_of
from clipperf.inputs.preprocess import CLIPPED, check_frames, exceeds_bytes, may_exceed_bytes
from clipperf.inputs.sources import ImageSource, decode, outside_of
from clipperf.text import number_of, quoted, shown

NAMED = 20
"""How many of the images that are left out a note names."""


@dataclass(frozen=True)
class Dataset:
    """Images with captions, or classes, or both; what is absent is empty.

    `captions[i]` belongs to `images[caption_image[i]]`; `labels[i]` is the index in `class_names`
    of `images[i]`, and `label_sets[i]` are those of all its classes where an image may have several
    (then there are no `labels`). Classes are told apart by index: names are labels for people, and
    may be there twice. `class_keys` are what the files call them (a folder, a number), by which
    classes of other parts are the same. `class_prompts`, where they are given, are the prompts of
    each class; else each is put into every template. `sha256` covers all that scores depend on:
    names and bytes of the images, captions, labels, class names, prompts. It does not change with
    the folder's place, the kind of captions file, or packing into a zip. `tasks` and `metrics` are
    the ones wanted, empty for all. `notes` say what was left out, and what of the images will be
    seen otherwise than stored. `columns` hold what a table says beside of each image, by column (a
    region, a latitude, the video that a frame is of), as it was written. `parts` are other parts of
    the same data that tasks asked for, such as "train"; see `parts`; a recipe says where the
    `named_parts` are. `shots` and `repeats` are those of few-shot probes, 0 and none for the usual
    ones. `groups` are the columns by which figures are asked for, `clip` is the one that says which
    images are frames of one video; `recipe_asks` for those of "group" and "clip" that it names
    itself. `unread` are classes of which no image can be read. With `pools` there are other
    classifiers than classes: those of `class_prompts`, and the class that each is pooled for.
    `candidates` are labels that nobody says to be right; see `tasks.bias`. A cue goes with the
    images `chosen` of its `choices`. `folds` are columns; see `evals.folds`.
    """

    name: str
    sha256: str
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...] = ()
    caption_image: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    label_sets: tuple[tuple[int, ...], ...] = ()
    class_prompts: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parts: dict[str, Dataset] = field(default_factory=dict)
    named_parts: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    repeats: int = 0
    groups: tuple[str, ...] = ()
    clip: str = ""
    pools: tuple[int, ...] = ()
    candidates: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    chosen: tuple[tuple[int, ...], ...] = ()
    folds: tuple[str, ...] = ()
    class_keys: tuple[str, ...] = ()
    recipe_asks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def prompt_sets(self) -> tuple[tuple[str, ...], ...]:
        """The prompts of each class."""
        if self.class_prompts:
            return self.class_prompts
        return tuple(prompts_of(name, self.templates) for name in self.class_names)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of all classes, one class after the other."""
        return tuple(prompt for own in self.prompt_sets for prompt in own)


def load_dataset(
    name_or_dir: str | Path | PublishedSet,
    *,
    skip_unreadable: bool = False,
    split: str | None = None,
    language: str | None = None,
    part: str = "",
    among_others: bool = False,
    on_stage: OnStage = lambda stage: None,
) -> Dataset:
    """Load the bundled "sample", a folder, a zip, a tar, or the TOML of an evaluation.

    A name of `published` or an address is fetched where it is not here; `on_stage` is told. See
    `layouts` for what they may hold. `split` ("test") and `language` ("en") choose where there are
    several; where there is nothing to choose, asking is an error, or a note of a dataset that is
    one `among_others`. `part` says that not the data itself is wanted but another part, of which a
    TOML may say where it is.
    Images are the files whose suffix is of a format in `reading.FORMATS`. Reads each once, for its
    checksum and to see that it is an image; pixels are decoded later, by `ImageSource.open`.
    With `skip_unreadable` they are decoded and resized now, and those that cannot be are left out,
    with their captions, and named in the notes. A folder that is itself called "sample" is
    ``./sample``.

    Raises:
        UsageError: the data is missing, damaged, ambiguous or inconsistent; the message names
            the file and line, and what to change.
    """
    path, published = path_of(name_or_dir, split or SPLITS[0], on_stage)
    name = published or ("sample" if str(name_or_dir) == "sample" else path.resolve().name)
    place, recipe = place_at(path, split, language, published, part)
    layout = layout_of(place)
    unused = () if part else _not_chosen(place, layout, recipe, split, language)
    if unused and not among_others:
        raise UsageError(unused[0])
    whole = content = layout.read(place, ())
    digests, unreadable, clipped = read_all(content.images, skip_unreadable)
    if unreadable:
        if len(unreadable) == len(content.images):
            raise none_readable(place.root, unreadable)
        content = layout.read(place, unreadable)
    gone = _gone(whole, content)
    notes = [
        f"{name}: {note}"
        for note in (
            *_left_out(place, layout, content, unreadable),
            *unused,
            *content.notes,
            *([skipped(unreadable)] if unreadable else ()),
            *_classes_gone(gone),
            *([_clipped(clipped)] if clipped else ()),
        )
    ]
    if recipe is not None:
        where = shown(path if path.suffix == ".toml" else RECIPE)
        content = applied(content, for_part(recipe, content) if part else recipe, where)
    images = tuple(
        dataclasses.replace(image, sha256=digests[image.name]) for image in content.images
    )
    return Dataset(
        name,
        _digest(images, content),
        images,
        captions=tuple(content.captions),
        caption_image=tuple(content.caption_image),
        labels=tuple(content.labels),
        class_names=tuple(content.class_names),
        class_keys=tuple(content.class_keys or map(str, range(len(content.class_names)))),
        templates=tuple(content.templates),
        notes=tuple(notes),
        label_sets=tuple(map(tuple, content.label_sets)),
        class_prompts=tuple(map(tuple, content.class_prompts)),
        columns={name: tuple(values) for name, values in content.columns.items()},
        tasks=recipe.tasks if recipe else (),
        metrics=recipe.metrics if recipe else (),
        named_parts=tuple(recipe.parts) if recipe else (),
        shots=recipe.shots if recipe else (),
        repeats=recipe.repeats if recipe else 0,
        groups=(recipe.groups if recipe else ()) or tuple(content.groups),
        clip=(recipe.clip if recipe else "") or content.clip,
        recipe_asks=recipe.asks if recipe else (),
        unread=gone,
        pools=tuple(content.pools),
        cues=tuple(content.cues),
        choices=tuple(map(tuple, content.choices)),
        chosen=tuple(map(tuple, content.chosen)),
        candidates=recipe.candidates if recipe else (),
        folds=tuple(content.folds),
    )


def check_dataset(name_or_dir: str | Path) -> None:
    """Raise UsageError where there is nothing to load; nothing is fetched and no file is read."""
    here = path_here(name_or_dir)
    if here is not None:
        layout_of(place_at(here, None, None, "")[0])


def _not_chosen(
    place: Place, layout: Layout, recipe: Recipe | None, split: str | None, language: str | None
) -> list[str]:
    """What was asked of a split or a language that the data does not go by, in words."""
    own = recipe or Recipe()
    said = []
    for name, given, told in ((SPLIT, split, own.split), (LANGUAGE, language, own.language)):
        option, line = f"--{name} {shown(given)}", f"{name} = {quoted(told)} in its TOML"
        if given and told and given != told:
            said.append(f"{shown(place.root)}: {option}, and {line}: leave out one")
        elif (given or told) and name not in layout.offers(place):
            there = ONE_OF_IT[name].format(count=len(place.images))
            said.append(f"{shown(place.root)} {there}: leave out {option if given else line}")
    return said


ONE_OF_IT = {
    SPLIT: "is not divided into splits, its {count} images are one",
    LANGUAGE: "has its texts in one language",
}
"""What there is where a split or a language cannot be chosen."""


def read_all(
    images: Collection[ImageSource], skip: bool
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """sha256 of each image; what is wrong with those to skip; and those that will be clipped."""
    digests, unreadable, clipped = {}, {}, []
    for source in images:
        try:
            data = source.read()
            image = decode(source, data, fully=skip)
            if may_exceed_bytes(image.mode):
                image = image if skip else decode(source, data, fully=True)
                clipped += [source.name] if exceeds_bytes(image) else []
            if skip:
                check_frames(image, str(source))
        except UsageError as exc:
            if not skip:
                raise
            unreadable[source.name] = str(exc)
            continue
        digests[source.name] = hashlib.sha256(data).hexdigest()
    return digests, unreadable, clipped


def _left_out(
    place: Place, layout: Layout, content: Content, unreadable: Collection[str]
) -> list[str]:
    """What of the files is not used."""
    used = {image.name for image in content.images}
    notes = []
    known = {*place.images, *place.named, *used, *unreadable}
    spare_files = others(place.files, known, layout.own)
    if spare_files:
        notes.append(f"left out{spare_files.removeprefix(';')}")
    notes += left_outside(place.root)
    if content.captions:
        spare = set(place.images) - used - set(unreadable)
        if spare:
            images = number_of(len(spare), "image")
            notes.append(f"left out {images} that no caption names ({few(spare)})")
    return notes


def left_outside(path: Path) -> list[str]:
    """What to say of an archive's files whose names are of places outside of it."""
    outside = outside_of(path)
    said = f"left out {number_of(len(outside), 'file')} whose names lead out of it ({few(outside)})"
    return [said] if outside else []


def skipped(unreadable: Mapping[str, str]) -> str:
    """What to say of images that were left out, by their reasons."""
    return (
        f"left out {number_of(len(unreadable), 'image')} that cannot be read, for every runtime "
        f"alike: {_reasons(unreadable)}"
    )


def none_readable(root: Path, unreadable: Mapping[str, str]) -> UsageError:
    """What to raise where nothing is left."""
    return UsageError(f"no image in {shown(root)} can be read: {_reasons(unreadable)}")


def _gone(whole: Content, content: Content) -> tuple[str, ...]:
    """Which classes had images, and have none without those that cannot be read."""
    before, after = (_names_of_labels(own) for own in (whole, content))
    return tuple(name for key, name in before.items() if key not in after)


def _classes_gone(gone: Collection[str]) -> list[str]:
    return [f"no image of {len(gone)} classes can be read: {few(gone, NAMED)}"] if gone else []


def _names_of_labels(content: Content) -> dict[str, str]:
    """The classes that any image has, by what the files call them."""
    there = {*content.labels, *(label for own in content.label_sets for label in own)}
    keys = content.class_keys or [str(i) for i in range(len(content.class_names))]
    return {keys[label]: content.class_names[label] for label in sorted(there)}


def _reasons(unreadable: Mapping[str, str]) -> str:
    more = "; ..." if len(unreadable) > NAMED else ""
    return "; ".join(list(unreadable.values())[:NAMED]) + more


def _clipped(names: list[str]) -> str:
    return f"{len(names)} images {CLIPPED.format(first=shown(names[0]))}"


def _digest(images: tuple[ImageSource, ...], content: Content) -> str:
    """sha256 over the images' names and checksums, and all else that scores depend on."""
    total = hashlib.sha256()
    for image in images:
        total.update(json.dumps((image.name, image.identity)).encode())
    rest = dataclasses.asdict(dataclasses.replace(content, images=(), notes=(), class_keys=()))
    total.update(json.dumps({k: rest[k] for k in sorted(rest) if rest[k]}).encode())
    return total.hexdigest()
