"""`clipperf compare`: what a change did to cost and accuracy, and whether that may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.commands.options import Json, pixel_dtypes, print_json, print_tables
from clipperf.errors import UsageError
from clipperf.system.terminal import show
from clipperf.text import printable, quoted

if TYPE_CHECKING:
    from clipperf.report.compare.comparison import Comparison
    from clipperf.report.compare.match import Between, Setup

EXAMPLES = (
    "clipperf compare before.json after.json",
    'clipperf compare before.json after.json --fail-if "throughput<0.95" --fail-if "ram>1.1"',
    "clipperf compare before/ after/ --fail-if 'accuracy<-0.5pp' --format markdown",
    "clipperf compare profile.json --between torch:fp32 onnx:fp32 --fail-if 'throughput<1'",
)

MARKDOWN = ("markdown", "md")
FORMATS = ("text", *MARKDOWN)
RESULTS = "A result file, a folder of them, or the name of one in the store."


def command(
    a: Annotated[str, typer.Argument(metavar="A", help=f"What was before. {RESULTS}")],
    b: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="B", help="What is now, likewise; A again where --between is given."
        ),
    ] = None,
    fail_if: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--fail-if",
            metavar="RULE",
            help="Exit with 1 where it is so: METRIC<BOUND or METRIC>BOUND. The bound is a ratio "
            "of B over A for throughput, speedup (vs PyTorch), p50, p90, p99, ram, vram, disk and "
            'load, and points for accuracy: "throughput<0.95", "accuracy<-0.5pp". May repeat.',
        ),
    ] = None,
    by_point: Annotated[
        bool,
        typer.Option(
            "--by-point",
            help="A rule fails where the value is beyond its bound; default: the whole interval, "
            "where there is one.",
        ),
    ] = False,
    between: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045
        typer.Option(
            "--between",
            metavar="SETUP SETUP",
            help="Compare B's rows of the second with A's of the first; RUNTIME:PRECISION, such "
            "as onnx:fp32 onnx:int8. In one file, as they took turns, in pairs.",
        ),
    ] = None,
    fmt: Annotated[
        str, typer.Option("--format", help="text, or markdown for a pull request.")
    ] = "text",
    json: Json = False,
) -> None:
    """Compare two results row by row, as ratios with intervals, and fail where rules say so."""
    from clipperf.report.compare.comparison import compare, plain
    from clipperf.report.compare.rules import parse_rule
    from clipperf.report.compare.tables import markdown
    from clipperf.report.document import plain_json
    from clipperf.system.results import named

    rules = [parse_rule(text) for text in fail_if or ()]
    if fmt not in FORMATS:
        raise UsageError(f"--format {quoted(fmt)}: choose text or markdown, or --json")
    if json and fmt in MARKDOWN:
        raise UsageError("--json and --format are two ways to print: leave one out")
    if b is None and between is None:
        raise UsageError("B is missing: name a second result, or two setups with --between")
    setups = None if between is None else _setups(between)
    first = named(a)
    second = first if b is None else named(b)
    found = compare(first, second, rules, between=setups, by_point=by_point)
    if json:
        print_json(plain_json(plain(found)))
    elif fmt in MARKDOWN:
        show(markdown(found), page=True)
    else:
        _print(found)
    raise typer.Exit(1 if found.failed else 0)


def _print(found: Comparison) -> None:
    """Print it for a terminal: what to know first, then the tables."""
    from clipperf.report.compare.tables import left_over, rules, sources, tables

    head = sources(found)
    head += [f"! {line}" for line in found.warnings]
    head += rules(found)
    show("\n".join(map(printable, head)) + "\n")
    print_tables(*tables(found))
    if over := left_over(found):
        show("\n" + "\n".join(map(printable, over)))


def _setups(texts: tuple[str, str]) -> Between:
    first, second = map(_setup, texts)
    return first, second


def _setup(text: str) -> Setup:
    """RUNTIME:PRECISION, and after another colon what images are fed as; raises UsageError."""
    from clipperf.nouns.variant import BASELINE_PRECISION, FLOATS, SIDES
    from clipperf.report.compare.match import Setup

    runtime, precision, taken, *more = *text.split(":"), *[""] * 2
    if any(more) or not runtime:
        raise UsageError(
            f"--between {quoted(text)}: give RUNTIME:PRECISION, such as onnx:int8, or "
            "onnx:int8:uint8 where images are fed as bytes"
        )
    (pixels,) = pixel_dtypes(taken or FLOATS[0], SIDES, several=False)
    return Setup(runtime, precision or BASELINE_PRECISION, pixels)
