"""UCF101 (Soomro et al. 2012) as frames, with its lists of three splits.

``trainlist01.txt`` to ``testlist03.txt`` name videos as ``CLASS/VIDEO.avi``; the frames of a video
lie in a folder that is called VIDEO, at any depth. Each split is a fold: zero-shot is over all that
any split tests, probes are means over the three. Videos without frames are left out and counted.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from clipperf.errors import UsageError
from clipperf.evals.layout import SPLIT, Content, Layout, Place, in_split, lines_of
from clipperf.inputs.sources import ImageSource
from clipperf.text import quoted, shown

FOLDS = ("01", "02", "03")
PARTS = ("train", "test")
TEMPLATES = ("a photo of a person doing {}.", "a video of a person doing {}.")
CLIP = "video"


def _list(place: Place, part: str, fold: str) -> str | None:
    name = f"{part}list{fold}.txt"
    return min((n for n in place.files if posixpath.basename(n) == name), key=len, default=None)


def _said(place: Place) -> dict[str, dict[str, str]]:
    """Of each video of a list, by its name: its class, and which part of each fold it is of."""
    found: dict[str, dict[str, str]] = {}
    for fold in FOLDS:
        for part in PARTS:
            name = _list(place, part, fold)
            if name is None:
                raise UsageError(f"{shown(place.root)}: no {part}list{fold}.txt beside the others")
            for number, line in enumerate(lines_of(place, name), start=1):
                title, _, video = line.split(" ")[0].rpartition("/")
                if not title or not video:
                    raise UsageError(f"{place.files[name]} line {number}: need CLASS/VIDEO.avi")
                own = found.setdefault(posixpath.splitext(video)[0], {"class": title})
                if own["class"] != title or own.setdefault(fold, part) != part:
                    raise UsageError(
                        f"{place.files[name]} line {number}: {quoted(video)} was said to be "
                        f"another class or part before"
                    )
    return found


def _read(place: Place, without: Collection[str]) -> Content:
    in_split(place, ("test",))
    frames: dict[str, list[str]] = {}
    for name in place.images:
        if name not in without:
            frames.setdefault(posixpath.basename(posixpath.dirname(name)), []).append(name)
    videos = _said(place)
    classes = sorted({own["class"] for own in videos.values()})
    images: list[ImageSource] = []
    labels: list[int] = []
    columns: dict[str, list[str]] = {CLIP: [], **{f"split {fold}": [] for fold in FOLDS}}
    absent = [video for video in videos if video not in frames]
    for video, own in sorted(videos.items()):
        for name in frames.get(video, []):
            images.append(place.files[name])
            labels.append(classes.index(own["class"]))
            columns[CLIP].append(video)
            for fold in FOLDS:
                columns[f"split {fold}"].append(own.get(fold, ""))
    if not images:
        raise UsageError(
            f"{shown(place.root)}: no frames of any video of its lists: put them into folders such "
            f"as {shown(absent[0]) if absent else 'VIDEO'}"
        )
    said = f"left out {len(absent)} videos without frames ({shown(absent[0])})" if absent else ""
    return Content(
        images,
        labels=labels,
        class_keys=classes,
        class_names=[_in_words(name) for name in classes],
        templates=TEMPLATES,
        columns=columns,
        clip=CLIP,
        folds=[f"split {fold}" for fold in FOLDS],
        notes=[said] if said else [],
    )


def _in_words(name: str) -> str:
    """ "ApplyEyeMakeup" as "Apply Eye Makeup"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


LAYOUT = Layout(
    name="ucf101",
    fits=lambda place: bool(place.images) and _list(place, "test", "01") is not None,
    read=_read,
    own=("*trainlist0?.txt", "*testlist0?.txt", "*classInd.txt"),
    offers=lambda place: (SPLIT,),
)
