"""HTML: one page for screen, phone and paper, light and dark; nothing is loaded.

A script of our own, which the page holds, sorts and filters tables and hands out the result files;
without it all is there to read. The page's policy lets a browser run that script and no other.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from clipperf import units
from clipperf.nouns.result import Environment, ResultFile
from clipperf.report.document import Document, describe
from clipperf.report.format import Format
from clipperf.report.svg import draw
from clipperf.report.table import Table, Value, splits, worst
from clipperf.serialize import to_json
from clipperf.text import printable
from clipperf.version import __version__

MOST_BYTES = 2_000_000
"""Of a page. Result files are left out of it from the largest on, until it is no larger, and charts
where that is not enough; tables never."""


def render(document: Document) -> str:
    """The document as a self-contained page, from `templates/page.html`."""
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("clipperf", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    assert templates.loader is not None
    script, _, _ = templates.loader.get_source(templates, "page.js")

    def page(document: Document, raw: list[Raw]) -> str:
        return templates.get_template("page.html").render(
            document=document,
            subtitle=_subtitle(document),
            random_models=sorted(
                {str(r["model_id"]) for r in document.records if r.get("random_weights")}
            ),
            version=__version__,
            splits=splits,
            blocks=_blocks,
            facts=_facts,
            draw=lambda chart, identifier: Markup(draw(chart, identifier)),
            policy=_policy(script),
            script=Markup(script),
            raw=raw,
            most=f"{MOST_BYTES / 1e6:g} MB",
        )

    raw = [_raw(number, file) for number, file in enumerate(document.results, start=1)]
    named = [Raw(file.path, file.size, file.name, None) for file in raw]
    left = MOST_BYTES - len(page(document, named).encode())
    if left < 0:
        return page(_without_charts(document), named)
    return page(document, _fitting(raw, left))


def _without_charts(document: Document) -> Document:
    """The tables of a document, and a caveat about what is not there."""
    sections = [dataclasses.replace(s, charts=()) for s in document.sections if s.tables]
    missing = f"The charts are left out: with them the page would pass {MOST_BYTES / 1e6:g} MB."
    return dataclasses.replace(
        document, sections=tuple(sections), caveats=(missing, *document.caveats)
    )


@dataclass(frozen=True)
class Raw:
    """A result file in the page: where it was read, under which name it is handed out, and its
    JSON as the content of a script element, None where the page has no room for it."""

    path: str
    size: str
    name: str
    text: Any

    @property
    def length(self) -> int:
        """Bytes that the page takes for it, or a few more; its name and text are ASCII."""
        return len(self.text) + len(self.name) + 100


def _raw(number: int, file: ResultFile) -> Raw:
    """A file as JSON in which nothing can end a script element or begin a comment."""
    from markupsafe import Markup

    text = json.dumps(to_json(file), separators=(",", ":"))
    for character in "<>&":  # outside of its strings JSON has none of them
        text = text.replace(character, f"\\u{ord(character):04x}")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePath(file.path).stem)[:80].strip("-")
    name = f"{stem or f'result-{number}'}.json"
    return Raw(file.path, units.size(len(text)), name, Markup(text))


def _fitting(raw: list[Raw], room: int) -> list[Raw]:
    """The files with as many of their texts, the smallest first, as there are bytes of room."""
    kept = set()
    for place in sorted(range(len(raw)), key=lambda i: raw[i].length):
        room -= raw[place].length
        if room >= 0:
            kept.add(place)
    return [f if i in kept else Raw(f.path, f.size, f.name, None) for i, f in enumerate(raw)]


def _policy(script: str) -> str:
    """What a browser may do with the page: show it, and run this script alone."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _shown(value: Any) -> Any:
    """What is shown of a value; markup is printable already."""
    return printable(value) if type(value) is str else value


def _subtitle(document: Document) -> str:
    machines = [
        ", ".join(filter(None, (env.cpu, f"{env.cores} cores", env.gpu or "no GPU")))
        for _, env in document.environment
        if env is not None
    ]
    dates = sorted(s.created_utc[:10] for s in document.provenance)
    when = dates[0] if len(set(dates)) == 1 else f"{dates[0]} to {dates[-1]}"
    return " · ".join([*dict.fromkeys(machines), when])


def _blocks(table: Table) -> Iterator[tuple[Value | None, list[tuple[tuple[Value, ...], str]]]]:
    """The bodies of a table: its rows with their classes, under a model's name if it is split.

    Rows whose measurement failed are marked, and the first row of the next batch or tower.
    """
    at = splits(table)
    groups = [i for i, column in enumerate(table.columns) if column.group]
    rows: list[tuple[tuple[Value, ...], str]] = []
    for number, row in enumerate(table.rows):
        before = table.rows[number - 1] if number else row
        if at is not None and row[at] != before[at]:
            yield before[at], rows
            rows, before = [], row
        notes = [value for value in row if value.unit == "note"]
        kinds = ["failed"] if worst(notes) == "bad" else []
        kinds += ["next"] if any(row[i] != before[i] for i in groups) else []
        rows.append((row, " ".join(kinds)))
    if rows:
        yield (None if at is None else table.rows[-1][at]), rows


def _facts(env: Environment | None) -> list[tuple[str, str]]:
    """What is known of a machine, by name."""
    if env is None:
        return [("Machine", describe(None))]
    gpu = f"{env.gpu}, {units.size(env.vram_bytes)}, driver {env.driver}" if env.gpu else "none"
    return [
        ("CPU", f"{env.cpu}, {env.cores} cores"),
        ("RAM", units.size(env.ram_bytes)),
        ("GPU", gpu),
        ("System", f"{env.os}, Python {env.python}"),
        ("Versions", ", ".join(f"{n} {v}" for n, v in sorted(env.versions.items()))),
        ("Source", env.git_sha or "installed package"),
        ("Id", env.id),
    ]


FORMAT = Format("html", render)
