"""Records to plain JSON values, and back from JSON with every field checked."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from clipperf.errors import ArtifactError

T = TypeVar("T")

MOST_LEVELS = 64
"""How deep lists and objects may lie in each other; records do to 10."""

MOST_WHOLE = 2**64
"""Whole numbers lie below this, as inode numbers do; larger ones are no figure of anything."""


def to_json(value: Any) -> Any:
    """Turn a record (or a container of records) into plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, PurePath) else value


def parse_json(text: str | bytes, where: object, large: bool = False) -> Any:
    """The plain values in a JSON text; the one way in which files are read.

    They can be handed on without fear: depth and whole numbers are bounded. `where` begins the
    message of an error. With `large`, for files that others wrote, larger whole numbers become
    floats: transformers writes 10**30 where a length has no limit.

    Raises:
        ArtifactError: the text is not JSON, or holds what no file of clipperf's does.
    """
    try:
        found = json.loads(text, parse_int=_whole_or_float if large else _whole)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{where}: not JSON that can be read: {exc}") from exc
    level = [found]
    for _ in range(MOST_LEVELS):
        level = [inner for value in level for inner in _inside(value) if type(inner) in _HOLDERS]
        if not level:
            return found
    raise ArtifactError(
        f"{where}: not JSON that can be read: lists and objects lie more than {MOST_LEVELS} deep"
    )


_HOLDERS = (dict, list)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole(text: str) -> int:
    # Python itself takes 4,300 digits, and none of what is done with numbers takes that many.
    found = int(text) if len(text) <= 21 else MOST_WHOLE
    if abs(found) >= MOST_WHOLE:
        raise ValueError(f"a whole number of {len(text)} digits")
    return found


def _whole_or_float(text: str) -> int | float:
    return float(text) if len(text) > 18 else int(text)


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """Build a record of type `cls` from plain JSON values, validating every field.

    Unknown fields are ignored (a newer minor version may add some). This is the one way in which
    files and messages become records: it costs 0.4 ms, once its import has taken about 5 ms and
    3 MiB of RAM, so that deployments and measured processes can afford it.

    Raises:
        ArtifactError: a field is missing or has another type; the message names its path.
    """
    import msgspec

    try:
        return msgspec.convert(data, cls, dec_hook=_decoded)
    except (msgspec.ValidationError, UnicodeEncodeError) as exc:  # no UTF-8 in names
        said, _, place = str(exc).partition(" - at `$")
        at = (where or cls.__name__) + re.sub(r"\[[^]]*\]|`$", "", place)
        missing = re.fullmatch(r"Object missing required field `(\w+)`", said)
        if missing:
            at, said = f"{at}.{missing[1]}", "field required"
        raise ArtifactError(f"{at}: {said[:1].lower()}{said[1:]}") from exc


def _decoded(kind: type, value: Any) -> Any:
    """What is no JSON value: paths, which are written as texts."""
    if issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    raise NotImplementedError(f"no way to read {kind.__name__}")
