"""The forms of an image tower in int8 that `kernels.py` compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from clipperf.engines import onnxruntime, openvino, processor
from clipperf.export.jobs import openvino as openvino_job
from clipperf.graph import patches, proto, quantize, trace
from clipperf.models.family import family_of
from clipperf.nouns.cell import Engine
from clipperf.nouns.model import ModelSpec

Run = Callable[[np.ndarray], np.ndarray]

CALIBRATED_ON = range(1, 9)
"""Seeds of the random pixels that fix scales: speed does not depend on them."""


def fp32_tower(spec: ModelSpec, folder: Path) -> Path:
    """Write a model's image tower in fp32."""
    path = folder / "model.onnx"
    trace.export_onnx(family_of(spec).build(spec, "image", False), path)
    return path


@dataclass(frozen=True)
class Made:
    """A tower in fp32 at `source`, and a folder for what is made of it."""

    spec: ModelSpec
    source: Path
    folder: Path
    threads: int
    made: dict[str, Path] = field(default_factory=dict)

    def pixels(self, batch: int, seed: int = 0) -> np.ndarray:
        """Random pixels: float32 [batch, 3, px, px]."""
        side = self.spec.image_px
        return (
            np.random.default_rng(seed).standard_normal((batch, 3, side, side)).astype(np.float32)
        )

    def graph(self, method: quantize.Method, product: bool, change: str = "") -> Path:
        """The graph quantised by a method, with its patches as a product or not."""
        name = f"{method}-{product}-{change}"
        if name not in self.made:
            model = proto.load(self.source)
            if product:
                patches.as_product(model)
            ranges = self._ranges(model, method) if method in quantize.CALIBRATED else None
            made = quantize.quantized(model, method, (), ranges)
            if change:
                CHANGES[change](made, self.spec)
            self.made[name] = self.folder / f"{name}.onnx"
            quantize.save(made, self.made[name])
        return self.made[name]

    def _ranges(self, model: onnx.ModelProto, method: quantize.Method) -> dict[str, float]:
        names = dict.fromkeys(layer.activation for layer in quantize.layers(model, method))

        def run(probed: onnx.ModelProto) -> Iterator[Any]:
            path = self.folder / "probed.onnx"
            quantize.save(probed, path)
            session = onnxruntime.cpu_session(path, self.threads)
            for seed in CALIBRATED_ON:
                yield session.run(None, {"pixel_values": self.pixels(4, seed)})

        return quantize.activation_ranges(model, list(names), run)

    def ir(self, product: bool) -> Path:
        """OpenVINO's IR in int8 by NNCF, with its patches as a product or not."""
        import nncf

        name = f"ir-{product}"
        if name not in self.made:
            source = self.source
            if product:
                (self.folder / "product").mkdir()
                source = openvino_job.with_product(source, self.folder / "product")
            core = openvino.library().Core()
            model = nncf.quantize(
                core.read_model(source),
                nncf.Dataset([self.pixels(4, seed) for seed in CALIBRATED_ON]),
                subset_size=len(CALIBRATED_ON),
                model_type=nncf.ModelType.TRANSFORMER,
            )
            self.made[name] = self.folder / f"{name}.xml"
            openvino.library().save_model(model, self.made[name], compress_to_fp16=False)
        return self.made[name]


@dataclass(frozen=True)
class Form:
    """A way to compute the tower; `open` gives what runs it.

    `open` raises ImportError where a package for it is not installed.
    """

    name: str
    open: Callable[[Made], Run]


# --- graphs changed ------------------------------------------------------------------------


def attention_fused(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Put ONNX Runtime's MultiHeadAttention in the place of each written-out attention."""
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {t.name: t for t in graph.initializer}
    fused = {}
    for softmax in [node for node in graph.node if node.op_type == "Softmax"]:
        scores = maker[softmax.input[0]]
        queries, keys = (maker[name] for name in scores.input)
        scaled = maker[queries.input[0]]
        (mixed,) = readers[softmax.output[0]]
        (turned,) = readers[mixed.output[0]]
        (joined,) = readers[turned.output[0]]
        heads = numpy_helper.to_array(constants[maker[scaled.input[0]].input[1]])[2]
        split = (
            maker[scaled.input[0]],
            maker[keys.input[0]],
            maker[maker[mixed.input[1]].input[0]],
        )
        fused[joined.output[0]] = helper.make_node(
            "MultiHeadAttention",
            [node.input[0] for node in split],
            [joined.output[0]],
            f"{joined.output[0]}_fused",
            domain="com.microsoft",
            num_heads=int(heads),
            scale=float(numpy_helper.to_array(constants[scaled.input[1]])),
        )
    nodes = [fused.get(node.output[0], node) for node in graph.node]
    nodes = proto.needed(nodes, graph.output)
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import.add(domain="com.microsoft", version=1)


def without_sign(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Activations from 0 to 255 with 128 for zero, in the place of -127 to 127 (U8S8 for S8S8)."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_qzero"):
            tensor.CopyFrom(numpy_helper.from_array(np.array(128, np.uint8), tensor.name))


CHANGES = {"attention": attention_fused, "unsigned": without_sign}


# --- opened --------------------------------------------------------------------------------


def by_onnx(method: quantize.Method, product: bool, change: str = "") -> Callable[[Made], Run]:
    """ONNX Runtime with one call at a time."""

    def opened(made: Made) -> Run:
        return onnxruntime.open_session(made.graph(method, product, change), made.threads).run

    return opened


def by_openvino(product: bool, precision: str = "fp32") -> Callable[[Made], Run]:
    """OpenVINO with one call at a time, what is not quantised in the floats of `precision`."""

    def opened(made: Made) -> Run:
        processor.check(precision)
        return openvino.open_compiled(made.ir(product), made.threads, precision=precision).run

    return opened


def in_two_streams(open_engine: Callable[[Made], Engine]) -> Callable[[Made], Run]:
    """An engine with two streams, over which a batch of more than one is spread."""

    def opened(made: Made) -> Run:
        engine, pool = open_engine(made), ThreadPoolExecutor(2)

        def run(pixels: np.ndarray) -> np.ndarray:
            parts = np.array_split(pixels, min(2, len(pixels)))
            return np.concatenate(list(pool.map(engine.run, parts)))

        return run

    return opened


def by_torchao(made: Made) -> Run:
    """torch.compile of PyTorch's tower with torchao's int8: activations by row, as they come."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    from clipperf.models.lean import LeanBlock, make_lean

    module = family_of(made.spec).build(made.spec, "image", False).module
    make_lean(module)
    for block in [part for part in module.modules() if isinstance(part, LeanBlock)]:
        joint = torch.nn.Linear(*reversed(block.attn.in_proj_weight.shape))
        joint.weight, joint.bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        block.joint = joint  # which torchao changes where it finds it
        block.projected = _projected(block)  # type: ignore[method-assign, assignment]
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    torch.set_num_threads(made.threads)
    torch._inductor.config.freezing = True
    compiled = torch.compile(module)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = compiled(torch.from_numpy(pixels)).numpy()
        return found

    return run


def _projected(block: Any) -> Callable[[Any], Any]:
    return lambda x: block.joint(block.ln_1(x)).chunk(3, dim=-1)


FORMS = (
    Form("onnx int8", by_onnx("dynamic", True)),
    Form("onnx int8, patches convolved in fp32", by_onnx("dynamic", False)),
    Form("onnx int8, attention as one operator", by_onnx("dynamic", True, "attention")),
    Form("onnx int8, a scale a row", by_onnx("rows", True)),
    Form("onnx int8, fixed scales, S8S8", by_onnx("static", False)),
    Form("onnx int8, fixed scales, U8S8", by_onnx("static", False, "unsigned")),
    Form("openvino int8", by_openvino(True)),
    Form("openvino int8, patches convolved", by_openvino(False)),
    Form("openvino int8, the rest in bf16", by_openvino(True, "bf16")),
    Form(
        "onnx int8, two streams",
        in_two_streams(
            lambda made: onnxruntime.open_session(
                made.graph("dynamic", True), made.threads, streams=2
            )
        ),
    ),
    Form(
        "openvino int8, two streams",
        in_two_streams(lambda made: openvino.open_compiled(made.ir(True), made.threads, streams=2)),
    ),
    Form("torchao int8, compiled", by_torchao),
)
