"""HTML: one page for screen, phone and paper, light and dark; nothing loaded, no script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clipperf import units
from clipperf.nouns.result import Environment
from clipperf.report.document import Document, describe
from clipperf.report.format import Format
from clipperf.report.svg import draw
from clipperf.report.table import Table, Value, splits, worst
from clipperf.text import printable
from clipperf.version import __version__


def render(document: Document) -> str:
    """The document as a self-contained page, from `templates/page.html`."""
    import jinja2
    from markupsafe import Markup

    page = jinja2.Environment(
        loader=jinja2.PackageLoader("clipperf", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("page.html")
    return page.render(
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
