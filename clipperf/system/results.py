"""Result files together: all that a store holds, and who may replace one.

A command that measures holds its file (`alone`), says what is in it already (`told_what_goes`),
and replaces that with its first rows, never before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipperf.errors import ArtifactError, ClipperfError, StorageError, UsageError
from clipperf.nouns.result import ResultFile
from clipperf.system.files import check_writable, locked, read_json
from clipperf.system.reading import regular_bytes
from clipperf.system.store import (
    find_results,
    home,
    is_of_another_version,
    read_result,
    write_result,
)
from clipperf.system.targets import entries_of, expanded, is_stream, kind_of
from clipperf.system.terminal import say
from clipperf.system.upgraded import NO_RESULT
from clipperf.text import one_line, shown

ROWS = ("measurements", "scores", "crossed")


def stored() -> tuple[list[ResultFile], list[str]]:
    """The store's results, oldest first, and a line for whatever of them had to be left out."""
    found: list[ResultFile] = []
    left_out: list[str] = []
    others = 0
    for path in find_results():
        if regular_bytes(path) is None:  # reading a pipe or a device would never end
            left_out.append(f"left out: {path} is no regular file")
            continue
        try:
            found.append(read_result(path))
        except ClipperfError as exc:
            if is_of_another_version(path):
                others += 1
            else:
                left_out.append(f"left out: {one_line(str(exc))}")
    if others:
        left_out.append(f"left out: {others} results of another version of clipperf")
    return found, left_out


def named(*texts: str) -> list[ResultFile]:
    """The results that a user's texts name, each a file, all of a folder, or one of the store's.

    Raises:
        UsageError: there are none.
        ArtifactError: one of them cannot be read; all that are no result files are named.
    """
    found: list[ResultFile] = []
    others: list[Path] = []
    for path in (path for text in texts for path in _files(text)):
        try:
            found.append(read_result(path))
        except ArtifactError as exc:
            if not str(exc).endswith(NO_RESULT):
                raise
            others.append(path)
    if len(others) == 1:
        raise ArtifactError(f"{shown(others[0])} {NO_RESULT}")
    if others:
        names = ", ".join(map(shown, others))
        raise ArtifactError(f"no result files of clipperf, they name no schema version: {names}")
    return found


def _files(text: str) -> list[Path]:
    path = expanded(text)
    kind = kind_of(path)
    if kind == "nothing":
        kept = [found for found in find_results() if text in (found.name, found.stem)]
        if not kept:
            raise UsageError(
                f"{shown(text)}: there is no such file or folder, nor such a result in "
                f"{shown(home() / 'results')}: name what clipperf profile or eval wrote"
            )
        return kept[:1]
    if kind != "folder":
        return [path]
    files = [each for each in entries_of(path) if each.suffix == ".json"]
    if not files:
        raise UsageError(f"{shown(path)} holds no result files (.json): name another folder")
    return files


@dataclass(frozen=True)
class Content:
    """What a file holds now, in words: so many `rows`, 0 where it is no file of clipperf's."""

    rows: int
    words: str
    tuning: bool = False


def what_goes(path: Path) -> Content | None:
    """What is in a file, None where nothing is: no file, no regular one, none with content.

    Raises:
        UsageError: of a file at this path nothing can be told.
    """
    if kind_of(path) != "file" or not regular_bytes(path):
        return None
    alien = Content(0, "something else than results")
    try:
        data = read_json(path)
    except ArtifactError:
        return alien
    if not isinstance(data, dict) or "schema_version" not in data:
        return alien
    counts = {name: len(found) for name, found in data.items() if isinstance(found, list)}
    if not {*ROWS, "trials"} & counts.keys():
        return alien  # a manifest, a plan's sidecar
    rows, trials = sum(counts.get(name, 0) for name in ROWS), counts.get("trials", 0)
    if trials:
        return Content(trials, f"a tuning of {trials} candidates", tuning=True)
    return Content(rows, "1 row" if rows == 1 else f"{rows} rows") if rows else None


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells one content of a file from the next; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def told_what_goes(path: Path, when: str) -> None:
    """Say on standard error what a command is going to replace, and `when`."""
    held = what_goes(path)
    if held is not None:
        say(f"{path} holds {held.words}, to be replaced {when}")


@contextlib.contextmanager
def filled(path: Path) -> Iterator[Callable[[ResultFile], None]]:
    """Yield what writes a command's rows so far, after every row, so that a kill loses at most one.

    A stream, which keeps all that is written into it, gets them once: when the block ends.

    Raises:
        StorageError: the file cannot be written; checked before.
    """
    check_writable(path)
    stream, newest = is_stream(path), None

    def write(result: ResultFile) -> None:
        nonlocal newest
        newest = result
        if not stream:
            write_result(path, result)

    try:
        yield write
    finally:
        if stream and newest is not None:
            write_result(path, newest)


@contextlib.contextmanager
def alone(path: Path, option: str) -> Iterator[None]:
    """Be the only command that writes a file; the kernel frees it when the process dies.

    `option` named it. Pipes and devices are nobody's.

    Raises:
        UsageError: of a file at this path nothing can be told.
        StorageError: another command is writing it, or its folder cannot be written.
    """

    def refuse() -> None:
        raise StorageError(
            f"another command is writing {path}: wait for it, or name another file with {option}"
        )

    if kind_of(path) in ("folder", "other"):
        yield
        return
    with locked(path, 0.0, refuse):
        yield
