"""WinoGAViL: cues, and which of some candidate images go with them.

``winogavil_dataset.csv`` has a game a line: ``cue``, ``associations`` and ``candidates``, lists of
names; the images lie beside it or in ``winogavil_images``.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import Content, Layout, Place
from clipperf.evals.rows import read_rows
from clipperf.inputs.sources import one_spelling
from clipperf.text import quoted, shown

FILE = "winogavil_dataset.csv"
FOLDERS = ("", "winogavil_images/", "images/")
MOST_CHARACTERS = 10_000


def _read(place: Place, without: Collection[str]) -> Content:
    source = place.files[FILE]
    index: dict[str, int] = {}
    cues, choices, chosen = [], [], []
    for line, row in read_rows(source):
        at = f"{source} line {line}"
        cue = row.get("cue")
        if not isinstance(cue, str) or not cue.strip():
            raise UsageError(f"{at}: no cue")
        right, candidates = (
            _names(row.get(n), f"{at}: {n}") for n in ("associations", "candidates")
        )
        if not set(right) <= set(candidates):
            raise UsageError(f"{at}: an association is no candidate")
        images = {name: _image(place, name, at) for name in candidates}
        if set(images.values()) & set(without):
            continue
        numbers = {name: index.setdefault(image, len(index)) for name, image in images.items()}
        cues.append(cue.strip())
        choices.append(tuple(numbers[name] for name in candidates))
        chosen.append(tuple(numbers[name] for name in right))
    if not cues:
        raise UsageError(f"{source} holds no games")
    return Content([place.files[n] for n in index], cues=cues, choices=choices, chosen=chosen)


def _names(value: Any, where: str) -> list[str]:
    """A list of names as Python or JSON writes it."""
    text = value if isinstance(value, str) and len(value) <= MOST_CHARACTERS else ""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as exc:
        raise UsageError(f"{where}: {quoted(text)} is no list of names") from exc
    if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
        raise UsageError(f"{where}: {quoted(text)} is no list of names")
    return list(dict.fromkeys(found))


def _image(place: Place, name: str, at: str) -> str:
    for folder in FOLDERS:
        for suffix in ("", ".jpg", ".png"):
            found = one_spelling(f"{folder}{name}{suffix}")
            if found in place.files:
                return found
    raise UsageError(f"{at}: no image {quoted(name)} in {shown(place.root)}")


LAYOUT = Layout(
    name="winogavil",
    fits=lambda place: bool(place.images) and FILE in place.files,
    read=_read,
    own=(FILE,),
)
