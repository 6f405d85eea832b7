"""`clipperf size`: what to run on what, and how many."""

from __future__ import annotations

import typer

from clipperf.commands.options import Json, Results, print_json, print_tables, read_results
from clipperf.commands.sizing_options import (
    AccuracyOn,
    Assume,
    DiskGb,
    ImagesPerS,
    MaxLoss,
    MinAccuracy,
    Percentile,
    Price,
    RamGb,
    SloMs,
    Spare,
    TargetsFile,
    TextsPerS,
    Utilisation,
    VramGb,
    solve_in_one_thread,
    targets_in,
    targets_of,
)

EXAMPLES = (
    "clipperf size --images-per-s 500 --texts-per-s 2000",
    "clipperf size --images-per-s 50 --slo-ms 100 --ram-gb 16 --json",
    "clipperf size --images-per-s 50 --max-loss 1 --price E1=0.4 --price E2=1.1",
    "clipperf size profile.json eval.json --targets targets.toml",
    "clipperf size --images-per-s 5000 --assume rtx4090 --price rtx4090=0.7",
)


def command(
    results: Results = None,
    targets: TargetsFile = None,
    images_per_s: ImagesPerS = None,
    texts_per_s: TextsPerS = None,
    slo_ms: SloMs = None,
    percentile: Percentile = None,
    ram_gb: RamGb = None,
    vram_gb: VramGb = None,
    disk_gb: DiskGb = None,
    min_accuracy: MinAccuracy = None,
    max_loss: MaxLoss = None,
    accuracy_on: AccuracyOn = None,
    price: Price = None,
    utilisation: Utilisation = None,
    spare: Spare = None,
    assume: Assume = None,
    json: Json = False,
) -> None:
    """Say which measured configurations meet the targets, how many machines, and their cost."""
    solve_in_one_thread()
    from clipperf.report.document import plain_json
    from clipperf.report.records import environments
    from clipperf.report.sizing.solve import size as solve
    from clipperf.report.sizing.tables import sizing_tables

    asked = targets_of(
        targets_in(targets),
        price,
        images_per_s=images_per_s,
        texts_per_s=texts_per_s,
        slo_ms=slo_ms,
        percentile=percentile,
        ram_gb=ram_gb,
        vram_gb=vram_gb,
        disk_gb=disk_gb,
        min_accuracy=min_accuracy,
        max_loss=max_loss,
        accuracy_on=accuracy_on,
        utilisation=utilisation,
        spare=spare,
        assume=assume,
    )
    found, _ = read_results(results)
    sizing = solve(found, asked)
    if json:
        print_json(plain_json(sizing))
    else:
        print_tables(*sizing_tables(sizing, environments(found)))
    raise typer.Exit(0 if sizing.plans or sizing.assumed else 1)
