"""What must exist before the first measurement: which artifacts cells get, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import store_of

from clipperf.bench import prepare
from clipperf.engines import contract
from clipperf.errors import UsageError
from clipperf.models import sample, zoo
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import PRECISIONS
from clipperf.system import store

SPEC = zoo.resolve(sample.NAME)

LACKING = [
    (name, precision)
    for name in contract.RUNTIMES.own()
    for precision in PRECISIONS.own()
    if contract.get(name).artifact is not None and precision not in contract.get(name).precisions
]


def cell(runtime: str, precision: str, tokens: int = 8) -> Cell:
    device = contract.get(runtime).devices[0]
    return Cell(SPEC.id, "text", runtime, precision, device, 1, 1, tokens=tokens)


@pytest.mark.parametrize(("runtime", "precision"), LACKING)
def test_nothing_is_measured_under_the_name_of_a_precision_that_a_runtime_lacks(
    runtime: str, precision: str, home: Path
) -> None:
    with pytest.raises(UsageError, match=rf"no precision '{precision}' for {runtime}; choose from"):
        prepare.engine_request(cell(runtime, precision), SPEC, lambda stage: None)
    assert not home.exists(), "something was made"


def test_a_tower_of_one_length_says_so(
    sample_artifact: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store_of(sample_artifact, home)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["towers"][1]["tokens"] = 32
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(prepare, "serving", lambda *args: folder)
    with pytest.raises(UsageError, match="takes 32 tokens and no other number: give --tokens 32"):
        prepare.engine_request(cell("onnx", "fp32"), SPEC, lambda stage: None)
    request, _ = prepare.engine_request(cell("onnx", "fp32", tokens=32), SPEC, lambda stage: None)
    assert request.path == str(folder / "text" / "model.onnx")


def test_models_of_a_family_that_is_gone_are_left_out(
    sample_artifact: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store.read_manifest(store_of(sample_artifact, home))
    gone = replace(manifest, spec=replace(SPEC, id="gone", family="gone"))
    monkeypatch.setattr(store, "find_artifacts", lambda: [(home, gone), (home, manifest)])
    assert prepare.choose_models((), None) == [SPEC]
