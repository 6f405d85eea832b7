"""The HTML page: one file, style inside, nothing loaded from anywhere, no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from clipperf import units
from clipperf.nouns.report import Report
from clipperf.nouns.result import Environment
from clipperf.report.columns import RANDOM_MARK
from clipperf.report.document import Document, Section, Source, clean, describe
from clipperf.report.style import STYLE
from clipperf.report.svg import draw
from clipperf.version import __version__

MARKS = (
    ("failed", "bad"),
    ("lost", "bad"),
    ("RANDOM WEIGHTS", "bad"),
    ("unsupported", "warn"),
    ("unstable", "warn"),
    ("unresolved", "warn"),
    ("kept", "good"),
    ("baseline", "plain"),
)
"""Words of a note or verdict, and how they are set."""


def render_html(document: Document) -> str:
    """The document as a self-contained page for screen, phone and paper, light and dark."""
    sections = [_section(s) for s in document.sections]
    sections.append(_caveats(document.caveats))
    sections.append(_environments(document.environment))
    sections.append(_provenance(document.provenance))
    links = [(s.key, s.title) for s in document.sections]
    links += [("caveats", "Caveats")] if document.caveats else []
    links += [("environments", "Environments"), ("provenance", "Provenance")]
    menu = "".join(f'<a href="#{escape(key)}">{_text(title)}</a>' for key, title in links)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(document.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_text(document.title)}</h1>
<p class="sub">{_subtitle(document)}</p>
<nav aria-label="Sections">{menu}</nav>
</header>
<main>
{_headline(document)}{"".join(sections)}</main>
<footer>clipperf {escape(__version__)}</footer>
</body>
</html>
"""


def _text(text: str) -> str:
    return escape(clean(text))


def _subtitle(document: Document) -> str:
    machines = [
        _text(", ".join(filter(None, (env.cpu, f"{env.cores} cores", env.gpu or "no GPU"))))
        for _, env in document.environment
        if env is not None
    ]
    dates = sorted(s.created_utc[:10] for s in document.provenance)
    when = dates[0] if len(set(dates)) == 1 else f"{dates[0]} to {dates[-1]}"
    return " · ".join([*dict.fromkeys(machines), _text(when)])


def _headline(document: Document) -> str:
    random_models = _random_models(document)
    banner = ""
    if random_models:
        names = ", ".join(f"<b>{_text(m)}</b>" for m in random_models)
        banner = (
            f'<p class="banner" role="note"><b>Random weights.</b> {names}: cost and size are '
            f"those of trained weights, accuracy means nothing.</p>\n"
        )
    if not document.findings:
        return f"{banner}<section><h2>Findings</h2><p>No difference could be called.</p></section>"
    return (
        f'{banner}<section class="findings" id="findings"><h2>Findings</h2>'
        f"{_list(document.findings)}</section>\n"
    )


def _random_models(document: Document) -> list[str]:
    return sorted({str(r["model_id"]) for r in document.records if r.get("random_weights")})


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _section(section: Section) -> str:
    key = escape(section.key)
    charts = "".join(
        f"<figure>{draw(chart, f'{section.key}-{i}')}"
        f"<figcaption>{_text(chart.title)}</figcaption></figure>"
        for i, chart in enumerate(section.charts)
    )
    return (
        f'<section id="{key}"><h2>{_text(section.title)}</h2>'
        f'<p class="intro">{_text(section.intro)}</p>'
        + "".join(_report(r) for r in section.reports)
        + (f'<div class="charts">{charts}</div>' if charts else "")
        + "</section>\n"
    )


def _report(report: Report) -> str:
    notes = [*report.findings, *report.caveats]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(report.title)}">'
        f"{_table(report)}</div>" + (f'<div class="notes">{_list(notes)}</div>' if notes else "")
    )


def _table(report: Report) -> str:
    """A table; where models have several rows each, a heading row stands for the column."""
    models = [row[i] for row in report.rows for i, n in enumerate(report.columns) if n == "Model"]
    grouped = len(set(models)) < len(models)
    shown = [i for i, name in enumerate(report.columns) if not (grouped and name == "Model")]
    heads = "".join(
        f'<th scope="col"{_kind(report, i)}>{_text(report.columns[i])}</th>' for i in shown
    )
    body = []
    for number, row in enumerate(report.rows):
        before = report.rows[number - 1] if number else row
        if grouped and (number == 0 or models[number] != models[number - 1]):
            body.append(
                f'</tbody><tbody><tr class="model"><th scope="rowgroup" colspan="{len(shown)}">'
                f"<span>{_cell('Model', models[number])}</span></th></tr>"
            )
            before = row
        cells = "".join(
            f"<td{_kind(report, i)}>{_cell(report.columns[i], row[i])}</td>" for i in shown
        )
        body.append(f"<tr{_row_kind(report, row, before)}>{cells}</tr>")
    return (
        f"<table><caption>{_text(report.title)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    ).replace("<tbody></tbody>", "")


def _kind(report: Report, i: int) -> str:
    return ' class="n"' if report.numeric and report.numeric[i] else ""


def _row_kind(report: Report, row: Sequence[str], before: Sequence[str]) -> str:
    """Mark rows that failed, and the first row of the next batch, model or tower."""
    kinds = []
    if any("failed" in row[i] for i, name in enumerate(report.columns) if name == "Note"):
        kinds.append("failed")
    group = ("Model", "Env", "Device", "Tower", "Batch", "Dataset", "Metric")
    if any(row[i] != before[i] for i, name in enumerate(report.columns) if name in group):
        kinds.append("next")
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _cell(column: str, text: str) -> str:
    if column in ("Note", "Verdict") and text:
        kind = next((kind for word, kind in MARKS if word in text), "plain")
        return f'<span class="mark {kind}">{_text(text)}</span>'
    if text.endswith(RANDOM_MARK):
        name = text.removesuffix(RANDOM_MARK).rstrip()
        return f'{_text(name)} <span class="mark bad">random weights</span>'
    if text.endswith(" random"):
        shown = text.removesuffix(" random")
        return f'<span class="none">{_text(shown)}</span> <span class="mark bad">random</span>'
    value, bracket, rest = text.partition(" [")
    if bracket and rest.endswith("]"):
        return f'{_text(value)} <span class="ci">[{_text(rest)}</span>'
    return f'<span class="none">{units.NOT_MEASURED}</span>' if text == "-" else _text(text)


def _caveats(caveats: Sequence[str]) -> str:
    if not caveats:
        return ""
    return f'<section id="caveats"><h2>Caveats</h2>{_list(caveats)}</section>\n'


def _environments(environments: Sequence[tuple[str, Environment | None]]) -> str:
    blocks = []
    for label, env in environments:
        facts = [("Machine", describe(None))] if env is None else _facts(env)
        pairs = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)
        blocks.append(f'<div class="card"><h3>{_text(label)}</h3><dl>{pairs}</dl></div>')
    return (
        f'<section id="environments"><h2>Environments</h2>'
        f'<div class="cards">{"".join(blocks)}</div></section>\n'
    )


def _facts(env: Environment) -> list[tuple[str, str]]:
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


def _provenance(sources: Sequence[Source]) -> str:
    rows = "".join(
        f'<tr><td>{_text(s.environment)}</td><td>{_text(s.created_utc)}</td><td class="n">'
        f'{s.measurements}</td><td class="n">{s.scores}</td><td><code>{_text(s.command)}</code>'
        f'<br><span class="ci">{_text(s.path)}</span>{_list(s.notes) if s.notes else ""}</td></tr>'
        for s in sources
    )
    return (
        '<section id="provenance"><h2>Provenance</h2><div class="scroll" tabindex="0" '
        'role="region" aria-label="Result files"><table class="prose"><thead><tr><th>Env</th>'
        '<th>UTC</th><th class="n">Measurements</th><th class="n">Scores</th>'
        f"<th>Command and file</th></tr></thead><tbody>{rows}</tbody></table></div></section>\n"
    )
