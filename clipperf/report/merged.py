"""Result files of several machines or runs as one, each row with its environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from clipperf.errors import UsageError
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.report.records import in_order
from clipperf.text import shown


def merged(results: Sequence[ResultFile], command: str) -> ResultFile:
    """All rows of the files, those of older files first, so that the newest count as before.

    Groups of cells that took turns stay apart: of each file they get a number before their name.
    The notes say where the rows are from. `created_utc` is that of the newest file.

    Raises:
        UsageError: there are less than two files, two of them are the same, nothing is in them,
            or one environment or model is described in two ways.
    """
    if len(results) < 2:
        raise UsageError("one file cannot be merged: name at least two")
    bare = [dataclasses.replace(result, path="") for result in results]
    for place, result in enumerate(bare):
        if result in bare[:place]:
            twin = results[bare.index(result)].path
            raise UsageError(
                f"{shown(results[place].path)} holds the same as {shown(twin)}: name it once"
            )
    ordered = in_order(results)
    environments: dict[str, Environment] = {}
    specs: dict[str, ModelSpec] = {}
    for result in ordered:
        for environment in result.environments:
            _put(environments, environment, result, "environment")
        for spec in result.specs:
            _put(specs, spec, result, "model")
    newest = ordered[-1]
    return ResultFile(
        schema_version=newest.schema_version,
        kind="eval" if all(r.kind == "eval" for r in ordered) else "profile",
        command=command,
        created_utc=newest.created_utc,
        environments=tuple(environments.values()),
        measurements=tuple(
            _renamed(m, number) for number, r in enumerate(ordered, 1) for m in r.measurements
        ),
        scores=tuple(score for r in ordered for score in r.scores),
        crossed=tuple(crossed for r in ordered for crossed in r.crossed),
        specs=tuple(specs.values()),
        notes=tuple(
            dict.fromkeys(
                note for r in ordered for note in (f"{r.created_utc}: {r.command}", *r.notes)
            )
        ),
    )


def _put(known: dict, found: Environment | ModelSpec, result: ResultFile, what: str) -> None:
    """Note a description under its id; when it was made is no part of it."""
    before = known.get(found.id)
    if before is None:
        known[found.id] = found
        return
    if isinstance(found, Environment):
        before = dataclasses.replace(before, created_utc=found.created_utc)
    if before != found:
        raise UsageError(
            f"{shown(result.path)} describes the {what} {shown(found.id)} in another way than a "
            f"file before it: these files are not of one clipperf"
        )


def _renamed(measurement: Measurement, number: int) -> Measurement:
    if measurement.group is None:
        return measurement
    return dataclasses.replace(measurement, group=f"{number}/{measurement.group}")
