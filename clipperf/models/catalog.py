"""Every model that can be named, of all families, by architecture and tag.

Nothing here imports torch or open_clip, so a listing takes a fraction of a second.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from clipperf.errors import UsageError
from clipperf.models.family import FAMILIES, CatalogEntry
from clipperf.models.open_clip_facts import COUNTED_AT, read_snapshot
from clipperf.models.published import normal


def snapshot_note() -> str | None:
    """A sentence for where tags or figures may be out of step with the installed open_clip."""
    try:
        installed = version("open_clip_torch")
    except PackageNotFoundError:
        return "open_clip is not installed: the list is that of " + read_snapshot()["open_clip"]
    known = read_snapshot()["open_clip"]
    if installed == known:
        return None
    return f"tags and sizes are those of open_clip {known}; {installed} is installed"


def entries() -> list[CatalogEntry]:
    """Every architecture: the bundled sample, open_clip's alphabetically, then other families'."""
    return [entry for family in FAMILIES for entry in family.entries()]


def search(text: str) -> list[CatalogEntry]:
    """The entries whose architecture or a tag contains `text`; an alias finds its architecture.

    Case does not matter, nor whether hyphens or underscores are used. Where only tags match, the
    entry still lists all of them.
    """
    architecture, _, tag = (normal(part) for part in text.partition("::"))
    if tag:
        return [
            entry
            for entry in entries()
            if architecture in normal(entry.architecture)
            and any(tag in normal(known) for known in entry.tags)
        ]
    return [
        entry
        for entry in entries()
        if any(architecture in normal(name) for name in (entry.architecture, *entry.tags))
    ]


def find(name: str) -> CatalogEntry:
    """The entry of an architecture, or of the architecture in ``ARCHITECTURE::TAG``.

    Raises:
        UsageError: there is none; the message lists the closest names.
    """
    wanted = name.partition("::")[0]
    known = {normal(entry.architecture): entry for entry in entries()}
    if normal(wanted) in known:
        return known[normal(wanted)]
    close = difflib.get_close_matches(normal(wanted), known, n=4, cutoff=0.5)
    names = ", ".join(known[key].architecture for key in close)
    hint = f"did you mean {names}? " if names else ""
    raise UsageError(f"unknown model {wanted!r}: {hint}clipperf models lists all")


def tag_of(entry: CatalogEntry, wanted: str) -> str:
    """A tag of an architecture as the catalogue spells it.

    Case does not matter, nor whether hyphens or underscores are used.

    Raises:
        UsageError: there is no such tag; the message names what there is.
    """
    for tag in entry.tags:
        if normal(tag) == normal(wanted):
            return tag
    there = ", ".join(entry.tags) or "none (take random[:SEED], or a file)"
    close = difflib.get_close_matches(normal(wanted), [normal(t) for t in entry.tags], n=1)
    hint = next((f"did you mean {t}? " for t in entry.tags if close == [normal(t)]), "")
    raise UsageError(
        f"{entry.architecture} has no tag {wanted!r}, and no file or folder is called so: {hint}"
        f"Its tags: {there}"
    )


def long_text_counts(listed: Sequence[CatalogEntry]) -> dict[str, int]:
    """At how many tokens text GFLOPs were counted, where not at the entry's own.

    Keys are the starts of the names of those architectures that are among the `listed`.
    """
    return {
        start: tokens
        for start, tokens in COUNTED_AT.items()
        if any(entry.architecture.startswith(start) for entry in listed)
    }
