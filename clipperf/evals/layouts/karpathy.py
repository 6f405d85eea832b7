"""Karpathy's splits of COCO, Flickr30k and Flickr8k: ``dataset_coco.json`` and the images.

The file is ``{"images": [{"filename", "filepath" (COCO's folder), "split", "sentences": [{"raw"}]
}]}``; split "train" takes in "restval", as everywhere.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import SPLIT, Content, Layout, MissingSplitError, Place
from clipperf.inputs.sources import ImageSource, one_spelling, read_object
from clipperf.text import quoted, shown

FOLDERS = ("", "images", "Images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset")


def _file(place: Place) -> str | None:
    return next((n for n in place.files if re.fullmatch(r"dataset_\w+\.json", n)), None)


def _read(place: Place, without: Collection[str]) -> Content:
    name = _file(place)
    assert name is not None
    source = place.files[name]
    records = read_object(source, MOST_BYTES).get("images")
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise UsageError(f"{source}: 'images' must be a list of objects")
    wanted = {"train", "restval"} if place.split == "train" else {place.split}
    chosen = [record for record in records if str(record.get("split")) in wanted]
    if not chosen:
        there = sorted({str(record.get("split")) for record in records})
        raise MissingSplitError(
            f"{source} has no split {quoted(place.split)}: choose one of "
            f"{shown(', '.join(there))} with --split"
        )
    images: list[ImageSource] = []
    captions: list[str] = []
    caption_image: list[int] = []
    for record in chosen:
        image = _image(place, record)
        if image is None:
            raise UsageError(
                f"{source}: no image {quoted(record.get('filename'))} in {shown(place.root)}: "
                f"put the images of split {place.split!r} there"
            )
        if image in without:
            continue
        own = _captions(record)
        if not own:
            raise UsageError(f"{source}: {quoted(record.get('filename'))} has no sentences")
        captions += own
        caption_image += [len(images)] * len(own)
        images.append(place.files[image])
    return Content(images, captions, caption_image)


MOST_BYTES = 1 << 28
"""COCO's has 144 MB."""


def _image(place: Place, record: dict[str, Any]) -> str | None:
    filename, folder = record.get("filename"), record.get("filepath", "")
    if not isinstance(filename, str) or not isinstance(folder, str):
        return None
    for above in (folder, *FOLDERS):
        name = one_spelling(posixpath.normpath(posixpath.join(above, filename)))
        if name in place.files:
            return name
    return None


def _captions(record: dict[str, Any]) -> list[str]:
    sentences = record.get("sentences")
    listed = sentences if isinstance(sentences, list) else []
    found = [s.get("raw") for s in listed if isinstance(s, dict)]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


LAYOUT = Layout(
    name="karpathy",
    fits=lambda place: bool(place.images) and _file(place) is not None,
    read=_read,
    own=("dataset_*.json",),
    offers=lambda place: (SPLIT,),
)
