"""The one reader of JSON: what is no figure of anything is refused before anybody uses it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipperf.errors import ArtifactError
from clipperf.serialize import MOST_LEVELS, parse_json
from clipperf.system.files import MOST_JSON_BYTES, read_json


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1',
        "nothing",
        "9" * 30,
        "-" + "9" * 22,
        str(2**64),
        "9" * 5000,
        f'{{"a": {"9" * 100_000}}}',
        "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1),
        "[" * 900 + "]" * 900,
        '{"a":' * 3000 + "1" + "}" * 3000,
        "[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_no_file_holds_is_refused(text: str | bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^a.json: not JSON that can be read: .{1,200}$"):
        parse_json(text, "a.json")


def test_what_files_hold_is_read() -> None:
    deepest = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert str(parse_json(deepest, "a")) == deepest
    assert parse_json(str(2**64 - 1), "a") == 2**64 - 1
    assert parse_json(str(-(2**63)), "a") == -(2**63)
    assert parse_json('{"a": [1, 2.5, true, null, "b"]}', "a") == {"a": [1, 2.5, True, None, "b"]}


def test_files_of_others_may_hold_larger_numbers() -> None:
    unlimited = '{"model_max_length": 1000000000000000019884624838656, "n": 512}'
    with pytest.raises(ArtifactError, match="a whole number of 31 digits"):
        parse_json(unlimited, "a")
    assert parse_json(unlimited, "a", large=True) == {"model_max_length": 1e30, "n": 512}
    assert parse_json("9" * 5000, "a", large=True) == float("inf")


def test_only_small_regular_files_are_read(tmp_path: Path) -> None:
    pipe, large, folder = tmp_path / "pipe", tmp_path / "large", tmp_path / "folder"
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
        with pytest.raises(ArtifactError, match="not a regular file"):
            read_json(pipe)  # nobody writes to it
        (tmp_path / "zeros").symlink_to("/dev/zero")
        with pytest.raises(ArtifactError, match="not a regular file"):
            read_json(tmp_path / "zeros")
    with large.open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)  # takes no space
    with pytest.raises(ArtifactError, match=r"the limit is 256\.0 MiB"):
        read_json(large)
    folder.mkdir()
    for path in (folder, tmp_path / "a\0b"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_json(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_json(tmp_path / "none.json")
