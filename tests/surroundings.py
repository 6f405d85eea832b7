"""Odd surroundings of a command: a clock that goes backwards, locales without UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PLAIN = {"LC_ALL": "C", "LANG": "C"}
"""A locale in which Python takes names for UTF-8 all the same."""

OLD = {**PLAIN, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""One in which it takes them for ASCII."""

BACKWARDS = """
import datetime, time
_begun, _asked = time.time(), [0]
def _back():
    _asked[0] += 1
    return _begun - 3600 * _asked[0]
class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(_back(), tz)
time.time, time.time_ns = _back, lambda: int(_back() * 1e9)
datetime.datetime = _Datetime
"""
"""Whoever asks for the time is told one that is an hour before the last one."""


def clock_backwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every process that starts from now on live with such a clock; it lies in the folder."""
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(BACKWARDS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder / "clock"), str(ROOT))))
