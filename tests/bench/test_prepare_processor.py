"""What `profile`, `eval` and `tune` make of bf16, on processors that the tests choose."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Become
from processors import VNNI

from clipperf.bench import cost, prepare, tune
from clipperf.bench.profile import Sweep, jobs_of
from clipperf.bench.search import Search
from clipperf.errors import MeasurementError
from clipperf.evals import evaluate
from clipperf.models import zoo
from clipperf.system import env

SPEC = zoo.resolve("clipperf-sample")


def test_pytorch_in_bf16_is_a_baseline_on_a_cpu() -> None:
    def setups(runtimes: tuple[str, ...], *precisions: str) -> list[list[str]]:
        sweep = Sweep((SPEC,), runtimes, ("text",), (1,), precisions)
        return [[cell.setup for cell in group.cells] for group in sweep.groups()]

    assert setups(("torch", "openvino"), "bf16") == [["torch fp32", "torch bf16", "openvino bf16"]]
    assert setups(("torch", "openvino"), "int8-bf16") == [["torch fp32", "openvino int8-bf16"]]
    # Others gain nothing there.
    assert setups(("torch", "onnx"), "fp16") == [["torch fp32", "onnx fp16"]]
    assert setups(("torch",), "bf16") == [["torch fp32", "torch bf16"]]
    devices = {"torch": "cpu", "openvino": "cpu", "torch-compile": "cpu"}
    own = prepare.baseline_precisions("cpu", ("bf16", "int8", "fp16"))
    assert own == ("bf16",)
    found = evaluate.cells_of(SPEC, devices, ("bf16",), own, {}, 1, 8)
    assert [cell.setup for cell in found] == [
        "torch fp32", "torch bf16", "openvino bf16", "torch-compile bf16",
    ]  # fmt: skip
    assert [cell.setup for cell in evaluate.cells_of(SPEC, devices, ("int8",), own, {}, 1, 8)] == [
        "torch fp32", "openvino int8", "torch-compile int8",
    ]  # fmt: skip


def test_what_the_processor_lacks_is_a_row_that_says_why(become: Become, home: Path) -> None:
    become(VNNI)
    sweep = Sweep((SPEC,), ("torch", "openvino"), ("text",), (1,), ("bf16",))
    (job,) = jobs_of(sweep, sweep.groups(), cost.QUICK, lambda event: None)
    errors = {each.request.cell.setup: each.error for each in job.cells}
    assert errors["torch fp32"] is None
    for setup in ("torch bf16", "openvino bf16"):
        assert "bf16 takes a processor with avx512_bf16 or amx_bf16" in str(errors[setup])
    wishes = tune.Wishes(SPEC, precisions=("bf16", "int8-bf16"))
    space = tune.space(wishes, "text", {"openvino": "cpu"})
    search = Search(
        space, lambda cell: prepare.engine_request(cell, SPEC, lambda stage: None),
        env.capture(), 60.0,
    )  # fmt: skip
    with pytest.raises(MeasurementError, match=r"int8-bf16 takes a processor"):
        search.run()
    assert len(search.trials) == 2
    assert all("takes a processor" in trial.verdict for trial in search.trials.values())
