"""bf16: batch norm folded before the cast, the graph checked widened, TensorRT builds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.nouns.variant import Side

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
onnx = pytest.importorskip("onnx")
ml_dtypes = pytest.importorskip("ml_dtypes")

from torch import nn  # noqa: E402

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.export.jobs.tower import write_settings  # noqa: E402
from clipperf.export.judge import parity  # noqa: E402
from clipperf.graph import trace as onnx_export  # noqa: E402
from clipperf.graph import widen  # noqa: E402
from clipperf.graph.fold import fold_batch_norms  # noqa: E402
from clipperf.models import zoo  # noqa: E402
from clipperf.models.family import family_of  # noqa: E402
from clipperf.serve.parity_inputs import parity_inputs, write_inputs  # noqa: E402

BF16 = onnx.TensorProto.BFLOAT16


# --- batch norm ----------------------------------------------------------------------------


def norm_of(channels: int, **values: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=0.25)
    for name, value in values.items():
        getattr(norm, name).data.fill_(value)
    return norm


def test_one_fold_by_hand() -> None:
    convolution = nn.Conv2d(1, 2, 1)
    convolution.weight.data = torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1)
    convolution.bias.data = torch.tensor([5.0, 7.0])
    norm = norm_of(2, running_mean=2, running_var=3.75, weight=6, bias=10)
    module = nn.Sequential(convolution, norm).eval()
    assert fold_batch_norms(module, torch.zeros(1, 1, 2, 2)) == 1
    # 6 / sqrt(3.75 + 0.25) = 3: weights times 3, biases (b - 2) * 3 + 10
    assert convolution.weight.flatten().tolist() == [9.0, -3.0]
    assert convolution.bias.tolist() == [19.0, 25.0]
    assert module(torch.ones(1, 1, 1, 1)).flatten().tolist() == [28.0, 22.0]


class ReadTwice(nn.Module):
    """The output of its convolution is read by the batch norm and by an addition."""

    def __init__(self, own_norm: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = norm_of(3, running_mean=0.5, running_var=2, weight=1.5, bias=-1)
        self.own_norm = own_norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        return self.norm(x) + (x if self.own_norm else self.norm(self.convolution(x)))


class ChangedInPlace(nn.Module):
    """Between convolution and batch norm the values change, in the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = norm_of(3, running_mean=0.5, running_var=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x).relu_())


@pytest.mark.parametrize(
    "module",
    [ReadTwice(True), ReadTwice(False), ChangedInPlace()],
    ids=["read", "twice", "in place"],
)
def test_what_cannot_be_folded_is_kept_exact(module: nn.Module) -> None:
    module.eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = module(x)
    assert fold_batch_norms(module, x) == 0
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    torch.testing.assert_close(module(x), before, atol=2e-6, rtol=1e-6)


def resnet() -> nn.Module:
    return open_clip.modified_resnet.ModifiedResNet([1, 2, 1, 1], 32, 4, 64, 16)


def timm(name: str) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name)


NETS = {
    "ModifiedResNet": (resnet, 22, 22),
    "BatchNormAct2d": (timm("test_efficientnet"), 13, 13),
    "MobileOne": (timm("fastvit_t8"), 70, 46),
}
"""Builder, batch norms, how many of these follow a convolution of their own."""


@pytest.mark.parametrize("name", NETS)
def test_folded_nets_give_the_same(name: str) -> None:
    build, norms, folded = NETS[name]
    torch.manual_seed(0)
    module = build().eval().requires_grad_(False)
    found = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in found:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.01, 3)
        norm.bias.normal_()
    x = torch.randn(2, 3, 64, 64)
    before = module(x)
    assert (len(found), fold_batch_norms(module, x)) == (norms, folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    torch.testing.assert_close(module(x), before, atol=float(before.abs().max()) * 2e-6, rtol=0)


# --- widening ------------------------------------------------------------------------------


def bf16_model(path: Path) -> np.ndarray:
    """Write y = float(bfloat16(x) * w + c), w an initializer and c a Constant; return w."""
    from onnx import helper, numpy_helper

    w = np.array([1 / 3, -1e30, 1e-30], ml_dtypes.bfloat16)
    c = numpy_helper.from_array(np.array([1 / 7], ml_dtypes.bfloat16), "c")
    vector = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["narrow"], to=BF16),
            helper.make_node("Constant", [], ["c"], value=c),
            helper.make_node("Mul", ["narrow", "w"], ["scaled"]),
            helper.make_node("Add", ["scaled", "c"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=onnx.TensorProto.FLOAT),
        ],
        "g",
        [vector("x", onnx.TensorProto.FLOAT, [3])],
        [vector("y", onnx.TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(w, "w")],
        value_info=[vector(name, BF16, [3]) for name in ("narrow", "scaled", "sum")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return w


def test_widened_graphs_compute_with_the_rounded_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    w = bf16_model(path)
    before = path.read_bytes()
    with widen.runnable_on_cpu(path, "bf16") as copied:
        assert copied != path
        model = onnx.load(copied)
        onnx.checker.check_model(model, full_check=True)
        assert BF16 not in types_in(model)
        x = np.array([1.00001, 2, 3], np.float32)  # not rounded to bf16, where it would be 1
        y = open_session(copied, 1).run(x)
    expected = x * w.astype(np.float32) + np.float32(np.array(1 / 7, ml_dtypes.bfloat16))
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert y[0] != np.float32(1.00001) * np.float32(1 / 3) + np.float32(1 / 7)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_runs_anyway_is_not_copied(precision: str, tmp_path: Path) -> None:
    with widen.runnable_on_cpu(tmp_path / "model.onnx", precision) as path:
        assert path == tmp_path / "model.onnx"
    assert list(tmp_path.iterdir()) == []


def types_in(model: Any) -> set[int]:
    """Every data type that a model's tensors, values and Cast nodes have."""
    graph = model.graph
    found = {t.data_type for t in graph.initializer}
    values = [*graph.input, *graph.output, *graph.value_info]
    found |= {value.type.tensor_type.elem_type for value in values}
    for node in graph.node:
        for attribute in node.attribute:
            found |= {attribute.i} if attribute.name == "to" else {attribute.t.data_type}
    return found


# --- the sample, for real ------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[Side, tuple[Path, Any, Any]]:
    """The sample's towers in bf16: model file, inputs and PyTorch fp32's embeddings."""
    spec = zoo.resolve("clipperf-sample")
    found: dict[Side, tuple[Path, Any, Any]] = {}
    for side in ("image", "text"):
        folder = tmp_path_factory.mktemp(side)
        write_settings(spec, side, folder)
        write_inputs(folder)
        inputs = parity_inputs(folder, side)
        tower = family_of(spec).build(spec, side, False)
        with torch.inference_mode():
            reference = tower.module(torch.from_numpy(inputs)).numpy()
        onnx_export.export_onnx(tower, folder / "model.onnx", "bf16")
        found[side] = folder / "model.onnx", inputs, reference
    return found


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_sample_in_bf16(side: Side, exported: dict[Side, tuple[Path, Any, Any]]) -> None:
    path, inputs, reference = exported[side]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    weights = {t.data_type for t in model.graph.initializer if t.data_type != 7}
    assert weights == {BF16}, "int64 shapes apart, every initializer is bfloat16"
    given, produced = model.graph.input[0], model.graph.output[0]
    assert given.type.tensor_type.elem_type == (1 if side == "image" else 7)
    assert produced.type.tensor_type.elem_type == 1
    with widen.runnable_on_cpu(path, "bf16") as runnable:
        engine = open_session(runnable, 1, prepack=False)
        found = parity.measure(engine, inputs, reference, "bf16")
    assert found.passed, parity.explain(found, side)
    assert found.min_cosine < 1 - 1e-7, "weights rounded to bf16 cannot be that close"


def test_tensorrt_builds_the_folded_tower(
    exported: dict[Side, tuple[Path, Any, Any]],
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(exported["image"][0]))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    given = network.get_input(0)
    rest = tuple(given.shape)[1:]
    profile.set_shape(given.name, (1, *rest), (2, *rest), (8, *rest))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and plan.nbytes > 1_000_000
