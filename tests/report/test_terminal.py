"""Lines of prose below a table, on terminals of any width."""

from __future__ import annotations

import io

import pytest

from clipperf.report.table import plain_table
from clipperf.report.terminal import rich_table

PATH = "/data/photographs/of-a-very-long-name/that-does-not-fit/into-one-line/red/broken.png"


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_a_path_that_is_longer_than_a_line_is_whole(width: int) -> None:
    from rich.console import Console

    table = plain_table(
        "Images", ("n",), (("1",),), caveats=(f"left out: {PATH} is not a readable image",)
    )
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(rich_table(table, width))
    lines = buffer.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert f"leftout:{PATH}isnotareadableimage" in "".join("".join(lines).split())
