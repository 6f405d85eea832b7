"""Engines side by side: `--instances` of `clipperf profile`, and devices with commas."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from clipperf.commands.options import names, numbers
from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.from_files import option_of
from clipperf.system import gpus


def _pinned(device: str | None) -> str | None:
    """One GPU as everywhere; several stay as they are, as each is shown to its own process."""
    return device if device is not None and "," in device else gpus.pin(device)


Instances = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--instances",
        help="How many processes run side by side, with commas: 1,2,4. Without --threads the cores "
        "are shared out among them. On several devices: on each.",
    ),
]
Devices = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--device",
        callback=_pinned,
        help="cpu, cuda, or cuda:1 for the second GPU; cuda:0,cuda:1 for an instance on each. "
        "Default: cuda where a runtime needs it.",
    ),
]


def side_by_side(
    instances: str | None, device: str | None, scenario: str
) -> tuple[tuple[int, ...], str | None, tuple[str, ...]]:
    """The numbers of instances on each device, the kind of device, and the devices of several.

    Raises:
        UsageError: they are of several kinds, one is named twice or is not there, or inputs come in
            another way.
    """
    counts = (1,) if instances is None else numbers(instances, "--instances")
    places = () if device is None or "," not in device else names(device, "--device")
    for option, given in (("--instances", instances is not None), ("--device", bool(places))):
        if given and scenario != CLOSED_LOOP:
            what = "" if option == "--instances" else " of several"
            raise UsageError(
                f"{option}{what} is for closed loops: leave it or {option_of(scenario)} out"
            )
    if not places:
        return counts, device, ()
    kinds = dict.fromkeys(place.partition(":")[0] for place in places)
    numbered = all(":" in place for place in places)
    if list(kinds) != [gpus.CUDA] or not numbered or len(places) < len(str(device).split(",")):
        raise UsageError(
            f"--device {device}: several are GPUs, each once and with its number: cuda:0,cuda:1. "
            f"Several processes on a processor: --instances 2"
        )
    for place in places:
        gpus.shown(place)  # raises where there is none
    return counts, gpus.CUDA, places
