"""`clipperf report`: stored results as a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from clipperf.commands.options import (
    Results,
    in_a_folder,
    read_results,
    refuse_to_replace_data,
    tell_lines,
)
from clipperf.commands.sizing_options import (
    ImagesPerS,
    Price,
    RamGb,
    SloMs,
    TargetsFile,
    TextsPerS,
    Utilisation,
    VramGb,
    solve_in_one_thread,
    targets_in,
    targets_of,
)
from clipperf.system.terminal import show

EXAMPLES = (
    "clipperf report",
    "clipperf report --format html --out report.html",
    "clipperf report profile.json eval.json --format md",
)


def command(
    results: Results = None,
    fmt: Annotated[str, typer.Option("--format", help="text, md, json, csv or html.")] = "text",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write here instead of printing."),
    ] = None,
    targets: TargetsFile = None,
    images_per_s: ImagesPerS = None,
    texts_per_s: TextsPerS = None,
    slo_ms: SloMs = None,
    ram_gb: RamGb = None,
    vram_gb: VramGb = None,
    price: Price = None,
    utilisation: Utilisation = None,
) -> None:
    """Make a report from stored results alone; with targets it includes the sizing."""
    solve_in_one_thread()
    from clipperf.models.published import basic_statistics
    from clipperf.report.build import build_report
    from clipperf.report.format import render
    from clipperf.system.files import write_text
    from clipperf.system.targets import expanded

    asked = targets_of(
        targets_in(targets),
        price,
        images_per_s=images_per_s,
        texts_per_s=texts_per_s,
        slo_ms=slo_ms,
        ram_gb=ram_gb,
        vram_gb=vram_gb,
        utilisation=utilisation,
    )
    options = (images_per_s, texts_per_s, slo_ms, ram_gb, vram_gb, price, utilisation, targets)
    sized = asked if any(option is not None for option in options) else None
    if out is not None:
        in_a_folder(out, "--out")
        refuse_to_replace_data(out)
    found, left_out = read_results(results)
    document = build_report(found, basic_statistics(), sized, left_out=left_out)
    text = render(document, fmt)
    if out is None:
        show(text.removesuffix("\n"), page=fmt != "text")
    else:
        write_text(expanded(out), text)
        tell_lines(f"report: {out}")
