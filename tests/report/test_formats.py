"""Formats of a report: what they show, what they escape, and that they load nothing."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Cli, Install
from report_data import (
    ENVIRONMENT,
    GIB,
    PUBLISHED,
    broken,
    cell,
    memory,
    realistic,
    result,
    score,
    timed,
)
from rich.console import Console

from clipperf.errors import UsageError
from clipperf.models.published import BasicStatistics
from clipperf.registry import Registry
from clipperf.report import format as format_
from clipperf.report import formats
from clipperf.report.build import build_report
from clipperf.report.charts import BarChart, LineChart, speed_charts
from clipperf.report.format import FORMATS, render
from clipperf.report.formats import html
from clipperf.report.records import merge
from clipperf.report.sizing.solve import Targets
from clipperf.report.svg import draw
from clipperf.report.table import RANDOM_WEIGHTS, UNRESOLVED, Value
from clipperf.report.tables import cost_table
from clipperf.report.terminal import rich_table, split_columns
from clipperf.system import store
from clipperf.text import printable

EVIL = "<script>alert('x')</script>|[red]\x1b[31m\n::w"


@pytest.fixture(scope="module")
def document():
    """The realistic report, with sizing and published figures."""
    return build_report(realistic(), PUBLISHED, Targets(200, 100, slo_s=0.5, ram_bytes=4 * GIB))


@pytest.fixture(scope="module")
def evil():
    """A report whose model, dataset, error and command try to be more than text."""
    c = cell(model=EVIL)
    return build_report(
        [
            result(
                [timed(c, [0.1] * 6), memory(c, 100), broken(cell("text", model=EVIL), EVIL)],
                scores=[score(c, dataset=EVIL)],
                command=f"clipperf profile {EVIL}",
                notes=(EVIL,),
            )
        ],
        [BasicStatistics(EVIL, 1, 1, 1)],
        Targets(1, 0),
        title=EVIL,
    )


class Page(HTMLParser):
    """Collects the tags of a page and checks that they close in order."""

    VOID = frozenset({"meta", "br"})
    SCRIPT = (Path(html.__file__).parents[1] / "templates" / "page.js").read_text()

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.mark.parametrize("fmt", FORMATS.names())
def test_every_format_is_deterministic(fmt, document) -> None:
    again = build_report(realistic(), PUBLISHED, Targets(200, 100, slo_s=0.5, ram_bytes=4 * GIB))
    turned = build_report(
        realistic()[::-1], PUBLISHED, Targets(200, 100, slo_s=0.5, ram_bytes=4 * GIB)
    )
    first = render(document, fmt)
    assert first == render(again, fmt) == render(turned, fmt)
    assert first.endswith("\n")
    assert "nan" not in re.findall(r"[\w.]+", first.lower())


def test_unknown_format(document) -> None:
    with pytest.raises(UsageError, match="choose from: text, md, csv, json, html"):
        render(document, "pdf")


def test_nothing_to_report() -> None:
    with pytest.raises(UsageError, match="clipperf profile"):
        build_report([])


@pytest.mark.parametrize("fmt", FORMATS.names())
def test_only_failed_rows_render(fmt) -> None:
    text = render(build_report([result([broken(cell(), "out of memory")])]), fmt)
    assert "out of memory" in text


@pytest.mark.parametrize("fmt", FORMATS.names())
def test_only_scores_render(fmt) -> None:
    assert "cifar10" in render(build_report([result(scores=[score(cell())])]), fmt)


def test_a_format_is_one_file(monkeypatch, tmp_path, document) -> None:
    (tmp_path / "shout.py").write_text(
        "from clipperf.report.format import Format\n"
        "FORMAT = Format('shout', lambda document: document.title.upper() + '!\\n')\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    monkeypatch.setattr(format_, "FORMATS", Registry("format", room="clipperf.report.formats"))
    assert render(document, "shout") == "CLIP COST AND ACCURACY!\n"
    monkeypatch.delitem(sys.modules, "clipperf.report.formats.shout")


def test_a_format_from_an_installed_package_is_written(
    install: Install, cli: Cli, tmp_path: Path
) -> None:
    code = (
        "from clipperf.report.format import Format\n"
        "FORMAT = Format('titles', lambda document: ''.join(f'{s.title}\\n' for s in "
        "document.sections))\n"
    )
    install("titles", code, {"clipperf.format": {"titles": "titles:FORMAT"}})
    stored = result([timed(cell(), [0.1] * 6)], schema_version=store.SCHEMA_VERSION)
    store.write_result(tmp_path / "result.json", stored)
    done = cli("report", tmp_path / "result.json", "--format", "titles", check=True)
    titles = ["Basic statistics", "Speed", "Latency", "Cost per tower", "Trust"]
    assert done.stdout.splitlines() == titles


# --- typed values --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(None, "ms"), "-"),
        (Value(math.nan, "share", (0.0, 1.0)), "-"),
        (Value(0.0, "points"), "+0.0"),
        (Value(0.5, "share", (math.nan, 1.0)), "50.0 %"),
        (Value(0.5, "share", (0.4, 0.6)), "50.0 % [40.0, 60.0]"),
        (Value(2.0, "ratio", (1.5, 2.5)), "2.00x [1.50, 2.50]"),
        (Value(1234.5, "rate", (1000.0, 1500.0)), "1234 [1000, 1500]"),
        (Value(20, "count", beside=Value(0.02, "share")), "20 (2.0 %)"),
        (Value(1410, "span", (1410, 1980)), "1410 to 1980"),
        (Value(1980, "span", (1980, 1980)), "1980"),
        (Value("M::w", mark=RANDOM_WEIGHTS), "M::w (random weights)"),
        (Value(1.0, "ratio", mark=UNRESOLVED), "1.00x ≈"),
        (Value(""), ""),
    ],
)
def test_values_read_as_their_unit(value: Value, text: str) -> None:
    assert value.text == text


NAMES = ("failed lost", "a [b]", "x random", "RANDOM WEIGHTS (random weights)", "-")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_not_read_as_verdicts_marks_or_intervals(name: str) -> None:
    files = [result([timed(cell(model=m), [0.1] * 6) for m in (name, "M::w")])]
    page = render(build_report(files), "html").partition("<main>")[2]
    page = page.partition('<section id="environments"')[0]
    page, trust = page.split('<section id="trust">')
    assert not re.findall(r'class="(?:mark|ci|failed|banner)\b', page)
    found = re.findall(r'class="(mark \w+|ci|failed|banner)\b', trust)
    assert found == ["mark warn", "mark plain", "mark plain"] * 2, "grades of times, ratios, memory"
    out = io.StringIO()
    console = Console(file=out, width=120, color_system="standard", force_terminal=True)
    console.print(rich_table(cost_table(files), 120))
    assert "\x1b[31m" not in out.getvalue(), "no row is red"


def test_a_table_says_what_its_columns_are() -> None:
    heads = {column.name: column for column in cost_table(realistic()).columns}
    assert [name for name, head in heads.items() if head.split] == ["Model"]
    keys = [name for name, head in heads.items() if head.key]
    assert keys == ["Model", "Tower", "Batch", "Runtime", "Note"]
    assert not heads["Tower"].numeric and heads["Batch"].numeric


# --- HTML ----------------------------------------------------------------------------------


def test_html_is_self_contained(document, evil) -> None:
    for text in (render(document, "html"), render(evil, "html")):
        page = Page(text)
        assert page.open == []
        names = {tag for tag, _ in page.tags}
        assert not names & {"link", "img", "iframe", "object", "embed", "base", "form"}
        for _, attributes in page.tags:
            assert not any(name.startswith("on") for name in attributes)
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
        assert not re.search(r"https?:|@import|url\(", text)
        assert [a.get("type") for tag, a in page.tags if tag == "script"][-1] is None
        *data, script = page.scripts
        assert script == Page.SCRIPT, "ours, and no other"
        assert all(isinstance(json.loads(text), dict) for text in data)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        (policy,) = [a["content"] or "" for _, a in page.tags if "http-equiv" in a]
        assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
        identifiers = [a["id"] for _, a in page.tags if "id" in a]
        assert len(identifiers) == len(set(identifiers))
        for _, attributes in page.tags:
            if (attributes.get("href") or "").startswith("#"):
                assert (attributes["href"] or "")[1:] in identifiers


def test_html_escapes_everything(evil) -> None:
    text = render(evil, "html")
    page = Page(text)
    kinds = [a.get("type") for tag, a in page.tags if tag == "script"]
    assert kinds == ["application/json", None] and text.count("<script") == 2
    assert text.count("</script") == 2 and "<!--" not in text
    assert json.loads(page.scripts[0])["command"] == f"clipperf profile {EVIL}"
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    assert "\x1b" not in text


def test_html_has_the_numbers_that_its_tables_are_sorted_by() -> None:
    files = [result([timed(cell(), [0.0123456] * 6)])]
    text = render(build_report(files), "html")
    assert '<td class="n" data-v="0.0123456">12.3</td>' in text
    assert '<td class="n"><span class="none">-</span></td>' in text, (
        "what was not measured has none"
    )


def test_html_has_the_raw_data_as_long_as_it_fits(monkeypatch) -> None:
    long = result([timed(cell(batch=8), [0.1] * 3000)], path="odd /long<b>.json")
    short = result([timed(cell(), [0.1] * 6)], path="..", command="clipperf profile short")
    document = build_report([long, short])
    page = Page(render(document, "html"))
    names = [a["data-name"] for _, a in page.tags if "data-name" in a]
    assert names == ["result-1.json", "long-b.json"], "ordered as files are"
    assert json.loads(page.scripts[1])["measurements"][0]["run_s"] == [0.1] * 3000
    whole = len(render(document, "html").encode())
    monkeypatch.setattr(html, "MOST_BYTES", whole - 1)
    text = render(document, "html")
    page = Page(text)
    assert [a["data-name"] for _, a in page.tags if "data-name" in a] == ["result-1.json"]
    assert json.loads(page.scripts[0])["command"] == "clipperf profile short"
    assert text.count(": left out, the page would pass") == 1 and len(text.encode()) < whole
    assert "<svg" in text
    monkeypatch.setattr(html, "MOST_BYTES", 15_000)
    text = render(document, "html")
    assert "<svg" not in text and "The charts are left out: with them" in text
    assert 'id="cost"' in text and 'id="latency"' not in text


def test_html_sections_and_charts(document) -> None:
    text = render(document, "html")
    for key in ("summary", "speed", "cost", "accuracy", "sizing", "published", "provenance"):
        assert f'<section id="{key}">' in text
    page = Page(text)
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert drawings and all(a["role"] == "img" and a["aria-labelledby"] for a in drawings)
    assert "prefers-color-scheme:dark" in text
    assert "Random weights." in text
    assert text.count("<tr") > 40


# --- charts --------------------------------------------------------------------------------


def test_chart_data() -> None:
    rows = merge(
        [
            result(
                [
                    timed(cell(batch=1), [0.1] * 6),
                    timed(cell(batch=8), [0.4] * 6),
                    timed(cell(runtime="onnx", batch=8), [0.2] * 6),
                ]
            )
        ]
    )
    bars, lines = speed_charts(rows, {"env-a": "E1"})
    assert isinstance(bars, BarChart) and isinstance(lines, LineChart)
    assert [(name, [(b.label, b.text) for b in group]) for name, group in bars.groups] == [
        ("Batch 1", [("torch fp32", "10.0")]),
        ("Batch 8", [("torch fp32", "20.0"), ("onnx fp32", "40.0")]),
    ]
    assert lines.lines[0].points == ((1.0, 0.1), (8.0, 0.4))
    assert lines.y_range == (0.1, 0.5)
    assert lines.y_ticks[0][1] == "100 ms"


def test_failed_rows_stay_in_the_chart() -> None:
    rows = merge([result([timed(cell(), [0.1] * 6), broken(cell(runtime="onnx"), "boom")])])
    (bars,) = speed_charts(rows, {"env-a": "E1"})
    assert isinstance(bars, BarChart)
    assert [(b.label, b.value, b.text) for b in bars.groups[0][1]] == [
        ("torch fp32", 10.0, "10.0"),
        ("onnx fp32", 0.0, "failed"),
    ]
    assert draw(bars, "c").count("<rect") == 1
    assert speed_charts(rows[1:], {"env-a": "E1"}) == ()


# --- Markdown and text ---------------------------------------------------------------------


def parse_markdown_table(lines: list[str]) -> list[list[str]]:
    """Cells of a pipe table, its rule left out."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[c.strip() for c in row] for i, row in enumerate(rows) if i != 1]


def test_markdown_parses_back() -> None:
    files = [result([timed(cell(), [0.1] * 6), memory(cell(), 100)])]
    lines = render(build_report(files), "md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("**Cost per tower"))
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]))
    report = cost_table(files)
    assert parse_markdown_table(table) == [list(report.names), *map(list, report.texts)]


def test_markdown_escapes(evil) -> None:
    text = render(evil, "md")
    assert "<script" not in text and "\x1b" not in text
    for line in text.splitlines():
        if line.startswith("| ") and "---" not in line:
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) > 2


def test_text_has_no_markup_and_no_control_characters(evil) -> None:
    text = render(evil, "text")
    assert "\x1b" not in text
    assert "[red]" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("width", [80, 100, 160])
def test_wide_tables_are_split_not_cut(width) -> None:
    report = cost_table(realistic())
    parts = split_columns(report, width)
    assert sorted({i for part in parts for i in part}) == list(range(len(report.columns)))
    console = Console(file=io.StringIO(), width=width)
    console.print(rich_table(report, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in report.texts:
        for i, value in enumerate(row):
            if report.columns[i].numeric:
                assert value in text


# --- for machines --------------------------------------------------------------------------


def test_csv_parses_back_in_si_units() -> None:
    c = cell(batch=8)
    files = [
        result(
            [
                timed(c, [0.1, 0.2, 0.4, 0.2, 0.2, 0.2]),
                timed(cell(runtime="onnx", batch=8), [0.1] * 6),
                memory(c, 110, 10),
            ],
            scores=[score(c, 0.6)],
        )
    ]
    rows = list(csv.DictReader(io.StringIO(render(build_report(files), "csv"))))
    assert [r["record"] for r in rows] == ["cost", "cost", "score"]
    first = rows[0]
    assert float(first["p50_s"]) == 0.2
    assert float(first["items_per_s"]) == 40
    assert float(first["p50_interval_s_high"]) == 0.4
    assert int(first["rss_peak_bytes"]) == 110 * 2**20
    assert first["p99_s"] == "" and first["vram_peak_bytes"] == ""
    assert float(rows[1]["ratio"]) == 2.0
    assert float(rows[2]["value"]) == 0.6 and rows[2]["p50_s"] == ""


def test_csv_keeps_odd_names(evil) -> None:
    rows = list(csv.DictReader(io.StringIO(render(evil, "csv"), newline="")))
    assert {r["model_id"] for r in rows} == {printable(EVIL)}


def test_csv_has_no_formulas() -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain = 1", "'=1"]
    files = [result([timed(cell(model=name), [0.1] * 6) for name in names])]
    text = render(build_report(files), "csv")
    assert text.isascii() and all(c.isprintable() or c == "\n" for c in text)
    rows = list(csv.DictReader(io.StringIO(text)))
    shown = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\\t=1", "'\\r=1", "plain = 1", "'=1"]
    assert {r["model_id"] for r in rows} == set(shown)
    lower = score(cell(), 0.6, difference=-0.25, diff_ci95=(-0.5, 0.0))
    (row,) = csv.DictReader(io.StringIO(render(build_report([result(scores=[lower])]), "csv")))
    assert row["difference"] == "-0.25", "a number is one"


@pytest.mark.parametrize("fmt", ["text", "md", "csv", "json", "html"])
def test_no_format_has_control_characters(fmt: str) -> None:
    evil = "a\x1b[31m\x07\x9b\u202eb\udcff\nc"
    stack = evil + "\n".join(f"line {i}" for i in range(40))
    c = cell(model=evil)
    files = [
        result(
            [timed(c, [0.1] * 6), memory(c, 100), broken(cell("text", model=evil), stack)],
            scores=[score(c, dataset=evil)],
            command=evil,
            path=evil,
            notes=(evil,),
            environments=(dataclasses.replace(ENVIRONMENT, cpu=evil),),
        )
    ]
    text = render(build_report(files, title=evil, left_out=[evil]), fmt)
    assert all(c.isprintable() or c == "\n" for c in text)
    text = re.sub(r'(<script type="application/json"[^>]*>).*?(?=</script>)', r"\1", text)
    assert text.encode() and max(map(len, text.splitlines())) < 3000


def test_json_is_exact_and_whole(document) -> None:
    data = json.loads(render(document, "json"))
    assert data["sections"][0]["key"] == "sizing"
    assert data["provenance"][0]["command"].startswith("clipperf profile")
    assert data["sizing"]["targets"]["slo_s"] == 0.5
    assert data["records"][0]["p50_s"] == merge(realistic())[0].p50_s
    assert data["environment"][0][0] == "E1"


def test_json_has_null_for_nan() -> None:
    files = [result([timed(cell(), [0.1] * 6)], scores=[score(cell(), math.nan)])]
    data = json.loads(render(build_report(files), "json"))
    assert [r["value"] for r in data["records"] if r["record"] == "score"] == [None]


def test_shared_caveats_are_told_once(document) -> None:
    for caveat in document.caveats:
        for section in document.sections:
            for report in section.tables:
                assert caveat not in report.caveats
    assert dataclasses.replace(document) == document
