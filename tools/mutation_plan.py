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
    Subject(("clipperf/drift.py",), ("tests/test_drift.py",)),
    Subject(
        ("clipperf/evals/outcome.py", "clipperf/evals/resampling.py"),
        ("tests/evals/test_outcome.py",),
    ),
    Subject(("clipperf/evals/verdicts.py",), ("tests/evals/test_verdicts.py",)),
    Subject(
        ("clipperf/report/sizing/*.py",),
        (
            "tests/report/test_sizing.py",
            "tests/report/test_sizing_solve.py",
            "tests/report/test_sizing_packing.py",
            "tests/report/test_sizing_queueing.py",
            "tests/report/test_sizing_targets.py",
            "tests/report/test_sizing_assumed.py",
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
    Subject(("clipperf/inputs/decode.py",), ("tests/inputs/test_decode.py",)),
    Subject(
        ("clipperf/inputs/tokenize.py",),
        ("tests/inputs/test_tokenize_rows.py",),
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


EQUIVALENT = (
    Equivalent(
        "clipperf/nouns/variant.py",
        "return self.activations.bits <= 8",
        "constant",
        "no kind of number has nine bits",
    ),
    Equivalent(
        "clipperf/nouns/variant.py",
        "return self.weights.bits <= 8",
        "constant",
        "no kind of number has nine bits",
    ),
    Equivalent(
        "clipperf/drift.py",
        "ours, theirs = _without_broken(found), _without_broken(reference)",
        "order",
        "cosines and absolute differences are the same either way",
    ),
    Equivalent(
        "clipperf/drift.py",
        'cosines=np.einsum("ij,ij->i", _unit(ours), _unit(theirs)),',
        "arguments",
        "a cosine is the same either way",
        after="_unit(theirs), _unit(ours)",
    ),
    Equivalent(
        "clipperf/drift.py",
        "unit: np.ndarray = rows / np.where(norms > 0, norms, 1)",
        "constant",
        "zeros are zeros whatever divides them",
        after="2",
    ),
    Equivalent(
        "clipperf/report/sizing/notes.py",
        "if len({(o.cell.runtime, o.cell.precision) for o in plan.towers}) > 1:",
        "order",
        "different pairs are only counted",
    ),
    Equivalent(
        "clipperf/report/sizing/solve.py",
        "replicas = sum(o.replicas or 0 for o in plan.towers)",
        "constant",
        "options that pass have replicas; the 0 is there for the type",
    ),
    Equivalent(
        "clipperf/report/records.py",
        'blank = Measurement(cell, "time", "ok", env_id)',
        "arguments",
        "only the fields that nothing is said of are read",
        after="Measurement(cell, 'time', env_id, 'ok')",
    ),
    Equivalent(
        "clipperf/report/records.py",
        'blank = Measurement(cell, "time", "ok", env_id)',
        "string",
        "only the fields that nothing is said of are read",
    ),
    Equivalent(
        "clipperf/report/pairs.py",
        "turns = [m for m in peers if m.cell == wanted != time.cell and took_turns(time, m)]",
        "arguments",
        "turns are taken by both alike",
    ),
    Equivalent(
        "clipperf/inputs/preprocess_spec.py",
        "return (short, long) if width <= height else (long, short)",
        "comparison",
        "both sides of a square image are the same",
        after="width < height",
    ),
    Equivalent(
        "clipperf/inputs/preprocess.py",
        "if image.size == (spec.width_px, spec.height_px):",
        "order",
        "an image that covers the frame has its sides turned only where both are equal",
    ),
    Equivalent(
        "clipperf/inputs/preprocess.py",
        'if image.mode == "P":',
        "string",
        "Pillow takes the palette over as well",
    ),
    Equivalent(
        "clipperf/inputs/preprocess_fast.py",
        "margin = math.ceil(reach * max(1.0, image.height / height)) + 1",
        "constant",
        "a larger margin only costs time",
        after="2",
    ),
    Equivalent(
        "clipperf/inputs/preprocess_fast.py",
        "margin = math.ceil(reach * max(1.0, image.height / height)) + 1",
        "arithmetic",
        "a larger margin only costs time",
        after="image.height * height",
    ),
    Equivalent(
        "clipperf/export/judge/drift.py",
        "return np.zeros((len(array), 1), np.float32)",
        "constant",
        "nobody reads what the recorder returns",
        after="2",
    ),
    Equivalent(
        "clipperf/export/judge/search.py",
        "queue = [(0.0, 0, tuple(layers))] if layers else []",
        "order",
        "both are zero",
        after="(0, 0.0, tuple(layers))",
    ),
    Equivalent(
        "clipperf/inputs/tokenize.py",
        'CONTRACTIONS = ("\'s", "\'t", "\'re", "\'ve", "\'m", "\'ll", "\'d")',
        "order",
        "none begins as another does",
    ),
    Equivalent(
        "clipperf/inputs/tokenize.py",
        'for name in ("padding_side", "truncation_side"):',
        "order",
        "where both are wrong either may be named",
    ),
    Equivalent(
        "clipperf/inputs/tokenize.py",
        'needed = {"clip": ("sot_id", "eot_id"), "clips": ("sot_id", "eot_id", "cls_id")}',
        "order",
        "names are only looked for in them",
    ),
)
