"""Records to plain JSON values, and back with every field checked."""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from clipperf.errors import ArtifactError

T = TypeVar("T")


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


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """Build a record of type `cls` from plain JSON values, validating every field.

    Unknown fields are ignored (a newer minor version may add some).

    Raises:
        ArtifactError: a field is missing or has another type; the message names its path.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        at = ".".join([where or cls.__name__, *map(str, first["loc"])])
        raise ArtifactError(f"{at}: {first['msg'].lower()}") from exc
