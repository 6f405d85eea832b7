"""Dockerfiles, read as Docker reads them."""

from __future__ import annotations

import fnmatch
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent

Instruction = tuple[str, str]


def instructions(name: str) -> list[Instruction]:
    """The instructions of a file as (name, arguments), continuations joined, comments dropped."""
    text = (ROOT / name).read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (n, " ".join(rest.split()))
        for n, _, rest in (x.partition(" ") for x in joined.splitlines())
    ]


def stages(name: str) -> list[list[Instruction]]:
    """The instructions of each stage, FROM first."""
    found: list[list[Instruction]] = []
    for instruction, rest in instructions(name):
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, rest))
    return found


def commands(stage: list[Instruction]) -> list[list[str]]:
    """Every shell command of a stage's RUN instructions, as words."""
    runs = [rest for name, rest in stage if name == "RUN"]
    return [shlex.split(part) for run in runs for part in run.split("&&")]


def copied(stage: list[Instruction]) -> list[tuple[list[str], str]]:
    """What each COPY takes from the build's context, and where to."""
    words = [shlex.split(rest) for name, rest in stage if name == "COPY"]
    return [(line[:-1], line[-1]) for line in words if not line[0].startswith("--from")]


def is_sent(path: str) -> bool:
    """Whether a file of the repository is part of the build's context."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and fnmatch.fnmatch(path, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent
