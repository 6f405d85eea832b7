"""What a report can be written as: one file a format in `formats/`, or an entry point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipperf.registry import Registry
from clipperf.report.document import Document


@dataclass(frozen=True)
class Format:
    """One format: its name, and how a document becomes its text, which ends with a line break."""

    name: str
    render: Callable[[Document], str]


FORMATS: Registry[Format] = Registry(
    "format",
    noun="report format",
    room="clipperf.report.formats",
    first=("text", "md", "csv", "json", "html"),
)


def render(document: Document, fmt: str) -> str:
    """The document in one of FORMATS.

    Raises:
        UsageError: there is no such format.
    """
    return FORMATS.get(fmt).render(document)
