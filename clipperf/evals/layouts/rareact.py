"""RareAct (Miech et al. 2020): its table of annotated clips beside folders of their frames.

``rareact.csv`` has a clip a line: ``id`` of the video, ``start``, ``end``, ``class_id``, ``verb``,
``noun`` and ``annotation``. The frames of a clip lie in a folder that is called ID_START_END, as
they are written there, at any depth. Clips without frames are left out and counted: videos vanish.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection

from clipperf.errors import UsageError
from clipperf.evals.layout import Content, Layout, Place
from clipperf.evals.rows import read_rows
from clipperf.inputs.sources import ImageSource
from clipperf.text import shown

FILE = "rareact.csv"
KEPT = ("id", "verb", "noun", "annotation")
CLIP = "clip"


def _read(place: Place, without: Collection[str]) -> Content:
    source = place.files[FILE]
    frames: dict[str, list[str]] = {}
    for name in place.images:
        if name not in without:
            frames.setdefault(posixpath.basename(posixpath.dirname(name)), []).append(name)
    images: list[ImageSource] = []
    columns: dict[str, list[str]] = {name: [] for name in (*KEPT, CLIP)}
    absent, first = 0, ""
    for line, row in read_rows(source):
        said = {n: (row.get(n) or "").strip() for n in (*KEPT, "start", "end")}
        if not all(said.values()):
            raise UsageError(f"{source} line {line}: need {', '.join(said)}")
        folder = f"{said['id']}_{said['start']}_{said['end']}"
        own = frames.get(folder, [])
        if not own:
            absent, first = absent + 1, first or folder
        for name in own:
            images.append(place.files[name])
            for column in KEPT:
                columns[column].append(said[column])
            # A clip that was annotated for two actions is two.
            columns[CLIP].append(f"{folder} line {line}")
    if not images:
        raise UsageError(
            f"{shown(place.root)}: no frames of any clip in {FILE}: put them into folders such as "
            f"{shown(first) or 'ID_START_END'}"
        )
    notes = [f"left out {absent} clips without frames ({shown(first)})"] if absent else []
    return Content(images, columns=columns, clip=CLIP, notes=notes)


LAYOUT = Layout(
    name="rareact",
    fits=lambda place: bool(place.images) and FILE in place.files,
    read=_read,
    own=(FILE,),
)
