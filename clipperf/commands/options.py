"""What several commands share: their options, how values are parsed, how JSON is printed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.commands.ray_options import check_device
from clipperf.errors import UsageError
from clipperf.system import gpus
from clipperf.system.terminal import say, show, tell
from clipperf.text import shown

if TYPE_CHECKING:
    from clipperf.nouns.result import ResultFile
    from clipperf.nouns.variant import PixelDtype, Side
    from clipperf.report.table import Table

TowerChoice = Annotated[str, typer.Option("--tower", help="image, text or both.")]
PRECISION_NAMES = (
    "fp32, tf32, fp16, bf16, int8, int8-row, int8-static, int8-bf16, int8-fp16, int8w, fp8; "
    "several: fp32,int8"
)
Precisions = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--precision", help=f"{PRECISION_NAMES}. Default: fp32; with best, the best's."),
]
Runtimes = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="Runtimes, with commas: torch,onnx; clipperf doctor lists all. Or best: what export "
        "--runtime best takes.",
    ),
]
Inputs = Annotated[
    str,
    typer.Option("--input", help="Pixels that image towers take: float32, uint8 or both."),
]


def _pinned(ctx: typer.Context, device: Optional[str]) -> Optional[str]:  # noqa: UP045
    """The device, whose GPU this process sees alone; with --ray it is one of other machines."""
    if ctx.params.get("ray") is None:
        return gpus.pin(device)
    check_device(device)
    return device


Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--device",
        callback=_pinned,
        help="cpu, cuda, or cuda:1 for the second GPU; default: cuda where a runtime needs it.",
    ),
]
Threads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--threads", min=1, help="Threads of each engine; default: all cores."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _checked(json: Optional[Path]) -> Optional[Path]:  # noqa: UP045
    """Refuses a folder that is not there before anything is measured."""
    _file_of(json)
    return json


JsonFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--json",
        callback=_checked,
        metavar="FILE",
        help="Write the result file here, not in the store; - prints it.",
    ),
]

Results = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Argument(
        metavar="[RESULTS]...", help="Result files, or folders of them; none: all of the store."
    ),
]


def sides(tower: str) -> tuple[Any, ...]:
    """The sides that --tower means; raises UsageError."""
    if tower == "both":
        return ("image", "text")
    if tower not in ("image", "text"):
        raise UsageError(f"--tower {tower}: choose image, text or both")
    return (tower,)


def names(text: str, option: str) -> tuple[str, ...]:
    """Names separated by commas; raises UsageError that names the option."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"{option} needs at least one name")
    return names


def pixel_dtypes(
    text: str, towers: tuple[Side, ...], *, several: bool = True
) -> tuple[PixelDtype, ...]:
    """What --input means, one or `several` with commas; raises UsageError."""
    from clipperf.nouns.variant import PIXEL_DTYPES

    asked = names(text, "--input")
    found = tuple(dtype for dtype in PIXEL_DTYPES if dtype in asked)
    if len(found) < len(asked) or (len(found) > 1 and not several):
        raise UsageError(f"--input {text}: choose {' or '.join(PIXEL_DTYPES)}")
    if "uint8" in found and "image" not in towers:
        raise UsageError(f"--input {text} is for images: leave it out, or add --tower both")
    return found


def for_images(towers: tuple[Side, ...], **given: object) -> None:
    """Refuse options that are for images where none are; raises UsageError that names the first."""
    alone = next((name for name, value in given.items() if value), None)
    if alone is not None and "image" not in towers:
        raise UsageError(f"--{alone} is for images: leave it out, or add --tower both")


def numbers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """Whole numbers from `least`, with commas; raises UsageError that names the option."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as exc:
        raise UsageError(f"{option} {text}: whole numbers with commas, such as 1,8,32") from exc
    if min(numbers) < least:
        raise UsageError(f"{option} {text}: the numbers start at {least}")
    return numbers


def ranged(text: str, option: str) -> tuple[int, int, int]:
    """MIN:OPT:MAX, or one number for all three; raises UsageError that names the option."""
    try:
        found = [int(part) for part in text.split(":")]
    except ValueError as exc:
        raise UsageError(f"{option} {text}: give MIN:OPT:MAX, such as 1:8:64") from exc
    if len(found) == 1:
        found *= 3
    if len(found) != 3:
        raise UsageError(f"{option} {text}: give MIN:OPT:MAX, such as 1:8:64")
    return (found[0], found[1], found[2])


def read_results(paths: list[Path] | None) -> tuple[list[ResultFile], list[str]]:
    """The results that are named, see `named`, or all of the store, and what was left out of it
    and why.

    Of the store, what cannot be read and files of other versions of clipperf are left out, which
    standard error says as well.

    Raises:
        ArtifactError: a named file cannot be read.
        UsageError: there are none.
    """
    from clipperf.system.results import named, stored
    from clipperf.system.store import home

    if paths:
        return named(*map(str, paths)), []
    found, left_out = stored()
    for line in left_out:
        say(line)
    if not found:
        raise UsageError(
            f"no results in {home() / 'results'}: measure something first, for example "
            f"clipperf profile, or name result files"
        )
    return found, left_out


def folder_to_deploy(path: Path | None, option: str) -> Path | None:
    """An absolute folder for towers; raises UsageError where no runtime could open them there."""
    from clipperf.system.targets import expanded

    if path is None:
        return None
    try:
        str(path).encode()
    except UnicodeEncodeError as exc:
        what = "the name is no UTF-8"
        if sys.getfilesystemencoding() != "utf-8":
            what = "this locale has no UTF-8 (PYTHONUTF8=1 or LC_ALL=C.UTF-8 changes that)"
        raise UsageError(
            f"{option} {path}: {what}, and runtimes cannot open files in there"
        ) from exc
    return expanded(path)


def prints_json(json: Path | None) -> bool:
    """Whether ``--json -`` asks for the result on standard output."""
    return json is not None and str(json) == "-"


def _file_of(json: Path | None) -> Path | None:
    """The file that --json names; None where it names none. Raises what `in_a_folder` does."""
    return None if json is None or prints_json(json) else in_a_folder(json, "--json")


@contextlib.contextmanager
def open_target(json: Path | None, kind: str) -> Iterator[Path]:
    """The result file that a command fills: what --json names, else a fresh one in the store.

    A file that is named is this command's alone, and stays as it is until there are rows; where it
    holds some, standard error says that they will be replaced. So it does where the rows so far
    are, if a signal ends the command.

    Raises:
        UsageError: it is a folder, in none that there is, or a path of which nothing can be told.
        StorageError: it cannot be written, or another command is writing it.
    """
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.results import alone, stamp, told_what_goes
    from clipperf.system.store import new_result_path
    from clipperf.system.targets import kind_of

    target = _file_of(json)
    named, target = target is not None, target or new_result_path(kind)
    if kind_of(target) == "folder":
        raise UsageError(f"--json {json} is a folder: name a file in it")
    with using(), alone(target, "--json") if named else contextlib.nullcontext():
        told_what_goes(target, "as soon as there are rows")
        before = stamp(target)
        try:
            yield target
        except (KeyboardInterrupt, SystemExit):
            if stamp(target) != before:
                say(f"rows measured so far: {target}")
            raise


def print_json(value: Any, write: Callable[..., None] = show) -> None:
    """Print records or plain values as JSON; `write` is `show` or `tell`."""
    from clipperf.serialize import to_json
    from clipperf.text import json_text

    write(json_text(to_json(value)), page=True)


def command_line() -> str:
    """The command as it was typed, for the result file."""
    import shlex

    return shlex.join(["clipperf", *sys.argv[1:]])


def in_a_folder(file: Path, option: str) -> Path:
    """The path of a file that an option names; a folder that is mistyped is not made for it.

    Raises:
        UsageError: its folder does not exist.
    """
    from clipperf.system.targets import expanded, kind_of, real

    path = expanded(file)
    if kind_of(path) == "nothing" and kind_of(folder := real(path).parent) == "nothing":
        raise UsageError(
            f"{option} {shown(file)}: there is no folder {shown(folder)}; make it, or name another"
        )
    return path


def refuse_to_replace_data(out: Path, tunings: bool = False) -> None:
    """What is made must not be written over measurements, nor over a tuning but where it is one.

    Raises:
        UsageError: --out is a file that holds such.
    """
    from clipperf.system.results import what_goes
    from clipperf.system.targets import expanded

    held = what_goes(expanded(out))
    if held is not None and held.rows and not (tunings and held.tuning):
        raise UsageError(f"--out {out} holds {held.words}: choose another name")


def print_tables(*tables: Table, write: Callable[[str], None] = show) -> None:
    """Print tables, as wide as the window, or whole where there is none.

    `write` is `show`, or `tell` where what they are about is done and lies elsewhere.
    """
    from rich.console import Console

    from clipperf.report.terminal import TEXT_WIDTH, rich_table

    # Into a file or a pipe there is no window to fit: wide tables stay whole as far as they can.
    fits_window = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if fits_window else TEXT_WIDTH)
    with console.capture() as printed:
        for table in tables:
            console.print(rich_table(table, console.width))
    write(printed.get().removesuffix("\n"))


def tell_lines(*lines: str) -> None:
    """Print lines about work that is done."""
    from clipperf.text import printable

    tell("\n".join(map(printable, lines)))
