"""The page in a browser: what it draws, sorts, filters and hands out, and that it loads nothing.

Chromium has to be on this machine already; nothing fetches one. Screenshots are left in
`test-output/`, which git ignores.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import snapshot_data
from conftest import ROOT
from report_data import PUBLISHED

from clipperf.report.build import build_report
from clipperf.report.document import Document
from clipperf.report.format import render
from clipperf.system import store

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives a browser, is not installed"
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
    pytest.mark.slow,
]

SHOTS = ROOT / "test-output"
WIDTHS = (1440, 390)


def document_of(name: str) -> Document:
    files, targets = snapshot_data.cases()[name]
    stored = [dataclasses.replace(f, schema_version=store.SCHEMA_VERSION) for f in files]
    return build_report(stored, PUBLISHED, targets)


@pytest.fixture(scope="module")
def document() -> Document:
    """Two models in three engines at three batches, with scores, sizing and published figures."""
    return document_of("realistic")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page with all that it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, width: int = 1440, script: bool = True) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=script
        )
        self.page = self.context.new_page()
        self.url = file.as_uri()
        self.asked: list[str] = []
        self.loaded: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfinished", lambda request: self.loaded.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(self.url)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def of_table(self, section: str, code: str) -> Any:
        """What a function of the first table of a section returns."""
        return self.page.locator(f"#{section} table").first.evaluate(code)


@pytest.fixture
def written(tmp_path: Path, document: Document) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(document, "html"), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["realistic", "gpu", "driven", "odd"])
def test_a_page_is_drawn_and_loads_nothing(
    name: str, width: int, browser: Any, tmp_path: Path
) -> None:
    document, path = document_of(name), tmp_path / "report.html"
    path.write_text(render(document, "html"), encoding="utf-8")
    with Opened(browser, path, width) as opened:
        SHOTS.mkdir(exist_ok=True)
        opened.page.screenshot(path=SHOTS / f"report-{name}-{width}.png", full_page=True)
        assert opened.asked == [opened.url]
        assert opened.complaints == []
        sizes = opened.page.evaluate(
            "[...document.querySelectorAll('figure svg')].map(s => {"
            " const b = s.getBoundingClientRect(); return [b.width, b.height,"
            " s.querySelectorAll('rect, circle, path').length] })"
        )
        assert len(sizes) == sum(len(section.charts) for section in document.sections) > 0
        assert all(wide > 200 and high > 20 and marks for wide, high, marks in sizes)
        outside = opened.page.evaluate(
            "[...document.querySelectorAll('figure svg')].flatMap(s => {"
            " const b = s.getBoundingClientRect(); return [...s.querySelectorAll('text')]"
            ".filter(t => { const c = t.getBoundingClientRect();"
            " return c.left < b.left - 2 || c.right > b.right + 2 })"
            ".map(t => t.textContent) })"
        )
        assert outside == [], "texts of charts stay inside of them"
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def numbers(opened: Opened, at: int) -> list[list[float | None]]:
    """The numbers of a column of the cost table, body by body; null where none was measured."""
    return opened.of_table(
        "cost",
        "t => [...t.tBodies].map(b => [...b.rows].filter(r => r.className !== 'model')"
        f".map(r => r.cells[{at}].dataset.v === undefined ? null : +r.cells[{at}].dataset.v))",
    )


def test_rows_are_sorted_by_a_column_inside_of_their_model(browser: Any, written: Path) -> None:
    with Opened(browser, written) as opened:
        heads = opened.of_table("cost", "t => [...t.tHead.rows[0].cells].map(c => c.innerText)")
        at = heads.index("p50 ms")
        first = numbers(opened, at)
        assert len(first) == 2 and sum(None in body for body in first) == 1
        known = [sorted(v for v in body if v is not None) for body in first]
        lost = [[None] * body.count(None) for body in first]
        button = opened.page.locator("#cost th button").nth(at)
        head = opened.page.locator("#cost th[scope=col]").nth(at)
        button.click()
        assert numbers(opened, at) == [k + lost for k, lost in zip(known, lost, strict=True)]
        assert head.get_attribute("aria-sort") == "ascending"
        opened.page.keyboard.press("Enter")  # which has the focus since the click
        assert numbers(opened, at) == [k[::-1] + n for k, n in zip(known, lost, strict=True)]
        assert head.get_attribute("aria-sort") == "descending"
        opened.page.keyboard.press("Space")
        assert numbers(opened, at) == first and head.get_attribute("aria-sort") is None
        first_rows = opened.of_table("cost", "t => [...t.tBodies].map(b => b.rows[0].className)")
        assert first_rows == ["model", "model"]
        assert opened.complaints == []


def test_words_are_sorted_as_people_count(browser: Any, written: Path) -> None:
    with Opened(browser, written) as opened:
        heads = opened.of_table("cost", "t => [...t.tHead.rows[0].cells].map(c => c.innerText)")
        at = heads.index("Runtime")
        opened.page.locator("#cost th button").nth(at).focus()
        opened.page.keyboard.press("Enter")
        found = opened.of_table(
            "cost", f"t => [...t.tBodies[0].rows].slice(1).map(r => r.cells[{at}].innerText)"
        )
        assert len(found) == 18 and found == sorted(found)


def test_a_filter_leaves_the_rows_with_all_its_words(browser: Any, written: Path) -> None:
    with Opened(browser, written) as opened:
        field = opened.page.get_by_role("searchbox", name="Filter: Cost per tower")
        rows = opened.page.locator("#cost tbody tr:not(.model)")
        everything = rows.count()
        field.fill("vit-b IMAGE int8")
        left = [row for row in rows.all() if row.is_visible()]
        assert len(left) == 3, "one a batch"
        for row in left:
            assert "image" in row.inner_text() and "onnx int8" in row.inner_text()
        models = opened.page.locator("#cost tr.model")
        assert [m.is_visible() for m in models.all()] == [True, False]
        told = opened.page.locator("#cost [role=status]")
        assert told.inner_text() == f'3 of {everything} rows contain "vit-b IMAGE int8"'
        field.fill("no such words")
        assert told.inner_text().startswith(f"0 of {everything} rows")
        field.fill("")
        assert all(row.is_visible() for row in rows.all()) and told.inner_text() == ""


@pytest.mark.parametrize("name", ["realistic", "odd"])
def test_what_is_downloaded_is_a_result_file(name: str, browser: Any, tmp_path: Path) -> None:
    document, path = document_of(name), tmp_path / "report.html"
    path.write_text(render(document, "html"), encoding="utf-8")
    with Opened(browser, path) as opened:
        buttons = opened.page.locator("#raw button")
        assert buttons.count() == len(document.results)
        for button, result in zip(buttons.all(), document.results, strict=True):
            with opened.page.expect_download() as waited:
                button.click()
            target = tmp_path / waited.value.suggested_filename
            waited.value.save_as(target)
            assert target.name == Path(result.path).name
            assert store.read_result(target) == dataclasses.replace(result, path=str(target))
        assert opened.complaints == []


def test_all_of_it_is_there_without_a_script(browser: Any, written: Path) -> None:
    words = "t => t.innerText"
    with Opened(browser, written, script=False) as plain, Opened(browser, written) as scripted:
        assert plain.page.locator("button, input").count() == 0
        for section in ("summary", "cost", "accuracy"):
            assert plain.page.locator(f"#{section} table").first.is_visible()
            assert plain.of_table(section, words) == scripted.of_table(section, words)


def test_paper_has_no_controls_and_says_what_was_filtered(browser: Any, written: Path) -> None:
    with Opened(browser, written) as opened:
        opened.page.get_by_role("searchbox", name="Filter: Cost per tower").fill("int8")
        opened.page.emulate_media(media="print")
        assert not any(field.is_visible() for field in opened.page.locator("input").all())
        assert not any(each.is_visible() for each in opened.page.locator("button.get").all())
        assert opened.page.locator("#cost [role=status]").is_visible()


def test_no_other_script_would_run(browser: Any, tmp_path: Path) -> None:
    """Were a text not escaped, the page's own policy would still stop what is in it."""
    page = render(document_of("odd"), "html")
    holed = page.replace("</main>", "<script>alert(1)</script><img src=x onerror=alert(2)></main>")
    path = tmp_path / "report.html"
    path.write_text(holed, encoding="utf-8")
    with Opened(browser, path) as opened:
        assert opened.page.locator("#cost th button").count() > 0, "ours runs"
        assert opened.loaded == [opened.url]
        assert len(opened.complaints) >= 3
        assert all("Content Security Policy" in said for said in opened.complaints)


def test_raw_data_is_json_of_its_own(document: Document) -> None:
    for result, part in zip(
        document.results, render(document, "html").split(' data-name="')[1:], strict=True
    ):
        text = part.partition(">")[2].partition("</script>")[0]
        assert json.loads(text)["command"] == result.command
