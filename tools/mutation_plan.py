"""What `mutation` changes, which tests should notice, and which changes change nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Modules, and the tests beside them: `near` run first, `far` where those notice nothing."""

    paths: tuple[str, ...]
    near: tuple[str, ...]
    far: tuple[str, ...] = ()


SUBJECTS = (
    Subject(("clipperf/stats.py",), ("tests/test_stats.py",)),
    Subject(("clipperf/units.py",), ("tests/test_units.py",)),
    Subject(
        ("clipperf/nouns/variant.py",),
        ("tests/nouns/test_variant.py",),
        ("tests/report/test_tables.py",),
    ),
    Subject(
        ("clipperf/evals/metric.py", "clipperf/evals/metrics/*.py"),
        ("tests/evals/test_metrics.py",),
    ),
    Subject(("clipperf/evals/ranks.py",), ("tests/evals/test_ranks.py",)),
    Subject(("clipperf/evals/drift.py",), ("tests/evals/test_drift.py",)),
    Subject(("clipperf/evals/outcome.py",), ("tests/evals/test_outcome.py",)),
    Subject(("clipperf/evals/verdicts.py",), ("tests/evals/test_verdicts.py",)),
    Subject(
        ("clipperf/report/sizing/*.py",),
        (
            "tests/report/test_sizing.py",
            "tests/report/test_sizing_solve.py",
            "tests/report/test_sizing_packing.py",
        ),
        ("tests/test_snapshots.py",),
    ),
    Subject(
        ("clipperf/report/records.py", "clipperf/report/pairs.py"),
        (
            "tests/report/test_records.py",
            "tests/report/test_pairs_turns.py",
            "tests/report/test_tables.py",
        ),
    ),
    Subject(("clipperf/bench/plan.py",), ("tests/bench/test_plan.py",)),
    Subject(("clipperf/bench/cost.py",), ("tests/bench/test_cost.py",)),
    Subject(("clipperf/system/files.py",), ("tests/system/test_files.py",)),
    Subject(
        ("clipperf/inputs/preprocess*.py",),
        (
            "tests/inputs/test_preprocess_spec.py",
            "tests/inputs/test_preprocess_by_hand.py",
            "tests/inputs/test_preprocess_fast.py",
        ),
    ),
    Subject(
        ("clipperf/inputs/tokenize.py",),
        ("tests/inputs/test_tokenize_rows.py",),
        ("tests/inputs/test_tokenize.py",),
    ),
    Subject(
        tuple(f"clipperf/export/judge/{name}.py" for name in ("drift", "parity", "search")),
        tuple(f"tests/export/test_judge_{name}.py" for name in ("search", "parity", "drift")),
    ),
)


@dataclass(frozen=True)
class Equivalent:
    """Changes of one line by one operator that change nothing: all, or those whose `after` holds
    `after`."""

    path: str
    text: str
    operator: str
    why: str
    after: str = ""


EQUIVALENT: tuple[Equivalent, ...] = ()
