"""Result files of older versions as this one would have written them."""

from __future__ import annotations

from typing import Any

from clipperf.text import quoted

NO_RESULT = "is no result file of clipperf: it names no schema version"


def upgraded(data: Any) -> Any:
    """A result file's values in the newest version of the format; others as they are.

    Version 1 knew one machine, `environment`; since version 2 there are several, `environments`.
    Fields that came since within a version have defaults.
    """
    old = isinstance(data, dict) and data.get("schema_version") == 1
    if not old or not isinstance(data.get("environment"), dict):
        return data
    rest = {name: value for name, value in data.items() if name != "environment"}
    return {**rest, "schema_version": 2, "environments": [data["environment"]]}


def unreadable(version: Any) -> str:
    """Why a file that names this schema version, None where it names none, cannot be read."""
    if version is None:
        return NO_RESULT
    if version == 1:
        return "has schema version 1 and no environment: it is no result file, or a damaged one"
    return (
        f"has schema version {quoted(version)}, this clipperf reads results of 1 and 2: measure "
        f"again, or use the clipperf that wrote it"
    )
