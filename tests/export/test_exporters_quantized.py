"""int8 and fp8 towers: the graphs, the search for layers to keep, refusals, caching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import clipperf
from clipperf.bench import prepare
from clipperf.engines.onnxruntime import open_session
from clipperf.errors import ParityError, UsageError
from clipperf.evals import datasets
from clipperf.export.derived import QuantizeSettings
from clipperf.export.exporter import Below, chosen
from clipperf.export.exporters import quantized
from clipperf.export.judge.drift import Judge
from clipperf.export.judge.search import search
from clipperf.export.make import make
from clipperf.graph import quantize
from clipperf.graph.quantized_nodes import NUMBERS
from clipperf.models import zoo
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.system import store

SPEC = zoo.resolve("clipperf-sample")


def variant(precision: str, *settings: Any, **more: Any) -> Variant:
    return Variant("onnx", precision, settings=QuantizeSettings(*settings, **more))


USUAL = variant("int8")


def most_of(method: quantize.Method) -> int:
    """The largest number that a weight takes in graphs for this CPU."""
    rows = (PRECISIONS.get(name) for name in ("int8", "int8-row", "int8-static", "fp8"))
    return next(quantize.weight_max(row) for row in rows if quantize.method_of(row) == method)


@pytest.fixture(scope="module")
def sample_home(sample_artifact: Path) -> Iterator[Path]:
    """The store that holds the sample's fp32 towers."""
    home = sample_artifact.parents[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(home))
        yield home


def model_of(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], width: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(
    model: onnx.ModelProto, x: np.ndarray, path: Path, precision: str | None = None
) -> np.ndarray:
    quantize.save(model, path)
    return open_session(path, 1, precision=precision).run(x)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# --- the graphs ----------------------------------------------------------------------------


def test_weights_get_one_symmetric_scale_for_each_output_channel() -> None:
    weight = np.array([[1, 254], [-0.5, 2]], np.float32)  # largest of the columns: 1 and 254
    model = model_of(
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"), weights={"w": weight}, width=2
    )
    found = weights_of(quantize.quantized(model, "dynamic"))
    assert found["y_weight_int8"].tolist() == [[127, 127], [-64, 1]]  # -63.5 rounds to even
    assert found["y_weight_scale"].tolist() == [np.float32(1 / 127), np.float32(2)]
    assert "w" not in found


@pytest.mark.parametrize("method", ["dynamic", "rows", "static", "fp8"])
@pytest.mark.parametrize("form", ["matmul", "gemm", "gemm transposed", "transposed matmul"])
def test_every_form_of_a_product_stays_close(
    form: str, method: quantize.Method, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((32, 16), np.float32), rng.standard_normal(16, np.float32)
    x = rng.standard_normal((5, 32), np.float32)
    turned = {"w": np.ascontiguousarray(w.T), "b": b}
    nodes, weights = {
        "matmul": ([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": w}),
        "gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "m")], {"w": w, "b": b}),
        "gemm transposed": (
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "m", transB=1)],
            turned,
        ),
        "transposed matmul": (
            [
                helper.make_node("Transpose", ["w"], ["t"], "t", perm=[1, 0]),
                helper.make_node("MatMul", ["x", "t"], ["y"], "m"),
            ],
            {"w": turned["w"]},
        ),
    }[form]
    model = model_of(*nodes, weights=weights, width=32)
    ranges = {"x": float(np.abs(x).max())}
    changed = quantize.quantized(model, method, ranges=ranges, most=most_of(method))
    expected = x @ w + (b if "gemm" in form else 0)
    assert np.abs(run(model, x, tmp_path / "fp32.onnx") - expected).max() < 1e-4
    found = run(changed, x, tmp_path / "eight.onnx", NUMBERS[method].name)
    # Sums of 32 products that each differ by up to half a step; fp8 has steps of an eighth.
    assert 0 < np.abs(found - expected).max() < (1.5 if method == "fp8" else 0.5)
    assert "w" not in weights_of(changed)
    assert "Transpose" not in {node.op_type for node in changed.graph.node}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fp8_rounds_to_four_significant_bits_from_a_channels_largest(dtype: type) -> None:
    """448 is the largest number of E4M3; between 256 and 448 its step is 32."""
    weight = np.array([[1, 1e-4], [-0.7, 0]], dtype)
    model = model_of(
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"), weights={"w": weight}, width=2
    )
    found = weights_of(quantize.quantized(model, "fp8", ranges={"x": 44.8}))
    values, scale = found["y_weight_fp8"], found["y_weight_scale"]
    assert str(values.dtype) == "float8_e4m3fn" and scale.dtype == found["x_qscale"].dtype == dtype
    assert values[:, 0].astype(float).tolist() == [448, -320]  # from -313.6
    assert scale[0] == dtype(1 / 448) and found["x_qscale"] == dtype(0.1)
    # A scale is a normal number: 1e-4 / 448 would be zero in float16.
    assert scale[1] == dtype(max(1e-4 / 448, np.finfo(dtype).tiny)) and values[0, 1] > 0


def test_a_row_is_rounded_by_its_own_largest_value(tmp_path: Path) -> None:
    """Weights that 127 steps hold exactly leave the rounding of the rows alone."""
    model = model_of(
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"),
        weights={"w": np.eye(2, dtype=np.float32)},
        width=2,
    )
    x = np.array([[127, 2.6], [1.27, 0.026], [0, 0], [-1, 0.25], [np.nan, 1]], np.float32)
    rows = run(quantize.quantized(model, "rows"), x, tmp_path / "rows.onnx")
    steps = [[127, 3], [127, 3], [0, 0], [-127, 32]]  # 31.75 rounds to 32
    scales = np.array([[1], [0.01], [1], [1 / 127]])
    np.testing.assert_allclose(rows[:4], np.array(steps) * scales, rtol=1e-6)
    assert np.isnan(rows[4]).all(), "what is no number stays none"
    whole = run(quantize.quantized(model, "dynamic"), x[:4], tmp_path / "whole.onnx")
    assert (whole[1] != rows[1]).any(), "one scale for all is too coarse for the second row"


def test_scales_by_row_leave_an_embedding_alone(sample_home: Path, samples: str) -> None:
    """What shares a batch, and the padding of a text, changes int8's embeddings, not int8-row's."""
    texts = ["a red heart", "drawing of a large ship that crosses the sea at night", "b", "sun"]
    found = {}
    for precision in ("int8", "int8-row"):
        done = make(SPEC, ("text",), variant(precision, samples, 6.0))
        with clipperf.load(done.folder, threads=1) as model:
            together = model.encode_texts(texts)
            alone = np.concatenate([model.encode_texts([text]) for text in texts])
        found[precision] = float(np.abs(together - alone).max())
    assert found["int8-row"] < 1e-5 < 1e-3 < found["int8"]


def test_a_kept_layer_is_untouched_and_exact(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((8, 8), np.float32)
    model = model_of(
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"), weights={"w": weight}, width=8
    )
    kept = quantize.quantized(model, "dynamic", kept=["m"])
    assert [node.op_type for node in kept.graph.node] == ["MatMul"]
    assert weights_of(kept)["w"].tolist() == weight.tolist()


def test_activation_ranges_are_the_largest_magnitudes_over_all_batches(tmp_path: Path) -> None:
    eye = np.eye(2, dtype=np.float32)
    model = model_of(
        helper.make_node("MatMul", ["x", "w"], ["h"], "a"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "b"),
        weights={"w": eye * 3, "v": eye},
        width=2,
    )
    batches = [np.array([[1, -5]], np.float32), np.array([[2, 4], [0, 1]], np.float32)]

    def observe(probed: onnx.ModelProto) -> Iterator[Sequence[np.ndarray]]:
        import onnxruntime

        session = onnxruntime.InferenceSession(probed.SerializeToString())
        for batch in batches:
            yield session.run(None, {"x": batch})

    assert quantize.activation_ranges(model, ["x", "h"], observe) == {"x": 5.0, "h": 15.0}


@pytest.mark.parametrize(
    ("side", "method", "expected"),
    [
        # attention pool: queries, keys, values and the output
        ("image", "dynamic", {"MatMul": 4}),
        ("image", "rows", {"MatMul": 4}),
        ("image", "static", {"Conv": 31, "MatMul": 4}),
        # three blocks of four products, one more in the last, the projection, the table of tokens
        ("text", "dynamic", {"MatMul": 14, "Gather": 1}),
        ("text", "static", {"MatMul": 14}),
        ("image", "fp8", {"MatMul": 4}),
        ("text", "fp8", {"MatMul": 14}),
    ],
)
def test_layers_of_the_sample(
    sample_artifact: Path, side: str, method: quantize.Method, expected: dict[str, int]
) -> None:
    model = onnx.load(sample_artifact / side / "model.onnx")
    found = quantize.layers(model, method)
    assert Counter(layer.op for layer in found) == expected
    changed = Counter(
        node.op_type
        for node in quantize.quantized(
            model, method, ranges={layer.activation: 1.0 for layer in found}
        ).graph.node
    )
    products = sum(count for op, count in expected.items() if op != "Gather")
    if method in ("dynamic", "rows"):
        assert changed["MatMulInteger"] + changed["MatMulIntegerToFloat"] == products
    else:
        activations = {layer.activation for layer in found}
        assert changed["QuantizeLinear"] == len(activations)
        assert changed["DequantizeLinear"] == len(activations) + products


# --- the search ----------------------------------------------------------------------------


FRAGILE = "layer5"


@pytest.fixture
def fragile_chain() -> onnx.ModelProto:
    """Eight rotations; the input of layer5 has a huge channel that its weights ignore.

    One scale for all channels leaves nothing of the others there, and is harmless elsewhere.
    """
    rng = np.random.default_rng(3)
    weights, nodes, name = {}, [], "x"
    for i in range(8):
        weights[f"w{i}"] = np.linalg.qr(rng.standard_normal((32, 32)))[0].astype(np.float32)
        out = "y" if i == 7 else f"h{i}"
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [out], f"layer{i}"))
        name = out
    weights["w4"][:, 7] *= 100
    weights["w5"][7] = 0
    return model_of(*nodes, weights=weights, width=32)


def test_search_keeps_exactly_the_fragile_layer(
    fragile_chain: onnx.ModelProto, tmp_path: Path
) -> None:
    x = np.random.default_rng(4).standard_normal((64, 32)).astype(np.float32)
    expected = run(fragile_chain, x, tmp_path / "fp32.onnx")

    def drift(kept: Sequence[str]) -> float:
        changed = quantize.quantized(fragile_chain, "dynamic", kept, most=most_of("dynamic"))
        found = run(changed, x, tmp_path / "t.onnx")
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        return float(1 - (np.einsum("ij,ij->i", found, expected) / lengths).mean())

    names = [layer.name for layer in quantize.layers(fragile_chain, "dynamic")]
    assert names == [f"layer{i}" for i in range(8)]
    assert drift(()) > 0.05
    found = search(names, drift, lambda kept: drift(kept) < 0.01)
    assert found.kept == (FRAGILE,)
    assert found.holds
    assert found.trials <= 2 + 2 * 3  # the whole, two halves at each of three levels, the result


def test_search_finds_two_layers_in_the_order_of_their_harm() -> None:
    harm = {"b": 3.0, "f": 5.0}
    names = list("abcdefgh")

    def left(kept: Sequence[str]) -> float:
        return sum(harm.get(name, 0.01) for name in names if name not in kept)

    found = search(names, left, lambda kept: left(kept) < 1)
    assert (found.kept, found.holds) == (("f", "b"), True)


def test_search_asks_for_no_drift_where_all_is_well() -> None:
    def fail(kept: Sequence[str]) -> float:
        raise AssertionError("asked")

    found = search(["a", "b"], fail, lambda kept: True)
    assert (found.kept, found.holds, found.trials) == ((), True, 1)


def test_search_keeps_half_of_the_layers_at_most() -> None:
    found = search(list("abcdef"), lambda kept: 1.0, lambda kept: False)
    assert not found.holds
    assert len(found.kept) == 3
    assert found.needed == (), "not even all of them would be enough"


def test_search_names_the_layers_that_it_would_take() -> None:
    """Five of eight hurt: the fifth is the worst of what is left when four are kept."""
    names, fragile = list("abcdefgh"), set("abcef")

    def left(kept: Sequence[str]) -> float:
        return float(len(fragile - set(kept)))

    found = search(names, left, lambda kept: left(kept) == 0)
    assert (found.kept, found.holds) == (("a", "b", "c", "e"), False)
    assert found.needed == ("a", "b", "c", "e", "f")


# --- the judge -----------------------------------------------------------------------------


class Shuffled:
    """An engine whose embeddings belong to the next input of the batch."""

    def __init__(self, path: Path) -> None:
        self._engine = open_session(path, 1)

    def run(self, array: np.ndarray) -> np.ndarray:
        return np.roll(self._engine.run(array), 1, axis=0)

    def close(self) -> None:
        self._engine.close()


class Nothing:
    """An engine whose arithmetic overflows."""

    def run(self, array: np.ndarray) -> np.ndarray:
        return np.full((len(array), 192), np.nan, np.float32)

    def close(self) -> None:
        """Nothing is held."""


def test_the_judge_sees_no_loss_in_fp32_and_all_of_it_in_a_mix_up(
    sample_artifact: Path, samples: str
) -> None:
    data = datasets.load_dataset(samples)
    paths = {side: sample_artifact / side / "model.onnx" for side in ("image", "text")}
    engines = {side: open_session(path, 1) for side, path in paths.items()}
    judge = Judge("image", sample_artifact, data, engines, False, "float32")  # type: ignore[arg-type]
    same = judge.loss(engines["image"])
    assert same.n == 24
    assert same.points == 0
    assert same.min_cosine == pytest.approx(1)
    assert judge.drift(engines["image"]) == pytest.approx(0, abs=1e-6)
    worse = judge.loss(Shuffled(paths["image"]))
    assert worse.min_cosine < 0.9
    assert not worse.within(margin=100, min_cosine=0.99)
    assert judge.drift(Shuffled(paths["image"])) > 0.05
    nothing = judge.loss(Nothing())
    assert nothing.points is None and not nothing.within(margin=100, min_cosine=0.99)
    assert judge.drift(Nothing()) == 1


# --- artifacts -----------------------------------------------------------------------------


def test_int8_of_the_sample_is_small_close_cached_and_loads(
    sample_home: Path, samples: str, sample_artifact: Path
) -> None:
    wanted = variant("int8", samples, 5.0)
    first = make(SPEC, ("text",), wanted)
    tower = first.manifest.tower("text")
    assert tower is not None and tower.parity is not None
    assert (first.built, tower.precision, tower.path) == (("text",), "int8", "text/model.onnx")
    whole = (sample_artifact / tower.path).stat().st_size
    assert 0.25 < tower.disk_bytes / whole < 0.28  # all large tensors in a quarter
    assert tower.parity.passed
    assert 0.99 <= tower.parity.min_cosine < 0.99999  # really rounded
    assert tower.findings["layers"] == "15"
    assert tower.findings["kept in fp32"] == "none"
    assert tower.findings["samples"] == "24"
    assert tower.findings["weight bits"] in ("7", "8")
    assert tower.options == {"calibrate": samples, "margin": "5"}
    assert make(SPEC, ("text",), wanted).up_to_date
    with clipperf.load(first.folder) as ours, clipperf.load(sample_artifact) as fp32:
        pair = [m.encode_texts(["a red heart"], normalize=True) for m in (ours, fp32)]
    assert float((pair[0] * pair[1]).sum()) > 0.99


def test_static_int8_is_calibrated_on_a_folder(sample_home: Path, samples: str) -> None:
    wanted = chosen(Variant("onnx", "int8"), {"--calibrate": samples, "--margin": 100})
    assert wanted == variant("int8-static", samples, 100)
    done = make(SPEC, ("text",), wanted)
    tower = done.manifest.tower("text")
    assert tower is not None and tower.parity is not None and tower.parity.passed
    graph = onnx.load(done.folder / tower.path).graph
    zeros = [t for t in graph.initializer if t.name.endswith("_qzero")]
    assert zeros and all(not numpy_helper.to_array(t).any() for t in zeros)  # symmetric


def test_fp8_is_made_of_the_fp16_graph_and_judged_by_fp32(sample_home: Path, samples: str) -> None:
    """As few bytes as int8 where a layer has them, and half of fp32's where none has."""
    done = make(SPEC, ("text",), variant("fp8", samples, 5.0))
    tower = done.manifest.tower("text")
    assert tower is not None and tower.parity is not None and tower.parity.passed
    assert 0.99 <= tower.parity.min_cosine < 0.9999  # really rounded
    assert tower.findings["layers"] == "14" and tower.findings["kept in fp16"] == "none"
    assert tower.findings["samples"] == "24"
    kinds = Counter(
        TensorProto.DataType.Name(t.data_type)
        for t in onnx.load(done.folder / tower.path).graph.initializer
        if len(t.dims) == 2
    )
    assert kinds["FLOAT8E4M3FN"] == 14 and "FLOAT" not in kinds
    with clipperf.load(done.folder) as ours:
        assert np.isfinite(ours.encode_texts(["a red heart"])).all()


def test_what_cannot_hold_is_refused_and_leaves_nothing(
    sample_home: Path, samples: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(PRECISIONS.get("int8"), min_cosine=1.1)  # more than any tower has
    monkeypatch.setitem(PRECISIONS._rows, "int8", row)
    with pytest.raises(ParityError, match=r"15 layers in fp32 it still loses .* 24 samples"):
        make(SPEC, ("text",), variant("int8", samples, 7.0))
    stored = [m.towers[0].options.get("margin") for _, m in store.find_artifacts()]
    assert "7" not in stored


def test_keys_tell_apart_all_that_changes_the_bytes(
    samples: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(below: str, wanted: Variant = USUAL) -> str:
        return quantized.key(SPEC, "text", wanted, Below(below))

    keys = [
        key("a"),
        key("b"),
        key("a", variant("int8-static")),
        key("a", variant("fp8")),
        key("a", variant("int8", margin=1.0)),
        key("a", variant("int8", calibrate=samples)),
    ]
    assert len(set(keys)) == len(keys)
    assert key("a") == keys[0]
    monkeypatch.setattr("clipperf.export.derived.version_of", lambda package: "another")
    assert key("a") not in keys


def test_profile_and_eval_take_the_int8_artifact(
    sample_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def made(spec: object, sides: object, wanted: Variant, **_: object) -> object:
        asked.append(wanted)
        raise UsageError("enough")

    monkeypatch.setattr("clipperf.export.make.make", made)
    cell = Cell(SPEC.id, "text", "onnx", "int8", "cpu", 1, 1)
    with pytest.raises(UsageError, match="enough"):
        prepare.engine_request(cell, SPEC, lambda stage: None)
    assert asked == [USUAL]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--calibrate", "sample"), "--calibrate is for --precision int8"),
        (("--precision", "fp16", "--margin", "1"), "--margin is for --precision int8"),
        (
            ("--runtime", "openvino", "--precision", "fp16"),
            "choose from fp32, bf16, int8w, int8, int8-bf16",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: object, words: tuple[str, ...], message: str
) -> None:
    done = cli("export", "clipperf-sample", *words)  # type: ignore[operator]
    assert done.returncode == 2
    assert message in done.stderr
