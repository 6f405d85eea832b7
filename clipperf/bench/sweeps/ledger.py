"""What a sweep has on disk: a file for each group that is finished, and one for each memory row.

They are result files in the folder ``cells`` of the sweep's, named after what they are of and a key
of all that they depend on: cells, the keys of their artifacts, settings, the machine. A file of
that name is valid, whenever and by whichever command it was written; nothing else is looked at.
Once all of a plan is there, what is not of it goes to the folder ``earlier``, from where it comes
back for a plan that asks for it again: what lies in ``cells`` is the plan's.
Each is written whole or not at all, a group's when all of its cells are there, so that cells which
are compared always took turns with each other. Memory rows, which take turns with nobody, are kept
as soon as they are there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.bench.cost import Limits, Settings
from clipperf.bench.jobs import Prepared
from clipperf.bench.sweeps.cells import Unit
from clipperf.errors import ArtifactError, UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Ended, Environment, Measurement, ResultFile
from clipperf.system import files, store
from clipperf.system.reading import open_regular
from clipperf.system.targets import entries_of, kind_of
from clipperf.text import shown

MARK = "sweep-plan.toml"
"""The copy of the plan, by which a folder is known for a sweep's: where it begins with `HEAD`."""
HEAD = "# The plan of the results in this folder, as clipperf sweep has read it last.\n"
CELLS, EARLIER = "cells", "earlier"
NAME_CHARACTERS = 120
_KEY = re.compile(r"-[0-9a-f]{16}(-killed|-over-[0-9a-f]{8})?\.json$")


@dataclass(frozen=True)
class Ledger:
    """The folder of a sweep; `plan` is its plan's text."""

    folder: Path
    command: str = ""

    def begin(self, plan: str) -> None:
        """Make the folder, with the plan in it.

        Raises:
            UsageError: it is none, or holds something else.
            StorageError: it cannot be written.
        """
        self.check()
        files.write_text(self.folder / MARK, HEAD + plan.removeprefix(HEAD))
        files.check_writable(self.folder / CELLS / "any.json")

    def check(self) -> None:
        """Make sure that the folder is a sweep's, empty or still to be made; raises as `begin`."""
        kind = kind_of(self.folder)
        if kind not in ("nothing", "folder"):
            raise UsageError(f"--out {shown(self.folder)} is no folder: name another one")
        own = [] if kind == "nothing" else entries_of(self.folder)
        if own and not _is_new(own) and not _is_marked(self.folder / MARK):
            raise UsageError(
                f"--out {shown(self.folder)} holds something else than a sweep: name another folder"
            )

    # --- groups ----------------------------------------------------------------------------

    def path(self, unit: Unit, key: str, ended: Ended | None, limits: Limits) -> Path:
        """The file of a unit. One in which something was killed is never valid, one in which
        something went over its limits only as long as they are these."""
        suffix = f"-over-{files.digest_of(limits)[:8]}" if ended == "limit" else ""
        suffix = "-killed" if ended == "killed" else suffix
        return self.folder / CELLS / f"{_named(unit.id)}-{key}{suffix}.json"

    def find(self, unit: Unit, key: str, limits: Limits) -> ResultFile | None:
        """What is there of a unit and valid; None where it has to be measured."""
        for ended in (None, "limit"):
            found = self._read(self.path(unit, key, ended, limits))
            if found is not None:
                return found
        return None

    def holds(self, unit: Unit, key: str, limits: Limits) -> bool:
        """Whether `find` finds something; nothing is moved."""
        paths = [self.path(unit, key, ended, limits) for ended in (None, "limit")]
        return any(
            _whole(each) is not None
            for path in paths
            for each in (path, self.folder / EARLIER / path.name)
        )

    def holds_any(self, unit: Unit, env: Environment) -> bool:
        """Whether there is a whole file of a unit from a machine, whatever its key is."""
        cells = self.folder / CELLS
        own = entries_of(cells) if kind_of(cells) == "folder" else []
        mine = [
            _whole(path)
            for path in own
            if _KEY.sub("", path.name) == _named(unit.id) and not path.stem.endswith("-killed")
        ]
        return any(env.id in {e.id for e in each.environments} for each in mine if each)

    def _read(self, path: Path) -> ResultFile | None:
        """A file of cells, fetched back where it was set aside; None where there is none whole."""
        aside = self.folder / EARLIER / path.name
        if not path.exists() and aside.exists():
            with files.translated(path):
                aside.replace(path)
        return _whole(path)

    def keep_only(self, valid: Sequence[ResultFile]) -> None:
        """Set aside what is not of these.

        Raises:
            StorageError: the folder cannot be written.
        """
        names = {Path(result.path).name for result in valid}
        aside = self.folder / EARLIER
        for path in entries_of(self.folder / CELLS):
            if path.suffix == ".json" and path.name not in names and not path.name.startswith("."):
                with files.translated(path):
                    aside.mkdir(exist_ok=True)
                    path.replace(aside / path.name)

    def write(
        self, unit: Unit, key: str, ended: Ended | None, limits: Limits, result: ResultFile
    ) -> ResultFile:
        """Keep what came of a unit; what was killed of it before is replaced."""
        path = self.path(unit, key, ended, limits)
        store.write_result(path, result)
        if ended != "killed":
            self.path(unit, key, "killed", limits).unlink(missing_ok=True)
        return store.read_result(path)

    def begun(self, units: Sequence[Unit]) -> set[str]:
        """The ids of the units of which there is a file, valid or not."""
        cells = self.folder / CELLS
        own = entries_of(cells) if kind_of(cells) == "folder" else []
        names = {_KEY.sub("", path.name) for path in own}
        return {unit.id for unit in units if _named(unit.id) in names}

    # --- memory ----------------------------------------------------------------------------

    def keep_memory(
        self, row: Measurement, made: str, settings: Settings, env: Environment, spec: ModelSpec
    ) -> None:
        """Keep a memory row that went well."""
        result = new_result("profile", self.command, (env,), (spec,), measurements=(row,))
        store.write_result(self._memory_path(row.cell, made, settings, env), result)

    def memory(
        self, cell: Cell, made: str, settings: Settings, env: Environment
    ) -> ResultFile | None:
        """What is kept of a cell's memory, None where nothing is valid."""
        return self._read(self._memory_path(cell, made, settings, env))

    def _memory_path(self, cell: Cell, made: str, settings: Settings, env: Environment) -> Path:
        key = files.digest_of("memory", cell, made, settings.memory_runs, env.id)
        return self.folder / CELLS / f"memory-{_named(cell.label)}-{key}.json"


def _whole(path: Path) -> ResultFile | None:
    """The result file at a path; None where there is none, or it is damaged."""
    with contextlib.suppress(ArtifactError):
        return store.read_result(path)
    return None


def _is_new(own: Sequence[Path]) -> bool:
    """Whether nothing is there but what a command that was killed at once has left."""
    return all(path.name.startswith(".") for path in own)


def _is_marked(path: Path) -> bool:
    """Whether a file is a copy of a plan that a sweep has written."""
    try:
        with open_regular(path) as file:
            return file.read(len(HEAD)) == HEAD.encode()
    except (OSError, ValueError):
        return False


def _named(text: str) -> str:
    return files.safe_name(text)[:NAME_CHARACTERS]


def made_of(cell: Prepared, weights_id: str | None) -> str:
    """What a cell's engine is made from: its artifact's key, the weights, or why there is none."""
    if cell.error is not None:
        return f"not made: {cell.error}"
    return cell.request.key or f"weights {weights_id}"


def key_of(unit: Unit, made: Sequence[str], settings: Settings, env: Environment) -> str:
    """The key of a measured unit on a machine."""
    driven = unit.driven
    assert driven is not None
    paths = () if driven.files is None else driven.files.paths
    stamps = [(path, *_stamp(Path(path))) for path in paths]
    unlimited = {**vars(settings), "limits": None}
    return files.digest_of(
        "group", store.SCHEMA_VERSION, unit.cells, list(made), unlimited, driven.serving,
        driven.files, stamps, env.id,
    )  # fmt: skip


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def new_result(
    kind: str,
    command: str,
    environments: Sequence[Environment],
    specs: Sequence[ModelSpec],
    measurements: Sequence[Measurement] = (),
    notes: Sequence[str] = (),
) -> ResultFile:
    """A result file of now."""
    assert kind in ("profile", "eval")
    return ResultFile(
        schema_version=store.SCHEMA_VERSION,
        kind="profile" if kind == "profile" else "eval",
        command=command,
        created_utc=files.utc_now(),
        environments=tuple(environments),
        measurements=tuple(measurements),
        specs=tuple(specs),
        notes=tuple(notes),
    )
