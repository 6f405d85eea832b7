"""A tower as an OpenVINO IR: in floats, with int8 weights, or quantised by NNCF after training.

NNCF imports torch, so all of this runs in the child process of an export.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.engines import openvino as runtime
from clipperf.errors import ExportError
from clipperf.export.job import Built, Job, Tell, like
from clipperf.export.judge.drift import Judge
from clipperf.graph import patches, proto
from clipperf.nouns.variant import Precision
from clipperf.system.foreign import link_or_copy

LAYERS = ("MatMul", "Convolution", "GroupConvolution")

LAID_OUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Gather")
"""Operators that move the values of their first input; NNCF rounds these before they are moved."""

AT_ONCE = 4
"""Probes that NNCF runs at once: it holds what every operator gives of them, in 32 images of a
ViT-L-14 more than 16 GiB."""


def converted(job: Job, tell: Tell) -> Built:
    """Write the IR of an ONNX file; matrices of eight bits have one scale a row.

    Raises:
        ExportError: OpenVINO cannot read the graph.
    """
    tell("converting")
    source, graph = job.source()
    model = _read(source)
    if job.variant.row.is_quantised:
        nncf = _nncf()
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    _save(model, job.target, job.variant.row)
    return like(graph)


class OpenVinoQuantizer:
    """Weights and activations in int8 by NNCF's post-training quantisation on a judge's probes.

    Attention's products are quantised too, so `layers` has them beside those with weights: with
    all of them kept nothing is quantised.
    """

    weight_bits: int | None = None

    def __init__(self, source: Path, judge: Judge, job: Job, scratch: Path) -> None:
        self._source = with_product(source, scratch)
        self._row = job.variant.row
        self._probes, self._few = judge.probes, judge.few
        self.layers = [op.get_friendly_name() for op in _layers(_read(self._source))]
        self._rough: Any = None

    def write(self, kept: Sequence[str], path: Path, rough: bool = False) -> None:
        """See `Quantizer`.

        Most of NNCF's time goes into running the samples. What is only compared is quantised once,
        by few of them and with the biases as they were; layers are freed of their rounding in a
        copy of that.
        """
        if not rough:
            _save(self._quantized(self._probes, kept), path, self._row)
            return
        if self._rough is None:
            self._rough = self._quantized(self._few, rough=True)
        model = self._rough.clone()
        for layer in _layers(model):
            if layer.get_friendly_name() in kept:
                free(layer)
        _save(model, path, self._row)

    def _quantized(
        self, probes: Sequence[np.ndarray], kept: Sequence[str] = (), rough: bool = False
    ) -> Any:
        """Ranges reach from the least to the largest value, whatever is run at once."""
        nncf = _nncf()
        runs = [part for batch in probes for part in _parts(batch)]
        return nncf.quantize(
            _read(self._source),
            nncf.Dataset(runs),
            subset_size=len(runs),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(kept)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=rough,
                activations_range_estimator_params=_ranges(),
                backend_params={"compress_weights": not rough},  # else only integers are left
            ),
        )


def _parts(batch: np.ndarray) -> list[np.ndarray]:
    return [batch[at : at + AT_ONCE] for at in range(0, len(batch), AT_ONCE)]


def _ranges() -> Any:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return RangeEstimatorParametersSet.MINMAX


def _layers(model: Any) -> list[Any]:
    return [op for op in model.get_ordered_ops() if op.get_type_name() in LAYERS]


def free(layer: Any) -> None:
    """Let a layer read what its inputs were before they were rounded."""
    for place in layer.inputs():
        before = _unrounded(place.get_source_output())
        if before is not None:
            place.replace_source_output(before)


def _unrounded(value: Any) -> Any:
    """A value without the rounding that it went through; None where there was none.

    Others may read the rounded one, so operators in between are copied.
    """
    node = value.get_node()
    if node.get_type_name() == "FakeQuantize":
        return node.input_value(0)
    if node.get_type_name() not in LAID_OUT:
        return None
    first, *others = node.input_values()
    before = _unrounded(first)
    if before is None:
        return None
    copy = _same(node, [before, *others])
    return copy.output(value.get_index())


def _same(node: Any, inputs: list[Any]) -> Any:
    """The operator of a node on other inputs."""
    from openvino.utils.node_factory import NodeFactory

    factory = NodeFactory(node.get_type_info().version_id)
    return factory.create(node.get_type_name(), inputs, node.get_attributes())


def with_product(source: Path, folder: Path) -> Path:
    """The graph with its patches as a product, written to `folder`; itself where it has none."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    if not patches.as_product(model, source.parent):
        return source
    for name in proto.files_beside(model):
        link_or_copy(source.parent / name, folder / name)  # OpenVINO follows no link of names
    changed = folder / source.name
    onnx.save(model, changed)
    return changed


def _read(source: Path) -> Any:
    openvino = runtime.library()
    try:
        return openvino.Core().read_model(source)
    except RuntimeError as exc:
        raise ExportError(f"openvino cannot read {source}: {runtime.reason(exc)}") from exc


def _save(model: Any, target: Path, row: Precision) -> None:
    """Write an IR, its floats in fp16 where fewer than 16 bits of them are computed with."""
    halved = row.floats.bits == 16
    runtime.library().save_model(model, target, compress_to_fp16=halved)


def _nncf() -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf
