"""Image towers that take bytes: the graph, what derives from it, what it is fed, and refusals."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, assert_usable, snapshot, store_of, use
from PIL import Image

import clipperf
from clipperf.bench.plan import plan
from clipperf.bench.prepare import choose_inputs
from clipperf.engines.onnxruntime import open_session
from clipperf.engines.tensorrt import flavours
from clipperf.errors import UsageError
from clipperf.export.derived import QuantizeSettings
from clipperf.export.exporter import exporter_of, key_of
from clipperf.export.judge import parity
from clipperf.export.make import make
from clipperf.export.plan_options import EngineSettings
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inspect import artifact
from clipperf.models import sample, zoo
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PixelDtype, Variant
from clipperf.report.exported import exported_lines
from clipperf.report.inspection import inspection_table
from clipperf.report.tables import cost_table
from clipperf.serve.images import batches
from clipperf.system import store

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from toy_models import embed, registered, spec_of  # noqa: E402

from clipperf.graph import trace as onnx_export  # noqa: E402
from clipperf.graph import uint8  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402

BYTES = Variant("onnx", pixel_dtype="uint8")
ROUND = PreprocessSpec(4, 4, mean=(10 / 255, 20 / 255, 30 / 255), std=(2 / 255, 4 / 255, 0.5 / 255))
"""Channels are (byte - 10) / 2, (byte - 20) / 4 and (byte - 30) * 2."""


# --- the graph -----------------------------------------------------------------------------


def graph_of(*nodes: Any, **weights: np.ndarray) -> Any:
    """A model of `pixels` [batch, 3, 4, 4] to `y`."""
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(model)


def convolution(*inputs: str, **how: Any) -> Any:
    return helper.make_node("Conv", inputs, ["y"], **how)


def bytes_of(model: Any, spec: PreprocessSpec = ROUND) -> Any:
    uint8.take_bytes(model, spec)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return ir.to_proto(model)


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
def test_weight_and_bias_are_folded_as_computed_by_hand(bias: bool) -> None:
    weight = np.array([[1, 2, 3], [4, -8, 0]], np.float32).reshape(2, 3, 1, 1)
    given = {"w": weight, **({"b": np.array([0.5, 1], np.float32)} if bias else {})}
    found = bytes_of(graph_of(convolution("pixels", *given), **given))
    assert operators(found) == ["Cast", "Conv"]
    tensors = weights_of(found)
    assert tensors.keys() == {"pixels_weight", "pixels_bias"}
    # 1/2, 2/4, 3*2; 4/2, -8/4, 0. Then 10/2 + 20/2 + 30*6 = 195, and 20 - 40 = -20.
    expected = [[0.5, 0.5, 6], [2, -2, 0]]
    np.testing.assert_array_equal(tensors["pixels_weight"].reshape(2, 3), np.float32(expected))
    before = (0.5, 1.0) if bias else (0.0, 0.0)
    shifted = [before[0] - 195, before[1] + 20]
    np.testing.assert_array_equal(tensors["pixels_bias"], np.float32(shifted))


def test_a_fold_is_exact_to_the_rounding_of_its_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(8, 3, 2, 2)), rng.normal(size=8)
    given = {"w": weight.astype(np.float32), "b": bias.astype(np.float32)}
    spec = PreprocessSpec(4, 4)
    onnx.save(bytes_of(graph_of(convolution(*("pixels", "w", "b")), **given), spec), tmp_path / "m")
    pixels = rng.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (spec.mean, spec.std))
    normalised = torch.from_numpy((pixels / 255 - mean) / std)
    exact = torch.nn.functional.conv2d(
        normalised, *(torch.from_numpy(v.astype(np.float64)) for v in given.values())
    )
    found = open_session(tmp_path / "m", 1).run(pixels)
    np.testing.assert_allclose(found, exact.numpy(), rtol=0, atol=5e-6)


IDENTITY = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
RELU = helper.make_node("Relu", ["pixels"], ["positive"])
NOT_PLAIN = {
    "padded": [convolution("pixels", "w", pads=[1, 1, 1, 1])],
    "padded by itself": [convolution("pixels", "w", auto_pad="SAME_UPPER", strides=[2, 2])],
    "each channel alone": [convolution("pixels", "one", group=3)],
    "weights that are computed": [
        helper.make_node("Mul", ["w", "w"], ["w2"]),
        convolution("pixels", "w2"),
    ],
    "something before": [RELU, convolution("positive", "w")],
    "pixels read twice": [
        helper.make_node("Conv", ["pixels", "w"], ["c"]),
        helper.make_node("Add", ["c", "pixels"], ["y"]),
    ],
}


@pytest.mark.parametrize("nodes", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_elsewhere_the_graph_normalises(nodes: list[Any], tmp_path: Path) -> None:
    given = {"w": IDENTITY, "one": np.ones((3, 1, 1, 1), np.float32)}
    onnx.save(ir.to_proto(graph_of(*nodes, **given)), tmp_path / "float")
    found = bytes_of(graph_of(*nodes, **given))
    assert operators(found) == ["Cast", "Mul", "Sub", *(node.op_type for node in nodes)]
    onnx.save(found, tmp_path / "uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    floats = pixels - np.float32([10, 20, 30]).reshape(3, 1, 1)
    floats *= np.float32([0.5, 0.25, 2]).reshape(3, 1, 1)
    expected = open_session(tmp_path / "float", 1).run(floats)
    np.testing.assert_allclose(open_session(tmp_path / "uint8", 1).run(pixels), expected, rtol=1e-6)


def test_who_asks_for_the_size_alone_is_no_reader() -> None:
    shape = helper.make_node("Shape", ["pixels"], ["size"], end=1)
    found = bytes_of(graph_of(shape, convolution("pixels", "w"), w=IDENTITY))
    assert operators(found) == ["Cast", "Shape", "Conv"]


# --- real towers ---------------------------------------------------------------------------


@pytest.fixture
def toys(tmp_path: Path, home: Path) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with registered(tmp_path):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "precision", "folded", "most"),
    [
        ("toy-clip", "fp32", True, 1e-5),
        ("toy-clip", "fp16", False, 1e-2),
        ("toy-resnet", "fp32", False, 1e-6),
    ],
)
def test_bytes_give_what_their_normalised_floats_give(
    name: str, precision: str, folded: bool, most: float, tmp_path: Path, toys: None
) -> None:
    spec = spec_of(name)
    settings = PreprocessSpec.from_open_clip(towers.preprocess_config(spec))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, *settings.shape), dtype=np.uint8)
    mean, std = (np.float32(v).reshape(3, 1, 1) for v in (settings.mean, settings.std))
    floats = ((pixels / np.float32(255) - mean) / std).astype(np.float32)
    reference = embed(spec, "image", torch.from_numpy(floats)).numpy()
    key, found = "kept", []
    for number, takes in enumerate((None, settings, None)):  # one graph is kept for all
        path = tmp_path / f"{number}.onnx"
        tower = towers.build_tower(spec, "image")
        onnx_export.export_onnx(tower, path, precision, key, takes)
        found.append(open_session(path, 1).run(floats if takes is None else pixels))
        judged = parity.compare(found[-1], reference, precision, "random bytes")
        assert judged.passed, parity.explain(judged, name)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=most)
    assert (tmp_path / "2.onnx").read_bytes() == (tmp_path / "0.onnx").read_bytes()
    made = onnx.load(tmp_path / "1.onnx")
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert ("pixels_weight" in weights_of(made)) == folded
    assert operators(made)[:2] == ["Cast", "Shape" if folded else "Mul"]


# --- artifacts, of a tiny ViT --------------------------------------------------------------


@pytest.fixture(scope="session")
def bytes_once(
    checkpoints: Path, exported_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with the image tower of "a" for floats, and both of its towers for bytes."""
    root = tmp_path_factory.mktemp("tiny-uint8") / "home"
    shutil.copytree(exported_once, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(root))
        make(use(patch, checkpoints / "a"), ("image", "text"), BYTES)
    return root


@pytest.fixture
def stocked(tiny: ModelSpec, home: Path, bytes_once: Path) -> ModelSpec:
    """The tiny model "a", with a store that holds `bytes_once`."""
    shutil.copytree(bytes_once, home)
    return tiny


def folder_of(name: str) -> Path:
    (path,) = [path for path, _ in store.find_artifacts() if path.name == name]
    return path


def image_of(folder: Path) -> Artifact:
    tower = store.read_manifest(folder).tower("image")
    assert tower is not None
    return tower


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        blotches = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        blotches.resize((70, 60), Image.Resampling.BICUBIC).save(path)
    return paths


def embeddings(folder: Path, pictures: list[Path]) -> np.ndarray:
    with clipperf.load(folder, threads=1) as model:
        found = model.encode_images(pictures, batch_size=2)
    return found


def test_both_kinds_lie_side_by_side_and_are_cached(stocked: ModelSpec) -> None:
    floats, taken = folder_of("onnx-fp32"), folder_of("onnx-fp32-uint8")
    assert_usable(taken)
    assert image_of(floats).inputs[0].dtype == "float32"
    assert image_of(taken).inputs[0].dtype == "uint8"
    assert image_of(floats).key != image_of(taken).key
    found = image_of(taken).parity
    assert found is not None and found.passed and found.n == 12
    assert "pixels_weight" in weights_of(onnx.load(taken / "image" / "model.onnx"))
    before = snapshot(floats)
    again = make(stocked, ("image", "text"), BYTES)
    assert again.up_to_date and again.folder == taken
    assert "pixel_values uint8 [batch, 3, 32, 32]" in "\n".join(exported_lines(again))
    assert make(stocked, ("image",), Variant("onnx")).folder == floats
    assert snapshot(floats) == before
    said = dict(inspection_table(artifact.inspect(taken)).texts)
    assert said["image: input"] == "pixel_values uint8 [batch, 3, 32, 32]"


def test_a_text_tower_has_the_key_that_it_has_beside_floats(stocked: ModelSpec) -> None:
    tower = store.read_manifest(folder_of("onnx-fp32-uint8")).tower("text")
    assert tower is not None
    assert tower.key == key_of(stocked, tower.weights_id, "text", Variant("onnx"))


def test_loaded_both_kinds_give_the_same(stocked: ModelSpec, pictures: list[Path]) -> None:
    floats = embeddings(folder_of("onnx-fp32"), pictures)
    found = embeddings(folder_of("onnx-fp32-uint8"), pictures)
    assert found.dtype == np.float32 and floats.std() > 0.01
    np.testing.assert_allclose(found, floats, rtol=0, atol=1e-6 * np.abs(floats).max())


DERIVED = [
    ("onnx", "int8"),
    ("onnx", "int8-static"),
    ("openvino", "fp32"),
    ("openvino", "int8w"),
    ("openvino", "int8"),
]


@pytest.mark.parametrize(("runtime", "precision"), DERIVED)
def test_what_is_derived_takes_bytes_too(
    runtime: str, precision: str, stocked: ModelSpec, pictures: list[Path], samples: str
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino")
    settings = QuantizeSettings(samples, 100)
    done = make(stocked, ("image",), Variant(runtime, precision, "uint8", settings=settings))
    assert done.folder.name.startswith(f"{runtime}-{precision}-uint8")
    tower = image_of(done.folder)
    assert tower.inputs[0].dtype == "uint8" and tower.parity is not None and tower.parity.passed
    floats = embeddings(folder_of("onnx-fp32"), pictures)
    found = embeddings(done.folder, pictures)
    cosines = (found * floats).sum(1) / np.linalg.norm(found, axis=1)
    assert (cosines / np.linalg.norm(floats, axis=1)).min() >= tower.parity.required_min_cosine


@pytest.mark.skipif(not flavours.installed("trt-rtx"), reason="needs the extra trt-rtx")
def test_an_engine_is_built_that_takes_bytes(stocked: ModelSpec) -> None:
    ada = Variant("trt-rtx", settings=EngineSettings(targets=("sm89",)))
    taking = dataclasses.replace(ada, pixel_dtype="uint8")
    done = make(stocked, ("image",), taking)
    tower = image_of(done.folder)
    assert tower.inputs[0].dtype == "uint8" and "-fp32-uint8-" in done.folder.name
    found = artifact.inspect(done.folder / tower.path)
    assert found.kind == "plan" and [spec.dtype for spec in found.inputs] == ["uint8"]
    assert not found.problems
    floats = make(stocked, ("image",), ada)
    assert floats.folder != done.folder and image_of(floats.folder).inputs[0].dtype == "float32"
    assert make(stocked, ("image",), taking).up_to_date


def test_the_keys_of_engines_graphs_tell_them_apart(stocked: ModelSpec) -> None:
    def key(precision: str, dtype: PixelDtype) -> str:
        engine = Variant("trt-rtx", precision, dtype)
        (graph, _), *_ = exporter_of(engine).needs(stocked, ("image",), engine)
        return key_of(stocked, "w", "image", graph)

    keys = {
        key(precision, dtype)
        for precision in ("fp32", "fp16", "int8")
        for dtype in ("float32", "uint8")
    }
    assert len(keys) == 6


# --- what it is fed ------------------------------------------------------------------------


def test_bytes_are_the_frame_as_it_is(pictures: list[Path]) -> None:
    spec = PreprocessSpec(32, 48)
    out = np.empty((5, 3, 32, 48), np.uint8)
    assert preprocess(pictures, spec, out) is out and out.std() > 10
    mean, std = (np.float32(v).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    expected = preprocess(pictures, spec)
    assert np.array_equal((out / np.float32(255) - mean) / std, expected)
    for workers in (0, 2):
        found = list(batches(pictures, spec, 2, workers, "uint8"))
        assert [batch.dtype for batch in found] == [np.uint8] * 3
        assert np.array_equal(np.concatenate(found), out)


def test_a_sweep_measures_both_kinds_in_turn_and_pytorch_with_floats(stocked: ModelSpec) -> None:
    fed = choose_inputs(["torch", "onnx"], ("float32", "uint8"))
    image, text = plan([stocked], ["torch", "onnx"], inputs=fed)
    assert [cell.setup for cell in image.cells] == [
        "torch fp32",
        "onnx fp32",
        "onnx fp32 uint8",
    ]
    assert [cell.setup for cell in text.cells] == ["torch fp32", "onnx fp32"]
    with pytest.raises(UsageError, match="not torch, torch-compile"):
        choose_inputs(["torch", "torch-compile"], ("uint8",))


@pytest.mark.slow
def test_a_profile_shows_both_kinds(stocked: ModelSpec, cli: Cli) -> None:
    cli(
        "profile", "--runtime", "torch,onnx", "--tower", "image", "--batch", "2",
        "--input", "float32,uint8", "--quick", "-q", check=True,
    )  # fmt: skip
    (path,) = store.find_results()
    table = cost_table([store.read_result(path)])
    runtime, ratio = (table.names.index(name) for name in ("Runtime", "vs PyTorch"))
    ratios = {row[runtime]: row[ratio] for row in table.texts}
    assert list(ratios) == ["torch fp32", "onnx fp32", "onnx fp32 uint8"]
    assert ["x" in text for text in ratios.values()] == [False, True, True]


def test_an_evaluation_feeds_bytes(stocked: ModelSpec, cli: Cli, samples: str) -> None:
    words = ("--dataset", samples, "--input", "uint8", "-q")
    cli("eval", sample.NAME, *words, check=True)
    (path,) = store.find_results()
    scores = store.read_result(path).scores
    assert {s.cell.setup for s in scores} == {"torch fp32", "onnx fp32 uint8"}
    found = [s for s in scores if s.cell.input == "uint8"]
    assert found and all(s.difference == 0 for s in found)


def test_the_sample_gives_the_same(sample_artifact: Path, pictures: list[Path], home: Path) -> None:
    store_of(sample_artifact, home)
    done = make(zoo.resolve(sample.NAME), ("image",), BYTES)
    graph = onnx.load(done.folder / "image" / "model.onnx")
    assert operators(graph)[:4] == ["Cast", "Mul", "Sub", "Conv"]  # it pads
    floats = embeddings(sample_artifact, pictures)
    found = embeddings(done.folder, pictures)
    np.testing.assert_allclose(found, floats, rtol=0, atol=2e-6 * np.abs(floats).max())


def test_cells_of_older_files_were_fed_floats() -> None:
    from clipperf.serialize import from_json, to_json

    cell = Cell("m", "image", "onnx", "fp32", "cpu", 1, 1)
    older = {name: value for name, value in to_json(cell).items() if name != "input"}
    assert from_json(Cell, older) == cell and cell.input == "float32"


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", sample.NAME, "--input", "uint8", "--tower", "text"), "is for images"),
        (("export", sample.NAME, "--input", "int8"), "choose float32 or uint8"),
        (("export", sample.NAME, "--input", "float32,uint8"), "choose float32 or uint8"),
        (("profile", "--input", "uint8", "--tower", "text"), "is for images"),
        (("profile", "--input", "uint8", "--runtime", "torch"), "load exported towers"),
        (("eval", "--input", "bytes"), "choose float32 or uint8"),
        (("eval", "--input", "uint8", "--runtime", "torch"), "load exported towers"),
    ],
)
def test_wrong_uses_say_what_to_do(words: tuple[str, ...], message: str, cli: Cli) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
