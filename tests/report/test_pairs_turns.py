"""Which passes took turns, and the ratio of their blocks."""

from __future__ import annotations

import dataclasses
import math

import pytest
from report_data import cell, memory, timed

from clipperf.nouns.result import Measurement
from clipperf.report.pairs import (
    SETUP,
    alike,
    baseline_of,
    block_ratio,
    full_precision,
    is_baseline,
    took_turns,
    torch_at,
    usable_samples,
)

ONNX = timed(cell(runtime="onnx", precision="int8", input="uint8"), [0.1] * 6)
TORCH = timed(cell(), [0.2] * 6)
TORCH_INT8 = timed(cell(precision="int8"), [0.4] * 6)


def test_rivals_differ_in_how_a_tower_is_run() -> None:
    assert SETUP == ("runtime", "precision", "input")
    assert alike(ONNX.cell, *SETUP) == alike(TORCH.cell, *SETUP)
    assert alike(cell(batch=3), "model_id", "side", "runtime", "precision", "device")[:2] == (3, 2)
    fields = [field.name for field in dataclasses.fields(ONNX.cell)]
    assert alike(ONNX.cell, *fields) == ()
    with pytest.raises(ValueError, match=r"no field (stream or turn|turn or stream)"):
        alike(ONNX.cell, "stream", "turn", "batch")


def test_the_baseline() -> None:
    assert is_baseline(cell()) and full_precision(cell())
    for other in (
        cell(runtime="onnx"),
        cell(precision="fp16"),
        cell(precision="of-a-plugin"),
        cell(input="uint8"),
    ):
        assert not is_baseline(other)
    assert full_precision(cell(runtime="onnx", input="uint8"))
    assert not full_precision(cell(precision="tf32"))
    assert not full_precision(cell(precision="of-a-plugin"))


@pytest.mark.parametrize("wrong", [0.0, -0.1, math.nan, math.inf])
def test_one_impossible_sample_spoils_all(wrong: float) -> None:
    assert usable_samples(timed(cell(), [0.1, wrong])) == ()


def test_samples_of_a_pass_that_went_well() -> None:
    assert usable_samples(TORCH) == (0.2,) * 6
    assert usable_samples(timed(cell(), [1e-9])) == (1e-9,)
    assert usable_samples(dataclasses.replace(TORCH, status="failed")) == ()
    assert usable_samples(None) == ()


def test_turns_are_taken_in_a_group_by_passes_that_went_well() -> None:
    assert took_turns(ONNX, TORCH) is True
    others: list[dict[str, object]] = [
        {"group": None},
        {"group": "other"},
        {"kind": "memory"},
        {"status": "failed"},
        {"run_s": ()},
    ]
    for changed in others:
        for a, b in ((ONNX, TORCH), (TORCH, ONNX)):
            odd = dataclasses.replace(b, **changed)
            assert took_turns(a, odd) is False
            assert took_turns(odd, a) is False
            assert took_turns(odd, odd) is ("group" in changed and changed["group"] is not None)


def test_the_baseline_is_pytorch_fp32_else_pytorch_in_the_same_precision() -> None:
    peers = [ONNX, TORCH, TORCH_INT8, memory(TORCH.cell, 100)]
    assert baseline_of(ONNX, peers) is TORCH
    assert baseline_of(ONNX, [ONNX, TORCH_INT8]) is TORCH_INT8
    assert baseline_of(ONNX, [ONNX]) is None
    assert baseline_of(TORCH_INT8, peers) is TORCH
    assert baseline_of(TORCH, peers) is None
    assert baseline_of(TORCH_INT8, [TORCH_INT8]) is None, "not its own"


def test_of_several_the_last_counts() -> None:
    again = timed(TORCH.cell, [0.3] * 6)
    assert torch_at("fp32", ONNX, [TORCH, again]) is again
    elsewhere = timed(TORCH.cell, [0.3] * 6, group="other")
    assert torch_at("fp32", ONNX, [TORCH, elsewhere]) is TORCH
    assert torch_at("fp16", ONNX, [TORCH, TORCH_INT8]) is None
    assert torch_at("fp32", TORCH, [TORCH]) is None
    bigger = timed(dataclasses.replace(TORCH.cell, batch=2), [0.2] * 6)
    assert torch_at("fp32", ONNX, [bigger]) is None


def blocks(run_s: list[float], numbers: list[int]) -> Measurement:
    return timed(cell(), run_s, numbers)


def test_blocks_of_equal_number_are_compared() -> None:
    ours = blocks([0.1, 0.3, 0.2, 0.1], [0, 0, 2, 3])
    theirs = blocks([0.8, 0.9, 0.6], [2, 1, 0])
    # Block 0: 0.6 / 0.2; block 2: 0.8 / 0.2.
    ratio, interval = block_ratio(ours, theirs) or (0, None)
    assert ratio == pytest.approx(3.5) and interval is None
    assert block_ratio(ours, blocks([0.1], [7])) is None


def test_blocks_that_do_not_fit_their_samples_are_not_compared() -> None:
    good, bad = blocks([0.1, 0.2], [0, 1]), blocks([0.1, 0.2], [0])
    assert block_ratio(good, bad) is None
    assert block_ratio(bad, good) is None
    assert block_ratio(good, good) == (1.0, None)
