"""int8 towers made for a CPU with VNNI, on one without: noted, warned of, shown."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import clipperf
from clipperf.engines import onnxruntime as ort_engine
from clipperf.errors import AccuracyWarning
from clipperf.export.exporter import Below
from clipperf.export.exporters import quantized, tensorrt
from clipperf.export.job import Job
from clipperf.export.jobs import derive
from clipperf.graph import quantize
from clipperf.inspect import artifact as inspect
from clipperf.inspect import doctor
from clipperf.models import zoo
from clipperf.nouns.variant import PRECISIONS, SIDES, Variant
from clipperf.system import env

NONE = frozenset({"avx2"})
VNNI = frozenset({"avx2", "avx_vnni"})


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Sets this machine's CPU."""

    def become(flags: frozenset[str], machine: str = "x86_64") -> None:
        monkeypatch.setattr(env, "cpu_flags", lambda: flags)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return become


@pytest.fixture
def artifact(sample_artifact: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Copies of the sample whose manifest notes so many weight bits for the text tower."""

    def noting(bits: str | None) -> Path:
        folder = Path(shutil.copytree(sample_artifact, tmp_path / f"bits-{bits}"))
        manifest = json.loads((folder / "manifest.json").read_text())
        for tower in manifest["towers"]:
            if tower["side"] == "text" and bits is not None:
                tower["weight_bits"] = int(bits)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return noting


def warned(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clipperf.load(folder, threads=1).close()
    return [str(w.message) for w in caught if issubclass(w.category, AccuracyWarning)]


def test_weights_for_vnni_are_warned_of_where_there_is_none(cpu, artifact) -> None:  # type: ignore[no-untyped-def]
    folder = artifact("8")
    cpu(NONE)
    (message,) = warned(folder)
    assert str(folder / "text" / "model.onnx") in message
    assert "export it again on this machine (clipperf export MODEL --precision int8)" in message
    found = inspect.inspect(folder)
    assert "VNNI" in found.facts["text: accuracy here"]
    assert found.runs_here and not found.problems


@pytest.mark.parametrize(
    ("bits", "flags", "machine"),
    [
        ("8", VNNI, "x86_64"),
        ("8", frozenset({"avx512_vnni"}), "AMD64"),
        ("8", frozenset({"asimd"}), "aarch64"),
        ("8", frozenset(), "x86_64"),  # a system that does not say what its CPU has
        ("7", NONE, "x86_64"),
        (None, NONE, "x86_64"),
    ],
)
def test_what_is_exact_is_not_warned_of(cpu, artifact, bits, flags, machine) -> None:  # type: ignore[no-untyped-def]
    cpu(flags, machine)
    folder = artifact(bits)
    assert warned(folder) == []
    assert "text: accuracy here" not in inspect.inspect(folder).facts


@pytest.mark.parametrize(
    ("flags", "machine", "bits", "words"),
    [
        (NONE, "x86_64", "7", "no VNNI"),
        (frozenset(), "AMD64", "7", "no VNNI"),
        (VNNI, "x86_64", "8", "exact"),
        (frozenset(), "arm64", "8", "exact"),
    ],
)
def test_the_export_notes_the_bits_and_the_doctor_says_why(
    cpu, tmp_path: Path, flags, machine, bits, words
) -> None:  # type: ignore[no-untyped-def]
    cpu(flags, machine)
    assert quantize.safe_weight_max() == {"7": 63, "8": 127}[bits]
    rows = {row.name: quantize.weight_bits(row) for row in PRECISIONS.rows if row.is_quantised}
    assert rows["int8"] == rows["int8-row"] == rows["int8-static"] == int(bits)
    assert (rows["int8-fp16"], rows["fp8"]) == (8, None)  # a GPU's, whatever the host
    assert words in doctor.machine()["8-bit integers"]


def test_other_bits_are_another_artifact(cpu) -> None:  # type: ignore[no-untyped-def]
    def keys() -> list[str]:
        spec = zoo.resolve("clipperf-sample")
        wanted = [Variant("onnx", name) for name in ("int8", "int8-static", "int8-fp16")]
        return [quantized.key(spec, "text", each, Below(each.row.graph)) for each in wanted]

    cpu(NONE)
    here = keys()
    cpu(VNNI)
    there = keys()
    assert [a == b for a, b in zip(here, there, strict=True)] == [False, False, True]
    assert len({*here, *there}) == 5


@pytest.mark.parametrize("flags", [NONE, VNNI])
@pytest.mark.parametrize("precision", ["int8", "int8-row", "int8-static", "int8-fp16"])
def test_the_target_decides_how_far_weights_reach(
    cpu, precision: str, flags: frozenset[str], tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """The weights of a graph for a GPU have all bits on any host, those for a CPU what it can."""
    cpu(flags)
    limited = flags is NONE and not PRECISIONS.get(precision).emulated
    made, path = quantizer(tmp_path, precision), tmp_path / "eight.onnx"
    made.write((), path)
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    assert np.abs(found["y_weight_int8"].astype(int)).max() == (63 if limited else 127)
    assert made.weight_bits == (7 if limited else 8)


def quantizer(folder: Path, precision: str) -> derive.OnnxQuantizer:
    """What an export of one product of matrices writes with."""
    floats = np.float16 if PRECISIONS.get(precision).graph == "fp16" else np.float32
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(floats))
    weight = np.random.default_rng(0).standard_normal((32, 16)).astype(floats)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "toy",
        [helper.make_tensor_value_info("x", kind, ["batch", 32])],
        [helper.make_tensor_value_info("y", kind, ["batch", 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    source = folder / "source.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), source)
    spec = zoo.resolve("clipperf-sample")
    job = Job(
        exporter="quantized",
        spec=spec,
        side="text",
        variant=Variant("onnx", precision),
        folder=str(folder),
        file=str(folder / "text" / "model.onnx"),
        sources=(),
        threads=1,
        min_cosine=0.99,
    )
    (folder / "text").mkdir()
    samples = [np.random.default_rng(1).standard_normal((8, 32)).astype(floats)]
    return derive.OnnxQuantizer(source, SimpleNamespace(probes=samples), job, folder)


@pytest.mark.parametrize("precision", ["int8-static", "int8-fp16"])
def test_a_gpus_graph_is_judged_by_its_numbers(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No CPU kernel of 8 bits computes it, whose sums may saturate: that of a CPU's graph does."""
    plain = ort_engine.session_options

    def kept(threads: int) -> Any:
        options = plain(threads)
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return options

    made, path = quantizer(tmp_path, precision), tmp_path / "eight.onnx"
    made.write((), path)
    monkeypatch.setattr(ort_engine, "session_options", kept)
    emulated = PRECISIONS.get(precision).emulated
    dtype = np.float16 if emulated else np.float32
    rows = np.random.default_rng(2).standard_normal((5, 32)).astype(dtype)
    with contextlib.closing(ort_engine.open_session(path, 1, precision=precision)) as engine:
        found = engine.run(rows).astype(np.float32)
    operators = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    integers = {"QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
    assert bool(operators & integers) is not emulated
    if emulated:
        parts = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        scale = parts["x_qscale"].astype(np.float32)
        whole = np.clip(np.rint(rows.astype(np.float32) / scale), -128, 127)
        sums = whole @ parts["y_weight_int8"].astype(np.float32)  # exact, as on a GPU
        expected = sums * scale * parts["y_weight_scale"].astype(np.float32)
        assert np.abs(found - expected).max() < 4e-3 * np.abs(expected).max()


def test_engines_of_tensorrt_are_made_from_it(cpu) -> None:  # type: ignore[no-untyped-def]
    spec, sources = zoo.resolve("clipperf-sample"), []
    for flags in (NONE, VNNI):
        cpu(flags)
        for runtime in ("trt", "trt-rtx"):
            ((source, _),) = tensorrt.needs(spec, SIDES, Variant(runtime, "int8"))
            sources.append(source)
    assert set(sources) == {Variant("onnx", "int8-fp16")}
    ((graph, _), (judge, _)) = quantized.EXPORTER.needs(spec, SIDES, sources[0])
    assert (graph.precision, judge.precision) == ("fp16", "fp32")


def test_nobody_is_warned_of_a_gpus_weights(cpu, artifact) -> None:  # type: ignore[no-untyped-def]
    folder = artifact("8")
    manifest = json.loads((folder / "manifest.json").read_text())
    for tower in manifest["towers"]:
        tower["precision"] = "int8-fp16"
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "int8-fp16"}))
    cpu(NONE)
    assert warned(folder) == []
