"""Values as hypothesis puts them together, and the files that hold them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import strategies as st

ODD = (
    *("", " ", "*", "..", "/etc/passwd", "a\0b", "\ufeff", "\u202e", "é" * 300, "=1+1", "'", '"'),
    *("nan", "inf", "-0", "1e999", "9" * 5000, "1_0", "0x1f", "5%", "101%", "a=b=c", "p99<1.0x"),
    *("fp32", "onnx", "image", "server", "sample", "http://", "https://[", "file:///etc/passwd"),
)
TEXTS = st.text(max_size=40) | st.sampled_from(ODD)
NUMBERS = (
    st.integers(-3, 70)
    | st.integers()
    | st.floats()
    | st.sampled_from((2**63, 2**64, -(2**63), 10**400, 1e308, -0.0))
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    NUMBERS | TEXTS | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, int):
        return hex(value) if abs(value) > 10**100 else str(value)
    return str(value)


def toml_of(tables: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """TOML files of tables."""

    def text(table: dict[str, Any]) -> bytes:
        lines = (f"{json.dumps(name)} = {_toml(value)}\n" for name, value in table.items())
        return "".join(lines).encode("utf-8", "surrogatepass")

    return tables.map(text)


def csv_of(header: list[str], cells: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """CSV files below a header that is at times another one."""

    def text(rows: list[list[str]], own: list[str], end: str) -> bytes:
        file = io.StringIO()
        csv.writer(file, lineterminator=end).writerows([own, *rows])
        return file.getvalue().encode("utf-8", "surrogatepass")

    width = len(header)
    rows = st.lists(st.lists(cells, min_size=width, max_size=width) | st.lists(cells), max_size=8)
    headers = st.just(header) | st.just(header) | st.lists(cells, max_size=4)
    return st.builds(text, rows, headers, st.sampled_from(("\n", "\r\n", "\r")))


def jsonl_of(name: str, cells: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON lines with a field of this name."""
    rows = st.fixed_dictionaries({name: cells | VALUES}, optional={"id": VALUES})

    def text(found: list[Any]) -> bytes:
        return "".join(f"{json.dumps(row)}\n" for row in found).encode()

    return st.lists(rows | VALUES, max_size=8).map(text)
