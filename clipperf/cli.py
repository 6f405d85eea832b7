"""The command line: puts the commands of `commands/` together."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from clipperf.commands import (
    compare,
    doctor,
    embed,
    evaluate,
    export,
    inspect,
    models,
    overlap,
    profile,
    report,
    results,
    size,
    store,
    sweep,
    tune,
)
from clipperf.commands.ray_options import NAME as RAY
from clipperf.commands.ray_options import advice, misplaced, with_address
from clipperf.errors import UsageError

COMMANDS: dict[str, ModuleType] = {
    "models": models,
    "export": export,
    "profile": profile,
    "eval": evaluate,
    "sweep": sweep,
    "tune": tune,
    "embed": embed,
    "inspect": inspect,
    "doctor": doctor,
    "report": report,
    "results": results,
    "compare": compare,
    "size": size,
    "overlap": overlap,
    "store": store,
}

EXIT_CODES = (
    "Exit codes: 0 ok, 1 something failed (failed cells are rows), 2 usage, 3 embedded but for "
    "corrupt items."
)

app = typer.Typer(
    name="clipperf",
    help="Export CLIP towers to ONNX and TensorRT, measure what they cost, check what accuracy "
    f"they keep, and size the deployment. {EXIT_CODES}",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _examples(*lines: str) -> str:
    # Each line is a paragraph of its own: typer would fold them into one.
    return "Examples:\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


class _Command(TyperCommand):
    """One that takes no empty path: it would be the current folder, which nobody has named.

    Where it has ``--ray``, that may stand without an address.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if any(RAY in param.opts for param in self.params):
            ctx.meta[RAY] = misplaced(args)
            args = with_address(args)
        given = list(args)
        with _advising(ctx):
            rest = super().parse_args(ctx, args)
        raw, _, _ = self.make_parser(ctx).parse_args(given)
        for param in self.params:
            typed, made = raw.get(param.name or ""), ctx.params.get(param.name or "")
            several = isinstance(made, list | tuple)
            pairs = zip(typed or (), made or (), strict=False) if several else [(typed, made)]
            if any(text == "" and isinstance(path, Path) for text, path in pairs):
                raise UsageError(f"{param.opts[0]} is empty: name a file or folder")
        return rest

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _advising(ctx):
            return super().invoke(ctx)


TOO_MANY = "unexpected extra argument"
ABSENT = rf"{TOO_MANY}|does not exist|there is no such|unknown model|no dataset at"
"""What is said of a plan, a model or a dataset that is not there, or is one too many."""


@contextlib.contextmanager
def _advising(ctx: typer.Context) -> Iterator[None]:
    """Where a word behind ``--ray`` names nothing, its error says what an address looks like."""
    word = ctx.meta.get(RAY)
    if word and os.path.exists(word):  # noqa: PTH110 - for which no name is too long
        word = None
    # UsageError of the click that typer brings.
    parser_error: Any = typer.BadParameter.__base__
    try:
        yield
    except (parser_error, UsageError) as exc:
        said = str(exc) if isinstance(exc, UsageError) else exc.message.rstrip(".")
        named = word and re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", said)
        # What is too many may be the plan, behind that word.
        if not word or not (TOO_MANY in said or (named and re.search(ABSENT, said))):
            raise
        raise UsageError(f"{said}; {advice(word)}") from exc


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which CLIP, in which runtime and precision, fits this machine and keeps its accuracy?"""
    if version:
        from clipperf.system.terminal import show
        from clipperf.version import __version__

        show(f"clipperf {__version__}")
        raise typer.Exit
    del context


def _add(name: str, module: ModuleType) -> None:
    """Add a command, or a group of them, which a module with `COMMANDS` of its own is."""
    if not hasattr(module, "COMMANDS"):
        app.command(name, cls=_Command, epilog=_examples(*module.EXAMPLES))(module.command)
        return
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for part, (function, examples) in module.COMMANDS.items():
        group.command(part, cls=_Command, epilog=_examples(*examples))(function)
    app.add_typer(group, name=name, help=module.HELP, epilog=_examples(*module.EXAMPLES))


for _name, _module in COMMANDS.items():
    _add(_name, _module)
