"""What decides whether a tower is kept: the same inputs and arithmetic for search and gate."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from conftest import leftovers, use
from PIL import Image

from clipperf.errors import ParityError
from clipperf.export.derived import QuantizeSettings
from clipperf.export.make import make
from clipperf.graph import kept
from clipperf.nouns.artifact import Artifact, reference_name
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.serve.parity_inputs import COUNT
from clipperf.system import store


def judged(spec: ModelSpec, variant: Variant) -> tuple[Path, Artifact]:
    """The folder and the image tower that an export makes."""
    done = make(spec, ("image",), variant)
    tower = done.manifest.tower("image")
    assert tower is not None and tower.parity is not None
    return done.folder, tower


@pytest.mark.slow
def test_the_verdict_is_the_same_in_any_store(
    tiny: ModelSpec, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second checkpoint in a graph that is known is judged as it is in an empty store."""
    judged(tiny, Variant("onnx"))
    spec = use(monkeypatch, checkpoints / "b")
    folder, second = judged(spec, Variant("onnx"))
    _, derived = judged(spec, Variant("onnx", "int8"))
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "empty"))
    alone, first = judged(spec, Variant("onnx"))
    assert (
        folder != alone and (folder / first.path).read_bytes() == (alone / first.path).read_bytes()
    )
    assert second.parity == first.parity
    assert first.parity is not None and derived.parity is not None
    assert first.parity.n == derived.parity.n == COUNT
    references = [np.load(where / reference_name("image")) for where in (folder, alone)]
    assert references[0].shape == (COUNT, spec.embed_dim)
    np.testing.assert_array_equal(*references)


@pytest.mark.slow
def test_a_kept_graph_that_fails_is_not_used_again(tiny: ModelSpec, home: Path) -> None:
    judged(tiny, Variant("onnx"))
    (path,) = (home / "graphs").glob("*.onnx")
    model = kept.kept(path.stem)
    assert model is not None
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 3.0)
    kept.keep(path.stem, model)
    for folder, _ in store.find_artifacts():
        (folder / store.MANIFEST_NAME).unlink()
    with pytest.raises(ParityError, match="minimum cosine"):
        judged(tiny, Variant("onnx"))
    assert not leftovers(home)
    _, again = judged(tiny, Variant("onnx"))
    assert again.parity is not None and again.parity.passed


@pytest.fixture
def greys(tmp_path: Path) -> str:
    """Captioned images of one grey each, which say nothing of the range of real ones."""
    folder = tmp_path / "greys"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for level in range(120, 128):
            Image.new("RGB", (32, 32), (level,) * 3).save(folder / f"{level}.png")
            rows.writerow([f"{level}.png", f"grey {level}"])
    return str(folder)


def test_the_search_sees_what_the_gate_sees(tiny: ModelSpec, greys: str) -> None:
    """All samples are near their fp32 embeddings, the gate's inputs are not: it goes on."""
    wanted = Variant("onnx", "int8-static", settings=QuantizeSettings(greys, 100.0))
    _, tower = judged(tiny, wanted)
    cost, parity = tower.quantization, tower.parity
    assert cost is not None and parity is not None
    assert (cost.samples, parity.n) == (8, COUNT)
    assert len(cost.kept) == 1 and "Conv" in cost.kept[0], "whose scale the greys set too small"
    assert parity.passed and parity.min_cosine >= PRECISIONS.get("int8-static").min_cosine
