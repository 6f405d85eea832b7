"""OpenVINO: real towers of the sample as IR, by every recipe, and what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import clipperf
from clipperf.bench import prepare
from clipperf.drift import drift_of
from clipperf.engines import contract, processor
from clipperf.engines.onnxruntime import open_session
from clipperf.errors import EngineError, MissingDependencyError
from clipperf.export import gate
from clipperf.export.folder import Exported
from clipperf.export.job import Job
from clipperf.export.jobs import derive
from clipperf.export.judge.drift import Loss
from clipperf.export.make import make
from clipperf.inspect import artifact
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.serve.parity_inputs import parity_inputs

pytest.importorskip("openvino", reason="needs the extra openvino")

from clipperf.engines.openvino import OpenVinoEngine, library, open_compiled

SPEC = zoo.resolve("clipperf-sample")

needs_bf16 = pytest.mark.skipif(
    processor.lacks(PRECISIONS.get("int8-bf16")) is not None,
    reason="needs a processor that multiplies bf16 and 8-bit integers",
)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The floats of every tower that is opened from now on."""
    hints: list[str] = []

    def counted(*given: object, **named: str) -> object:
        engine = open_compiled(*given, **named)  # type: ignore[arg-type]
        hints.append(engine._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return engine

    monkeypatch.setattr("clipperf.engines.openvino.open_compiled", counted)
    return hints


@pytest.fixture(scope="module")
def fp32(sample_artifact: Path) -> Iterator[Exported]:
    """The sample's towers as fp32 IR, in the store that holds their ONNX files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        yield make(SPEC, ("image", "text"), Variant("openvino", "fp32"))


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("batch", [1, 3, 12])
def test_an_ir_gives_what_the_onnx_file_gives(
    fp32: Exported, sample_artifact: Path, side: str, batch: int
) -> None:
    inputs = parity_inputs(sample_artifact, side)[:batch]  # type: ignore[arg-type]
    onnx_file = sample_artifact / side / "model.onnx"
    expected = open_session(onnx_file, 1).run(inputs)
    for path in (fp32.folder / side / "model.xml", onnx_file):
        engine = open_compiled(path, 1)
        found = engine.run(inputs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)


def test_results_stay_when_the_engine_runs_again(fp32: Exported, sample_artifact: Path) -> None:
    inputs = parity_inputs(sample_artifact, "text")
    engine = open_compiled(fp32.folder / "text" / "model.xml", 1)
    first = engine.run(inputs[:2])
    copy = first.copy()
    engine.run(inputs[2:4])
    assert (first == copy).all()


def test_shorter_texts_give_the_same_embeddings(fp32: Exported, sample_artifact: Path) -> None:
    tokens = parity_inputs(sample_artifact, "text")
    longest = int(tokens.argmax(axis=1).max()) + 1
    engine = open_compiled(fp32.folder / "text" / "model.xml", 1)
    cut = engine.run(np.ascontiguousarray(tokens[:, :longest]))
    np.testing.assert_allclose(cut, engine.run(tokens), rtol=1e-3, atol=1e-4)


def test_an_axis_that_openvino_leaves_in_is_taken_out() -> None:
    """As compiled RN50 towers have it whose last product is in int8."""
    found = np.arange(12, dtype=np.float32).reshape(1, 3, 4)

    class Request:
        def infer(self, given: object, share_inputs: bool) -> list[np.ndarray]:
            return [found]

    compiled = type("Compiled", (), {"create_infer_request": Request})
    engine = OpenVinoEngine(lambda: (compiled, None))
    np.testing.assert_array_equal(engine.run(np.zeros((3, 2), np.float32)), found[0])


def test_threads_and_streams_are_those_asked_for(fp32: Exported) -> None:
    engine = open_compiled(fp32.folder / "text" / "model.xml", 1)
    compiled = engine._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert str(compiled.get_property("PERFORMANCE_HINT")) == "LATENCY"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_errors_are_clipperfs_own(fp32: Exported, tmp_path: Path) -> None:
    engine = open_compiled(fp32.folder / "image" / "model.xml", 1)
    with pytest.raises(EngineError, match="openvino: "):
        engine.run(np.zeros((1, 3, 7), np.float32))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 64, 64), np.float32))
    broken = tmp_path / "model.xml"
    broken.write_text("<net")
    with pytest.raises(EngineError, match=r"openvino cannot load .*model\.xml"):
        open_compiled(broken, 1)


def test_the_runtime_does_without_torch_and_nncf(fp32: Exported) -> None:
    code = (
        "import sys, clipperf\n"
        "with clipperf.load(sys.argv[1]) as model:\n"
        "    assert model.encode_texts(['a cat', 'a dog']).shape == (2, 192)\n"
        "print(*{'torch', 'nncf', 'onnxruntime'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fp32.folder)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_int8_weights_are_a_quarter_and_stay_close(fp32: Exported) -> None:
    done = make(SPEC, ("text",), Variant("openvino", "int8w"))
    ours, whole = done.manifest.tower("text"), fp32.manifest.tower("text")
    assert ours is not None and whole is not None and ours.parity is not None
    assert 0.24 < ours.disk_bytes / whole.disk_bytes < 0.30
    assert set(ours.files) == {"text/model.xml", "text/model.bin"}
    assert 0.999 < ours.parity.min_cosine < 0.999999
    cell = Cell(SPEC.id, "text", "openvino", "int8w", "cpu", 1, 1)
    request, size = prepare.engine_request(cell, SPEC, lambda stage: None)
    assert (request.path, size) == (str(done.folder / ours.path), ours.disk_bytes)
    engine = contract.get("openvino").open(request)
    assert engine.run(np.full((1, 8), 49407, np.int64)).shape == (1, 192)


@needs_bf16
def test_bf16_is_half_and_is_judged_as_it_runs(
    fp32: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = spied(monkeypatch)
    done = make(SPEC, ("text",), Variant("openvino", "bf16"))
    ours, whole = done.manifest.tower("text"), fp32.manifest.tower("text")
    assert ours is not None and whole is not None and ours.parity is not None
    assert set(hints) == {"bf16"}, "the gate opened it in other floats"
    assert 0.49 < ours.disk_bytes / whole.disk_bytes < 0.53
    # 8 bits of mantissa: far from fp32's 0.9999999, and not as far as 0.999.
    assert 0.9995 < ours.parity.min_cosine < 0.999999
    assert ours.parity.required_min_cosine == 0.999
    cell = Cell(SPEC.id, "text", "openvino", "bf16", "cpu", 1, 1)
    request, _ = prepare.engine_request(cell, SPEC, lambda stage: None)
    with closing(contract.get("openvino").open(request)) as engine:
        compiled = engine._compiled  # type: ignore[attr-defined]
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
    with clipperf.load(done.folder, threads=1) as model:
        assert model.encode_texts(["a cat"]).shape == (1, 192)


@needs_bf16
def test_pytorch_in_bf16_is_as_close() -> None:
    array = np.array([[49406, 320, 2368, 49407]])
    found = {}
    for precision in ("fp32", "bf16"):
        cell = Cell(SPEC.id, "text", "torch", precision, "cpu", 1, 1)
        with closing(contract.get("torch").open(EngineRequest(cell, SPEC, None))) as engine:
            weights = next(engine._module.parameters())  # type: ignore[attr-defined]
            assert weights.element_size() == {"fp32": 4, "bf16": 2}[precision]
            found[precision] = engine.run(array)
    cosine = drift_of(found["bf16"], found["fp32"]).min_cosine
    assert 0.999 < cosine < 1 - 1e-7


@needs_bf16
def test_search_and_gate_of_int8_judge_the_arithmetic_that_will_run(
    fp32: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every engine of the search and the gate, fp32's of the judge apart, computes in bf16."""
    row = PRECISIONS.get("int8-bf16")
    hints = spied(monkeypatch)
    source = Path(fp32.folder).parent / "onnx-fp32"
    target = tmp_path / "text" / "model.xml"
    target.parent.mkdir()
    job = Job(
        exporter="openvino", spec=SPEC, side="text", variant=Variant("openvino", row.name),
        folder=str(tmp_path), file=str(target), sources=(str(source),), threads=2,
        min_cosine=row.min_cosine,
    )  # fmt: skip
    kept: list[tuple[str, ...]] = []

    class Rounded:
        """A stand-in for NNCF, which takes long: all is bf16, whatever is kept."""

        layers: ClassVar = ["first", "second"]
        weight_bits = None

        def __init__(self, source: Path, judge: object, job: Job, scratch: Path) -> None:
            self._source = source

        def write(self, names: Sequence[str], path: Path, rough: bool = False) -> None:
            kept.append(tuple(names))
            library().save_model(library().Core().read_model(self._source), path)

    held = iter([False, True])
    monkeypatch.setattr(Loss, "within", lambda *_: next(held))
    built = derive.quantised(job, lambda stage: None, Rounded)
    assert built.holds and built.quantization is not None
    assert built.quantization.kept_in == "bf16" and len(built.quantization.kept) == 1
    searched = len(hints)
    assert searched == len(kept) >= 3, "one engine a trial; the last is kept as it is"
    assert gate.by_runtime(job, built).passed
    assert hints == ["bf16"] * (searched + 1)


@needs_bf16
@pytest.mark.slow
def test_int8_with_the_rest_in_bf16_holds_the_margin(fp32: Exported) -> None:
    done = make(SPEC, ("text",), Variant("openvino", "int8-bf16"))
    tower = done.manifest.tower("text")
    assert tower is not None and tower.parity is not None and tower.parity.passed
    lost = tower.quantization
    assert lost is not None and lost.points_lost is not None and lost.points_lost <= 0.5
    assert lost.min_cosine >= 0.99


@pytest.mark.slow
def test_int8_of_a_tower_holds_the_margin_on_the_sample(fp32: Exported) -> None:
    done = make(SPEC, ("text",), Variant("openvino", "int8"))
    tower = done.manifest.tower("text")
    assert tower is not None and tower.parity is not None and tower.parity.passed
    lost = tower.quantization
    assert lost is not None and lost.points_lost is not None and lost.points_lost <= 0.5
    assert lost.min_cosine >= 0.99
    with clipperf.load(done.folder) as ours, clipperf.load(fp32.folder) as whole:
        pair = [m.encode_texts(["a red heart"], normalize=True) for m in (ours, whole)]
    assert 0.99 < float((pair[0] * pair[1]).sum()) < 0.999999
    assert int(artifact.inspect(done.folder / tower.path).facts["rounded to int8 and back"]) > 0


def test_inspect_names_an_ir_and_sees_what_is_missing(fp32: Exported, tmp_path: Path) -> None:
    found = artifact.inspect(fp32.folder)
    assert found.runs_here
    assert [part.kind for part in found.parts] == ["openvino", "openvino"]
    assert found.parts[0].disk_bytes == fp32.manifest.towers[0].disk_bytes
    alone = tmp_path / "model.xml"
    alone.write_bytes((fp32.folder / "text" / "model.xml").read_bytes())
    assert "model.bin, which holds weights of model.xml, is missing" in str(
        artifact.inspect(alone).problems
    )
    alone.write_text("<other/>")
    assert "is no OpenVINO IR" in artifact.inspect(alone).problems[0]


def test_without_the_package_the_extra_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipperf.export.exporters.openvino.version_of", lambda package: None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[openvino\]"):
        make(SPEC, ("text",), Variant("openvino", "int8"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = contract.get("openvino").availability("cpu")
    assert (found.usable, found.fix) == (False, "pip install 'clipperf[openvino]'")
