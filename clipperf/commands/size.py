"""`clipperf size`: what to run on what, and how many."""

from __future__ import annotations

import typer

from clipperf.commands.options import (
    ImagesPerS,
    Json,
    RamGb,
    Results,
    SloMs,
    TextsPerS,
    Utilisation,
    VramGb,
    print_json,
    print_tables,
    read_results,
    sizing_targets,
)

EXAMPLES = (
    "clipperf size --images-per-s 500 --texts-per-s 2000",
    "clipperf size --images-per-s 50 --slo-ms 100 --ram-gb 16 --json",
)


def command(
    results: Results = None,
    images_per_s: ImagesPerS = 0.0,
    texts_per_s: TextsPerS = 0.0,
    slo_ms: SloMs = None,
    ram_gb: RamGb = None,
    vram_gb: VramGb = None,
    utilisation: Utilisation = 0.7,
    json: Json = False,
) -> None:
    """Say which measured configurations meet the targets, and how many machines they need."""
    from clipperf.report.document import plain_json
    from clipperf.report.records import environments
    from clipperf.report.sizing.solve import size as solve
    from clipperf.report.sizing.tables import sizing_tables

    targets = sizing_targets(images_per_s, texts_per_s, slo_ms, ram_gb, vram_gb, utilisation)
    found, _ = read_results(results)
    sizing = solve(found, targets)
    if json:
        print_json(plain_json(sizing))
    else:
        print_tables(*sizing_tables(sizing, environments(found)))
    raise typer.Exit(0 if sizing.plans else 1)
