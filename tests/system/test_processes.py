"""RAM that is given back: less is resident, and what memory holds stays as it is."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from clipperf.system.processes import page_out, status_bytes

MIB = 2**20
SIZE = 64 * MIB


def test_a_files_pages_are_let_go_and_read_again(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    (tmp_path / "values").write_bytes(values.tobytes())
    mapped = np.memmap(tmp_path / "values", mode="r")
    before = status_bytes("RssFile")
    wanted = mapped.sum(dtype=np.int64)
    read = status_bytes("RssFile")
    if before is None or read is None or read - before < SIZE - 8 * MIB:
        pytest.skip("the kernel does not count the pages of such a file")
    # Neither its beginning nor its end lies on a page's.
    page_out(mapped.ctypes.data + 7, SIZE - 100)
    kept = status_bytes("RssFile") or 0
    if kept == read:
        pytest.skip("the kernel lets nothing go")
    assert kept - before < 8 * MIB
    assert mapped.sum(dtype=np.int64) == wanted
    assert np.array_equal(mapped, values)


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, 5 * mmap.PAGESIZE + 3, MIB])
def test_memory_of_no_file_keeps_its_values(size: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, size + 3, np.uint8)
    wanted = values.copy()
    page_out(values.ctypes.data + 3, size)
    assert np.array_equal(values, wanted)
