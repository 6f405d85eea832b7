"""`inspect` on real plans, ONNX files and artifact folders, sound and damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Become
from processors import BF16, VNNI

from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import UsageError
from clipperf.inspect.artifact import inspect
from clipperf.inspect.inspection import Inspection
from clipperf.nouns.artifact import LAYOUT_RECORD, Layout, TensorSpec
from clipperf.nouns.model import ModelSpec
from clipperf.report.inspection import inspection_table
from clipperf.serialize import to_json
from clipperf.system import files
from clipperf.system.store import SCHEMA_VERSION

WIDTH = 64

needs_rtx = pytest.mark.skipif(
    not flavours.installed("trt-rtx"),
    reason="TensorRT for RTX is not installed: pip install 'clipperf[trt-rtx]'",
)


def save(path: Path, dtype: Any = np.float32, **options: Any) -> Path:
    """An ONNX file whose weights, 64 x 64, have another type than the rest of it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((WIDTH, WIDTH), dtype), "w")
    nodes = [
        helper.make_node("Cast", ["w"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [weights, numpy_helper.from_array(np.ones(3, np.float32), "unused")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="tests")
    onnx.save(model, path, **options)
    return path


def beside(path: Path) -> Path:
    """The same with its weights in a file of their own, `weights.bin`."""
    return save(
        path, save_as_external_data=True, location="weights.bin", size_threshold=WIDTH * WIDTH
    )


def words(found: Inspection) -> dict[str, str]:
    return dict(inspection_table(found).texts)  # type: ignore[arg-type]


# --- ONNX ----------------------------------------------------------------------------------


def test_an_onnx_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx")
    found = inspect(path)
    axes = ("batch", WIDTH)
    assert found.inputs == (TensorSpec("x", "float32", axes),)
    assert found.outputs == (TensorSpec("y", "float32", axes),)
    assert (found.kind, found.precision) == ("onnx", "fp32")
    assert found.disk_bytes == path.stat().st_size
    assert found.runs_here and found.problems == ()
    said = words(found)
    assert (said["opset"], said["producer"], said["nodes"]) == ("ai.onnx 20", "tests", "2")
    assert said["input"] == "x float32 [batch, 64]"
    assert said["runs here"] == "yes"


@pytest.mark.parametrize(
    ("dtype", "precision"), [(np.float16, "fp16"), (np.int8, "int8"), (np.float32, "fp32")]
)
def test_precision_is_that_of_most_weights(tmp_path: Path, dtype: Any, precision: str) -> None:
    assert inspect(save(tmp_path / "a.onnx", dtype)).precision == precision


@pytest.mark.parametrize(
    ("name", "precision"),
    [("bfloat16", "bf16"), ("float8_e4m3fn", "fp8"), ("float8_e5m2", "fp8")],
)
def test_precision_of_types_that_numpy_lacks(tmp_path: Path, name: str, precision: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert inspect(save(tmp_path / "a.onnx", getattr(ml_dtypes, name))).precision == precision


def test_external_data_counts_and_is_checked(tmp_path: Path) -> None:
    path = beside(tmp_path / "a.onnx")
    data = tmp_path / "weights.bin"
    size = WIDTH * WIDTH * 4
    found = inspect(path)
    assert found.disk_bytes == path.stat().st_size + size
    assert found.runs_here
    assert words(found)["weights in"] == "a.onnx, weights.bin"

    data.write_bytes(bytes(size - 1))
    found = inspect(path)
    assert found.problems == (f"{data} is cut off: {size - 1} of {size} bytes",)
    assert not found.runs_here
    assert words(found)["runs here"] == "no, it is damaged"
    assert inspection_table(found).caveats == found.problems

    data.unlink()
    (problem,) = inspect(path).problems
    assert "weights.bin" in problem and "is missing" in problem


def test_external_data_of_sparse_tensors_is_checked(tmp_path: Path) -> None:
    """In the graph, and as the value of a node in the branch of another."""
    import onnx
    from onnx import TensorProto, helper

    def external(location: str, count: int, kind: int) -> Any:
        tensor = TensorProto(name=location, data_type=kind, dims=[count])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("length", str(8 * count))):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def sparse(name: str) -> Any:
        values = external(f"{name}.values", 3, TensorProto.DOUBLE)
        return helper.make_sparse_tensor(values, external(f"{name}.places", 3, 7), [9])

    path = save(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.sparse_initializer.append(sparse("graph"))
    inner = helper.make_node("Constant", [], ["c"], sparse_value=sparse("branch"))
    branch = helper.make_graph([inner], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch))
    onnx.save(model, path)
    names = [f"{where}.{what}" for where in ("graph", "branch") for what in ("values", "places")]
    for name in names[:-1]:
        (tmp_path / name).write_bytes(bytes(24))
    (tmp_path / names[0]).write_bytes(bytes(23))
    first, last = inspect(path).problems
    assert f"{names[0]} is cut off: 23 of 24 bytes" in first and f"{names[-1]}, which" in last


def test_a_file_that_may_not_be_read_is_no_broken_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.onnx")
    monkeypatch.setattr(onnx, "load", refuse)
    assert inspect(path).problems == (f"{path} cannot be read: Permission denied",)
    monkeypatch.setattr(onnx, "load", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not the file's
        inspect(path)


def test_external_data_is_not_read(tmp_path: Path) -> None:
    path = beside(tmp_path / "a.onnx")
    data = tmp_path / "weights.bin"
    data.unlink()
    with open(data, "wb") as f:
        f.truncate(2**40)  # takes no room, and could not be read
    assert inspect(path).problems == ()


@pytest.mark.parametrize("content", [b"", b"hello" * 20, b"\x08"])
def test_what_is_no_onnx_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    found = inspect(tmp_path / "a.onnx")
    assert len(found.problems) == 1 and "no ONNX" in found.problems[0]
    assert not found.runs_here


def test_a_cut_onnx_file_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    (problem,) = inspect(path).problems
    assert "cut off" in problem


def test_a_missing_runtime_is_an_obstacle_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    path = save(tmp_path / "a.onnx")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    found = inspect(path)
    assert found.problems == () and not found.runs_here
    assert "pip install 'clipperf[onnx]'" in words(found)["runs here"]


# --- plans ---------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of the toy for two kinds of GPU, built for real."""
    from clipperf.export.jobs.plan import build_engine
    from clipperf.export.plan_options import EngineSettings
    from clipperf.nouns.variant import Variant

    axes = ("batch", WIDTH)
    onnx = save(tmp_path / "a.onnx")
    build_engine(
        onnx,
        tmp_path / "a.plan",
        Variant("trt-rtx", settings=EngineSettings(targets=("sm86", "sm89"))),
        model_id="toy",
        side="image",
        inputs=(TensorSpec("x", "float32", axes),),
        outputs=(TensorSpec("y", "float32", axes),),
        digest=files.sha256_file(onnx),
    )
    return tmp_path / "a.plan"


@needs_rtx
def test_a_plan(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "gpu_kind", lambda: None)
    found = inspect(plan)
    assert found.problems == ()
    assert found.obstacle == "no NVIDIA GPU was found"
    said = words(found)
    assert said["what"] == "TensorRT plan"
    assert [text for name, text in inspection_table(found).texts if name == "profile"] == [
        f"x [1, 64] to [64, 64], tuned for [{batch}, 64]" for batch in (1, 8, 64)
    ]
    assert said["targets"] == "sm86, sm89"
    assert said["flavour"] == "TensorRT for RTX (trt-rtx)"
    assert said["version"] == flavours.version("trt-rtx")
    assert said["source ONNX sha256"] == files.sha256_file(plan.with_suffix(".onnx"))
    assert said["runs here"] == "no: no NVIDIA GPU was found"
    monkeypatch.setattr(flavours, "gpu_kind", lambda: "sm89")
    assert inspect(plan).runs_here
    monkeypatch.setattr(flavours, "gpu_kind", lambda: "sm120")
    assert "the GPU here is sm120" in (inspect(plan).obstacle or "")


@needs_rtx
def test_a_damaged_plan_is_reported(plan: Path) -> None:
    sound = plan.read_bytes()
    plan.write_bytes(sound[:5000])
    found = inspect(plan)
    assert found.problems == (
        f"{plan} is cut off: 5000 of {len(sound)} bytes: export the model again",
    )
    assert words(found)["runs here"] == "no, it is damaged"


@needs_rtx
def test_a_plan_without_sidecar_says_what_its_header_does(plan: Path) -> None:
    plan_file.sidecar_path(plan).unlink()
    bare = plan.rename(plan.with_name("engine.bin"))
    found = inspect(bare)
    said = words(found)
    assert (said["targets"], said["version"]) == ("sm86, sm89", flavours.version("trt-rtx"))
    assert len(found.problems) == 1 and "is missing" in found.problems[0]


def test_garbage_named_plan_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(b"hello" * 20)
    found = inspect(tmp_path / "a.plan")
    assert "is no plan" in found.problems[0]


# --- artifact folders ----------------------------------------------------------------------


def test_an_artifact_folder(sample_artifact: Path, home: Path) -> None:
    found = inspect(sample_artifact)
    assert (found.kind, found.precision) == ("artifact", "fp32")
    assert found.runs_here
    assert [Path(part.path).parent.name for part in found.parts] == ["image", "text"]
    assert found.disk_bytes == sum(part.disk_bytes for part in found.parts)
    said = words(found)
    assert said["towers"] == "image, text"
    assert said["text: input"] == "input_ids int64 [batch, tokens]"
    assert not home.exists(), "looking writes nothing"


def test_a_precision_that_the_processor_lacks_is_an_obstacle(
    sample_artifact: Path, tmp_path: Path, home: Path, become: Become
) -> None:
    """As `load` refuses it, and with what the same runtime computes instead."""
    folder = tmp_path / "made"
    shutil.copytree(sample_artifact, folder)
    path = folder / "manifest.json"
    changed = {"runtime": "openvino", "precision": "int8-bf16"}
    data = json.loads(path.read_text())
    data |= {**changed, "towers": [{**tower, **changed} for tower in data["towers"]]}
    path.write_text(json.dumps(data))
    become(VNNI)
    found = inspect(folder)
    assert not found.runs_here and not found.problems and found.obstacle is not None
    assert found.obstacle.startswith("int8-bf16 takes a processor with avx512_bf16 or amx_bf16")
    assert "another precision (fp32, int8w, int8) or" in found.obstacle
    become(BF16)
    assert inspect(folder).runs_here


def test_a_damaged_artifact_folder(sample_artifact: Path, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sample_artifact, folder)
    model = folder / "image/model.onnx"
    model.write_bytes(model.read_bytes()[:-10])
    found = inspect(folder)
    assert any("image/model.onnx" in problem for problem in found.problems)
    assert not found.runs_here
    model.unlink()
    assert "image/model.onnx is missing" in inspect(folder).problems
    (folder / "manifest.json").write_text("{}")
    assert "schema version" in inspect(folder).problems[0]


def test_a_layout_for_another_program(tmp_path: Path) -> None:
    spec = ModelSpec("toy", "open_clip", "toy", "random:0", 32, 77, 8)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "text_model.onnx").write_bytes(b"1234")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "mine.txt").write_text("a user's own")
    names = ("onnx/text_model.onnx", "config.json")
    layout = Layout(
        SCHEMA_VERSION, "transformers", spec, ("text",), ("fp32", "fp16"), "key",
        {name: files.sha256_file(tmp_path / name) for name in names}, "2026-01-02", "0.1.0",
    )  # fmt: skip
    files.write_json(tmp_path / LAYOUT_RECORD, layout)
    found = inspect(tmp_path)
    assert (found.kind, found.precision, found.disk_bytes) == ("layout", "fp32, fp16", 6)
    assert (found.facts["layout"], found.facts["towers"]) == ("transformers", "text")
    assert not found.problems and not found.runs_here
    assert found.obstacle == "transformers opens it, not clipperf"
    (tmp_path / "onnx" / "text_model.onnx").write_bytes(b"1235")
    (tmp_path / "config.json").unlink()
    altered, missing = inspect(tmp_path).problems
    assert "text_model.onnx was altered" in altered and "config.json is missing" in missing
    assert "clipperf export --layout again" in missing
    (tmp_path / LAYOUT_RECORD).write_text("{}")
    (problem,) = inspect(tmp_path).problems
    assert LAYOUT_RECORD in problem


def test_what_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        inspect(tmp_path / "none.plan")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="no TensorRT plan"):
        inspect(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.plan")  # opening one would wait for a writer
    for name in ("empty", "pipe.plan"):
        with pytest.raises(UsageError, match="no file, no artifact folder"):
            inspect(tmp_path / name)


def test_every_inspection_is_plain_json(sample_artifact: Path, home: Path) -> None:
    import json

    data = to_json(inspect(sample_artifact))
    assert json.loads(json.dumps(data)) == data
