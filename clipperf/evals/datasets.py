"""Evaluation data from a folder, a zip, or the bundled sample, checked before anything runs.

`layouts` says which files make one.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layouts import OWN_FILES, few, read_layout
from clipperf.inputs.preprocess import CLIPPED, check_frames, exceeds_bytes, may_exceed_bytes
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, decode, list_folder, list_zip, one_spelling
from clipperf.system.targets import expanded, kind_of
from clipperf.text import shown

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "eval.zip"

NAMED = 20
"""How many of the images that are left out a note names."""


@dataclass(frozen=True)
class Dataset:
    """Images with captions, or classes, or both; what is absent is empty.

    `captions[i]` belongs to `images[caption_image[i]]`; `labels[i]` is the index in
    `class_names` of `images[i]`. `sha256` covers all that scores depend on: names and bytes of
    the images, captions, labels, class names, templates. It does not change with the folder's
    place, the kind of captions file, or packing into a zip. `notes` say what was left out, and
    what of the images will be seen otherwise than stored.
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

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every template with every class name in it: [classes * templates], classes outermost."""
        return tuple(t.replace("{}", c) for c in self.class_names for t in self.templates)


def load_dataset(name_or_dir: str | Path, *, skip_unreadable: bool = False) -> Dataset:
    """Load the bundled "sample", a folder, or a zip of the same layout; see `layouts`.

    Images are the files whose suffix is of a format in `reading.FORMATS`. Reads each once, for its
    checksum and to see that it is an image; pixels are decoded later, by `ImageSource.open`.
    With `skip_unreadable` they are decoded and resized now, and those that cannot be are left out,
    with their captions, and named in the notes. A folder that is itself called "sample" is
    ``./sample``.

    Raises:
        UsageError: the data is missing, damaged, ambiguous or inconsistent; the message names
            the file and line, and what to change.
    """
    if not str(name_or_dir).strip():
        raise UsageError("the dataset is empty: give 'sample' or a folder")
    path = SAMPLE if str(name_or_dir) == "sample" else expanded(name_or_dir)
    kind = kind_of(path)
    if kind == "nothing":
        raise UsageError(
            f"no dataset at {shown(path)}: give 'sample', a folder with one folder a class, "
            "or a folder of images with captions.csv"
        )
    files = list_folder(path) if kind == "folder" else list_zip(path)
    suffixes = image_suffixes()
    images = [name for name in files if posixpath.splitext(name)[1].lower() in suffixes]
    if not images:
        raise UsageError(
            f"no images in {shown(path)}: looked for {', '.join(sorted(suffixes))}"
            f"{_others(files, images)}"
        )
    content = read_layout(path, files, images, ())
    digests, unreadable, clipped = _read(files, content["images"], skip_unreadable)
    if unreadable:
        if len(unreadable) == len(content["images"]):
            raise UsageError(f"no image in {shown(path)} can be read: {_reasons(unreadable)}")
        content = read_layout(path, files, images, unreadable)
    name = "sample" if path == SAMPLE else path.resolve().name
    notes = [
        f"{name}: {note}"
        for note in (
            *_left_out(path, files, images, content, unreadable),
            *([_skipped(unreadable)] if unreadable else ()),
            *([_clipped(clipped)] if clipped else ()),
        )
    ]
    named = content.pop("images")
    fields = {key: tuple(value) for key, value in content.items()}
    sha256 = _digest([(name, digests[name]) for name in named], content)
    return Dataset(name, sha256, tuple(files[n] for n in named), **fields, notes=tuple(notes))


def _read(
    files: Mapping[str, ImageSource], images: Collection[str], skip: bool
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """sha256 of each image; what is wrong with those to skip; and those that will be clipped."""
    digests, unreadable, clipped = {}, {}, []
    for name in images:
        source = files[name]
        try:
            data = source.read()
            image = decode(source, data, fully=skip)
            if may_exceed_bytes(image.mode):
                image = image if skip else decode(source, data, fully=True)
                clipped += [name] if exceeds_bytes(image) else []
            if skip:
                check_frames(image, str(source))
        except UsageError as exc:
            if not skip:
                raise
            unreadable[name] = str(exc)
            continue
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests, unreadable, clipped


def _left_out(
    root: Path,
    files: Mapping[str, ImageSource],
    images: list[str],
    content: Mapping[str, Any],
    unreadable: Collection[str],
) -> list[str]:
    """What of the files is not used, and which class folders hold no images."""
    used = set(content["images"])
    notes = []
    others = _others(files, {*images, *used, *unreadable})
    if others:
        notes.append(f"left out{others.removeprefix(';')}")
    if content.get("captions"):
        spare = set(images) - used - set(unreadable)
        if spare:
            notes.append(f"left out {len(spare)} images that no caption names ({few(spare)})")
        return notes
    folders = {name.split("/")[0] for name in files if "/" in name}
    if root.is_dir():
        visible = (entry for entry in root.iterdir() if not entry.name.startswith("."))
        folders |= {one_spelling(entry.name) for entry in visible if entry.is_dir()}
    empty = folders - {name.split("/")[0] for name in used}
    if empty:
        notes.append(
            f"{len(empty)} class folders without images ({few(empty)}), no classes unless "
            "classes.json names them"
        )
    return notes


def _others(files: Mapping[str, ImageSource], images: Collection[str]) -> str:
    """The files that are neither images nor a dataset's own, counted by suffix."""
    known = set(images)
    others = [name for name in files if name not in known and name not in OWN_FILES]
    if not others:
        return ""
    counts = Counter(posixpath.splitext(name)[1].lower() or "none" for name in others)
    told = ", ".join(f"{shown(suffix)} {count}" for suffix, count in counts.most_common(10))
    return f"; {len(others)} files of other suffixes: {told} (first: {shown(min(others))})"


def _skipped(unreadable: Mapping[str, str]) -> str:
    return (
        f"left out {len(unreadable)} images that cannot be read, for every runtime alike: "
        f"{_reasons(unreadable)}"
    )


def _reasons(unreadable: Mapping[str, str]) -> str:
    more = "; ..." if len(unreadable) > NAMED else ""
    return "; ".join(list(unreadable.values())[:NAMED]) + more


def _clipped(names: list[str]) -> str:
    return f"{len(names)} images {CLIPPED.format(first=shown(names[0]))}"


def _digest(images: list[tuple[str, str]], content: dict[str, Any]) -> str:
    """sha256 over the images' names and checksums, and all else."""
    total = hashlib.sha256()
    for image in images:
        total.update(json.dumps(image).encode())
    total.update(json.dumps({k: content[k] for k in sorted(content) if content[k]}).encode())
    return total.hexdigest()
