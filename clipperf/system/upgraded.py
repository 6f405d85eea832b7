"""Result files of older versions as this one would have written them."""

from __future__ import annotations

from typing import Any


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
