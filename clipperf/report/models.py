"""The listing of models as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipperf.models.catalog import CatalogEntry, long_text_counts, snapshot_note
from clipperf.models.speeds import speeds_of
from clipperf.report.columns import Column, tabulate
from clipperf.report.table import Table
from clipperf.serialize import to_json

CAVEATS = (
    "M: millions of parameters. GFLOPs: one image, or one text of all its tokens.",
    "ImageNet top-1 is published, zero-shot (open_clip's table, else LAION's or the CLIP paper's); "
    "what clipperf measures itself comes from: clipperf eval. Speeds that others published: "
    "clipperf models --speeds.",
)


def models_table(listed: Sequence[CatalogEntry]) -> Table:
    """The listing as a table: a row for each architecture with each of its tags."""
    rows = [(entry, tag) for entry in listed for tag in entry.tags or ("",)]
    columns: list[Column[tuple[CatalogEntry, str]]] = [
        Column(
            "model", lambda x: "::".join(filter(None, (x[0].architecture, x[1]))), "words", key=True
        ),
        Column("image M", lambda x: x[0].image_parameters, "millions"),
        Column("text M", lambda x: x[0].text_parameters, "millions"),
        Column("image GFLOPs", lambda x: x[0].image_gflops, "number"),
        Column("text GFLOPs", lambda x: x[0].text_gflops, "number"),
        Column("dim", lambda x: x[0].embed_dim),
        Column("px", lambda x: x[0].image_px),
        Column("tokens", lambda x: x[0].context_tokens),
        Column("licence", lambda x: x[0].licence(x[1]) or ("unknown" if x[1] else None), "words"),
        Column("ImageNet top-1", lambda x: x[0].imagenet(x[1]), "share"),
    ]
    note = snapshot_note()
    noted = dict.fromkeys(note for entry in listed for note in entry.notes)
    return tabulate(
        f"{len(listed)} architectures, {sum(len(e.tags) for e in listed)} sets of weights",
        columns,
        rows,
        findings=tuple(noted) if len(listed) <= 3 else (),
        caveats=[*([note] if note else []), *CAVEATS, *_long_text_caveat(listed)],
    )


def _long_text_caveat(listed: Sequence[CatalogEntry]) -> list[str]:
    """Says of which listed models the text GFLOPs are not for the column's tokens."""
    counts = long_text_counts(listed)
    named = ", ".join(f"{start}-*: {tokens} tokens" for start, tokens in counts.items())
    return [f"Text GFLOPs of some models are for longer texts ({named})."] if named else []


def models_json(listed: Sequence[CatalogEntry]) -> list[dict[str, Any]]:
    """The listing as plain values, with every published accuracy and its source by tag."""
    return [
        {
            **{key: value for key, value in to_json(entry).items() if key != "licences"},
            "published_speeds": to_json(speeds_of(entry.architecture)),
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
