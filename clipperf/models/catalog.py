"""Every model that can be named, of all families, by architecture and tag.

Nothing here imports torch or open_clip, so a listing takes a fraction of a second.
"""

from __future__ import annotations

import difflib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from clipperf import units
from clipperf.errors import UsageError
from clipperf.models.family import FAMILIES, CatalogEntry
from clipperf.models.open_clip_facts import COUNTED_AT, read_snapshot
from clipperf.models.published import normal
from clipperf.nouns.report import Report
from clipperf.serialize import to_json


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
    _refuse_mclip(name)
    close = difflib.get_close_matches(normal(wanted), known, n=4, cutoff=0.5)
    names = ", ".join(known[key].architecture for key in close)
    hint = f"did you mean {names}? " if names else ""
    raise UsageError(f"unknown model {wanted!r}: {hint}clipperf models lists all")


def split_alias(name: str) -> tuple[str, str]:
    """``("ViT-H-14", "laion2b_s32b_b79k")`` for ``ViT-H-14::laion2b-s32b-b79k``.

    Architecture and tag come back as open_clip spells them; case does not matter, nor whether
    hyphens or underscores are used.

    Raises:
        UsageError: unknown architecture or tag, or no tag; the message names what there is.
    """
    entry = find(name)
    wanted = name.partition("::")[2]
    for tag in entry.tags:
        if normal(tag) == normal(wanted):
            return entry.architecture, tag
    there = ", ".join(entry.tags) or "none (use --pretrained random, or a file)"
    if not wanted:
        raise UsageError(f"{name!r} names no weights; tags of {entry.architecture}: {there}")
    close = difflib.get_close_matches(normal(wanted), [normal(t) for t in entry.tags], n=1)
    hint = next((f"did you mean {t}? " for t in entry.tags if close == [normal(t)]), "")
    raise UsageError(f"{entry.architecture} has no tag {wanted!r}: {hint}Its tags: {there}")


def _refuse_mclip(name: str) -> None:
    if normal(name).startswith("m-clip/"):
        raise UsageError(
            f"{name}: M-CLIP's multilingual text towers are not supported yet. Multilingual "
            f"models that are: xlm-roberta-base-ViT-B-32, ViT-B-16-SigLIP-i18n-256"
        )


def models_report(listed: list[CatalogEntry]) -> Report:
    """The listing as a table: a row for each architecture with each of its tags."""
    rows = []
    for entry in listed:
        for tag in entry.tags or ("",):
            rows.append(
                (
                    f"{entry.architecture}::{tag}" if tag else entry.architecture,
                    units.millions(entry.image_parameters),
                    units.millions(entry.text_parameters),
                    _gflops(entry.image_gflops),
                    _gflops(entry.text_gflops),
                    str(entry.embed_dim),
                    str(entry.image_px),
                    str(entry.context_tokens),
                    entry.licence(tag) or ("unknown" if tag else units.NOT_MEASURED),
                    units.share(entry.imagenet(tag)),
                )
            )
    note = snapshot_note()
    noted = {note: None for entry in listed for note in entry.notes}
    return Report(
        title=f"{len(listed)} architectures, {sum(len(e.tags) for e in listed)} sets of weights",
        columns=(
            "model",
            "image M",
            "text M",
            "image GFLOPs",
            "text GFLOPs",
            "dim",
            "px",
            "tokens",
            "licence",
            "ImageNet top-1",
        ),
        rows=tuple(rows),
        findings=tuple(noted) if len(listed) <= 3 else (),
        caveats=(*([note] if note else []), *_CAVEATS, *_long_text_caveat(listed)),
        numeric=(False, *[True] * 7, False, True),
    )


_CAVEATS = (
    "M: millions of parameters. GFLOPs: one image, or one text of all its tokens.",
    "ImageNet top-1 is published, zero-shot (open_clip's table, else LAION's or the CLIP paper's); "
    "what clipperf measures itself comes from: clipperf eval.",
)


def _long_text_caveat(listed: list[CatalogEntry]) -> list[str]:
    """Says of which listed models the text GFLOPs are not for the column's tokens."""
    long = {
        start: tokens
        for start, tokens in COUNTED_AT.items()
        if any(entry.architecture.startswith(start) for entry in listed)
    }
    named = ", ".join(f"{start}-*: {tokens} tokens" for start, tokens in long.items())
    return [f"Text GFLOPs of some models are for longer texts ({named})."] if named else []


def _gflops(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else units.significant(value)


def models_json(listed: list[CatalogEntry]) -> list[dict[str, Any]]:
    """The listing as plain values, with every published accuracy and its source by tag."""
    return [
        {
            **{key: value for key, value in to_json(entry).items() if key != "licences"},
            "tags": [
                {
                    "tag": tag,
                    "id": f"{entry.architecture}::{tag}",
                    "licence": entry.licence(tag),
                    "published": to_json(entry.published(tag)),
                }
                for tag in entry.tags
            ],
        }
        for entry in listed
    ]
