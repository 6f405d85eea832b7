"""A mapped file's RAM is given back while it is read, and its contents stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipperf.system.mapped import MappedFile
from clipperf.system.processes import reset_peak_rss, status_bytes

MIB = 2**20
SIZE = 64 * MIB


@pytest.fixture
def values(tmp_path: Path) -> np.ndarray:
    made = np.random.default_rng(0).integers(0, 256, SIZE + 5, np.uint8)
    (tmp_path / "values").write_bytes(made.tobytes())
    return made


def resident() -> int:
    found = status_bytes("RssFile")
    if found is None:
        pytest.skip("this system does not count the pages of files")
    return found


def test_what_was_read_is_let_go_and_read_again(tmp_path: Path, values: np.ndarray) -> None:
    mapped = MappedFile(tmp_path / "values")
    before = resident()
    assert np.array_equal(mapped.values, values)
    assert resident() - before > SIZE - 8 * MIB
    mapped.let_go()
    assert resident() - before < 8 * MIB
    assert np.array_equal(mapped.values, values)
    assert not mapped.values.flags.writeable


def test_a_reader_never_has_all_of_it(tmp_path: Path, values: np.ndarray) -> None:
    mapped = MappedFile(tmp_path / "values")
    before = resident()
    if not reset_peak_rss():
        pytest.skip("the kernel does not reset the peak")
    start = status_bytes("VmRSS") or 0
    with mapped.passing():
        total = 0
        for part in np.array_split(mapped.values, 256):
            for _ in range(8):  # slower than the pages come
                total += int(part.sum(dtype=np.int64))
    assert total == 8 * values.sum(dtype=np.int64)
    assert (status_bytes("VmHWM") or 0) - start < SIZE / 2
    assert resident() - before < 8 * MIB


def test_it_ends_with_what_reads_it(tmp_path: Path, values: np.ndarray) -> None:
    mapped = MappedFile(tmp_path / "values")
    with pytest.raises(KeyError), mapped.passing():
        raise KeyError("reader")
    part = mapped.values[-5:]
    del mapped
    assert np.array_equal(part, values[-5:])
