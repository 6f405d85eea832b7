"""What is said of errors of what is tried once more only on request."""

from __future__ import annotations

import pytest

from clipperf.bench.retries import HOW, kept
from clipperf.errors import (
    ClipperfError,
    EngineError,
    ExportError,
    MissingDependencyError,
    StorageError,
    UnsupportedError,
    UsageError,
)


@pytest.mark.parametrize("kind", [ExportError, EngineError])
def test_what_may_go_well_another_time_says_how_to_try(kind: type[ClipperfError]) -> None:
    exc = kind("no such operator")
    found = kept(exc)
    assert str(found) == f"no such operator; {HOW}" and found.__cause__ is exc


@pytest.mark.parametrize("kind", [
    UsageError, StorageError, MissingDependencyError, UnsupportedError,
])  # fmt: skip
def test_what_a_repeat_does_not_help_stays_as_it_is(kind: type[ClipperfError]) -> None:
    exc = kind("install it")
    assert kept(exc) is exc
