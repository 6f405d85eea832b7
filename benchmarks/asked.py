"""What the scripts beside this one take on the command line, and how they say what is wrong."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from clipperf.errors import ClipperfError


def run(main: Callable[[], object]) -> None:
    """Run a script; what clipperf refuses is one line on standard error, and its exit code."""
    try:
        main()
    except ClipperfError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def counts(text: str) -> list[int]:
    """Whole numbers from 1 on, with commas between them."""
    return [count(part) for part in text.split(",")]


def seconds(text: str) -> float:
    """A time above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found


def model(text: str) -> str:
    """The name of a model that there is."""
    from clipperf.models import sample, zoo  # here, for scripts that measure what others import

    try:
        zoo.resolve(text, None if text == sample.NAME else "random")
    except ClipperfError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def among(known: Collection[str]) -> Callable[[str], list[str]]:
    """Names of which each is known, with commas between them."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: choose from {', '.join(known)}")
        return found

    return names


def file(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file at {text!r}")
    return Path(text)


def folder(text: str) -> Path:
    """A folder that is there."""
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder at {text!r}")
    return Path(text)
