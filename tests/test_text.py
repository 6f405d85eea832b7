"""Text that can be shown anywhere."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from clipperf.text import CUT, UNSHOWN, json_text, number_of, one_line, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ≈ 12 °C, 図", "plain, ≈ 12 °C, 図"),
        ("a\x1b[31mb\x07", r"a\x1b[31mb\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u2066c\u2069", r"a\u202eb\u2066c\u2069"),
        ("no\xa0break", "no break"),
        ("byte \udcff", r"byte \udcff"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable() and shown.encode()


def test_one_is_not_several() -> None:
    assert [number_of(n, "shard") for n in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]


def test_one_line_of_many() -> None:
    stack = "the worker died\n" + "\n".join(f"  File {i}, in run" for i in range(12))
    line = one_line(stack)
    assert line.startswith("the worker died | File 0, in run | File 1, in run")
    assert line.endswith("File 11, in run") and line.isprintable()
    assert one_line("\n\n a \r\n\n b\u2028c") == "a | b | c"
    assert one_line("") == ""


def test_no_line_is_longer_than_allowed() -> None:
    assert shortened("x" * 30, 30) == "x" * 30
    cut = shortened("a" * 20 + "b" * 20, 20)
    assert cut == "a" * (20 - 6 - len(CUT)) + CUT + "b" * 6
    for text in ("x" * 4_000_000, "\x1b" * 4_000_000, "a\n" * 2_000_000):
        assert len(one_line(text, 200)) <= 200


def test_json_reads_back_exactly_and_shows_nothing_else() -> None:
    odd = "".join(map(chr, (*range(0x20), 0x7F, 0x9B, 0x202E, 0x2066, 0xFEFF, 0xDCFF, 0xE0001)))
    value = {odd: [odd, 1.5, None, "≈ 図"]}
    text = json_text(value)
    assert json.loads(text) == value
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "≈ 図" in text and text.encode()


def test_no_control_character_is_forgotten() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cs") or (0x202A <= code <= 0x202E):
            assert code < 0x20 or UNSHOWN.match(character), hex(code)
