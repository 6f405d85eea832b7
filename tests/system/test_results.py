"""Result files together: what of a store can be read, and what a file holds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import report_data
from conftest import Cli
from report_data import cell, timed

from clipperf.errors import ArtifactError, StorageError
from clipperf.nouns.result import ResultFile
from clipperf.serialize import to_json
from clipperf.system import results, store

GOOD = report_data.result([timed(cell(), [0.1] * 6)], schema_version=store.SCHEMA_VERSION)

BROKEN = {
    "empty": b"",
    "binary": bytes(range(256)),
    "half": b'{"schema_version": 2, "kind": "profile", "meas',
    "deep": b"[" * 100_000,
    "other": b'{"hello": "world"}',
    "digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"schema_version": 2, "kind": "\\udcff"}',
    "tuning": b'{"schema_version": 2, "kind": "tuning"}',
    "impossible": json.dumps(
        to_json(report_data.result([timed(cell(batch=0), [0.1])], schema_version=2))
    ).encode(),
}


def test_one_broken_file_stops_nobody(home: Path) -> None:
    folder = home / "results"
    folder.mkdir(parents=True)
    for name, content in BROKEN.items():
        (folder / f"{name}.json").write_bytes(content)
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "nowhere.json").symlink_to(home / "gone")
    (folder / "old.json").write_text('{"schema_version": 1, "kind": "profile"}')
    store.write_result(folder / "zz.json", GOOD)
    found, left_out = results.stored()
    assert [Path(result.path).name for result in found] == ["zz.json"]
    # Each is named, but for the one of another version, which is counted.
    for name in (*BROKEN, "folder", "pipe", "device", "nowhere"):
        (line,) = [line for line in left_out if f"{name}.json" in line]
        assert line.startswith("left out: ") and line.isprintable() and len(line) < 500
    assert left_out[-1] == "left out: 1 results of another version of clipperf"
    assert len(left_out) == len(BROKEN) + 4 + 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, None),
        ("", None),
        ('{"schema_version": 2, "measurements": [], "scores": []}', None),
        ('{"schema_version": 2, "measurements": [1, 2], "scores": [3]}', "3 rows"),
        ('{"schema_version": 1, "scores": [1, 2]}', "2 rows"),
        ('{"schema_version": 2, "trials": [1]}', "a tuning of 1 candidates"),
        ("my notes", "something else than results"),
        ("[1, 2]", "something else than results"),
    ],
)
def test_what_a_file_holds(content: str | None, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    held = results.what_goes(path)
    assert words == (None if held is None else held.words)


def test_all_that_are_no_result_files_are_named(tmp_path: Path) -> None:
    store.write_result(tmp_path / "good.json", GOOD)
    (tmp_path / "one.json").write_text('{"hello": 1}')
    (tmp_path / "two.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"no schema version: .*one\.json, .*two\.json$"):
        results.named(str(tmp_path))
    (tmp_path / "two.json").unlink()
    with pytest.raises(ArtifactError, match=r"one\.json is no result file of clipperf: it names"):
        results.named(str(tmp_path / "good.json"), str(tmp_path / "one.json"))
    (tmp_path / "one.json").unlink()
    assert [Path(r.path).name for r in results.named(str(tmp_path))] == ["good.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run_s": (0.1, math.nan)}, "nan seconds of a call"),
        ({"run_s": (-1.0,)}, "-1 seconds of a call"),
        ({"run_s": (math.inf,)}, "inf seconds of a call"),
        ({"run_s": (0.0,)}, "0 seconds of a call"),
        ({"phases_s": {"h2d": (0.0, -0.5)}}, "-0.5 seconds of h2d"),
        ({"load_s": math.nan}, "nan seconds of loading"),
        ({"first_run_s": -2.0}, "-2 seconds of the first run"),
    ],
)
def test_times_that_no_clock_shows_are_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    row = dataclasses.replace(timed(cell(batch=8), [0.1] * 6), **change)
    path = tmp_path / "wrong.json"
    store.write_result(path, report_data.result([row], schema_version=store.SCHEMA_VERSION))
    with pytest.raises(ArtifactError, match=rf"{said} \(.* image tower, .*, batch 8 on cpu\)"):
        store.read_result(path)


def test_a_file_is_one_commands_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with (
        results.alone(path, "--json"),
        pytest.raises(StorageError, match=r"another command is writing .*file\.json.*--json"),
        results.alone(path, "--json"),
    ):
        raise AssertionError("it was had twice")
    with results.alone(path, "--json"), results.alone(tmp_path / "other.json", "--json"):
        pass


# --- rows as they come ---------------------------------------------------------------------


def rows(number: int) -> ResultFile:
    return report_data.result([timed(cell(), [0.1] * 6)] * number, schema_version=2)


def test_a_file_holds_the_rows_so_far(home: Path) -> None:
    path = home / "rows.json"
    with results.filled(path) as write:
        for number in (1, 2, 3):
            write(rows(number))
            assert len(store.read_result(path).measurements) == number


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_a_stream_gets_one_document(tmp_path: Path, ending: type[BaseException] | None) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.suppress(KeyboardInterrupt), results.filled(pipe) as write:
        for number in (1, 2, 3):
            write(rows(number))
        if ending is not None:
            raise ending
    with open(reader) as file:  # a pipe holds as much
        assert len(json.load(file)["measurements"]) == 3


def test_standard_output_gets_one_document_of_a_command(cli: Cli) -> None:
    """Two rows, of failures, each of which would replace a file."""
    words = ("--tower", "image", "--runtime", "simulated", "--batch", "1,2", "--quick")
    done = cli("profile", "clipperf-sample", *words, "--json", "/dev/stdout")
    document, end = json.JSONDecoder().raw_decode(done.stdout)
    assert len(document["measurements"]) == 2
    assert "schema_version" not in done.stdout[end:]


def test_a_stream_without_rows_gets_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with results.filled(tmp_path / "pipe"):
        pass


def test_whose_json_it_is_that_a_command_would_replace(sample_artifact: Path) -> None:
    held = results.what_goes(sample_artifact / store.MANIFEST_NAME)
    assert held == results.Content(0, "something else than results")
