"""What a deployment must do: the options of `clipperf size`, and their file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from clipperf.report.sizing.types import Targets

MOST_BYTES = 1_000_000
"""Of a file of targets."""

ImagesPerS = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--images-per-s", help="Images to embed a second."),
]
TextsPerS = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--texts-per-s", help="Texts to embed a second."),
]
SloMs = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--slo-ms", help="Milliseconds within which --percentile of answers must come."),
]
Percentile = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--percentile", help="The share of answers that --slo-ms binds; default: 99."),
]
RamGb = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--ram-gb", help="RAM of one machine in GiB; default: the measured machine's."),
]
VramGb = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--vram-gb", help="GPU memory of one machine in GiB."),
]
DiskGb = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--disk-gb", help="Disk of one machine for its towers in GiB."),
]
MinAccuracy = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--min-accuracy", help="The least accuracy in percent, by --accuracy-on."),
]
MaxLoss = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--max-loss",
        help="Percentage points that may be lost against PyTorch at most, with all of the "
        "interval, by --accuracy-on.",
    ),
]
AccuracyOn = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--accuracy-on",
        metavar="DATASET[:METRIC]",
        help="Whose scores count; default: the only dataset's main metric.",
    ),
]
Price = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--price",
        metavar="[KIND=]PRICE",
        help="What a machine costs an hour. KIND: its label in reports (E1), or a part of its "
        "GPU's or processor's name. Several times for several kinds.",
    ),
]
Utilisation = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--utilisation", help="Share of the rate that a replica holds to plan for; default: 0.7."
    ),
]
Spare = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--spare", help="Replicas of each tower beside those that the load needs."),
]
Assume = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--assume",
        metavar="HARDWARE",
        help="Also size for hardware that was not measured, by speeds that others published: a "
        "part of its name, such as rtx4090. Several times for several.",
    ),
]
TargetsFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--targets",
        metavar="FILE",
        help="A TOML file of these, named as the options are (slo_ms = 50); options come first.",
    ),
]


def solve_in_one_thread() -> None:
    """Keep the small systems of equations of a sizing to one thread of numpy's libraries.

    Two threads wait for each other for longer than one takes, above all where other programs have
    the cores. It must come before numpy does; where it is there already, or the user has chosen,
    nothing changes.
    """
    from clipperf.system.child import THREAD_VARIABLES

    if "numpy" not in sys.modules and not set(THREAD_VARIABLES) & set(os.environ):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def targets_in(path: Path | None) -> dict[str, Any]:
    """What the file of --targets asks for; nothing without one.

    Raises:
        UsageError: it is not there, no text, or holds what cannot be meant.
    """
    from clipperf.report.sizing.asked import read
    from clipperf.system.reading import read_small
    from clipperf.system.targets import expanded
    from clipperf.text import shown

    if path is None:
        return {}
    where = f"--targets {shown(path)}"
    try:
        text = read_small(expanded(path), MOST_BYTES).decode("utf-8")
    except ArtifactError as exc:
        raise UsageError(f"--targets {exc}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{where} is no text: {exc}") from exc
    return read(text, where)


def targets_of(filed: dict[str, Any], price: list[str] | None = None, **given: Any) -> Targets:
    """The targets that options and a file give together; raises UsageError."""
    from clipperf.report.sizing import asked

    prices = None if price is None else [asked.price(text) for text in price]
    return asked.targets_of({**given, "price": prices}, filed)
