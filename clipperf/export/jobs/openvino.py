"""A tower as an OpenVINO IR: in floats, with int8 weights, or quantised by NNCF after training.

NNCF imports torch, so all of this runs in the child process of an export.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperf.engines import openvino as runtime
from clipperf.errors import ExportError
from clipperf.export.job import Built, Job, Tell, like
from clipperf.export.judge.drift import Judge
from clipperf.graph import patches, proto
from clipperf.nouns.variant import Precision
from clipperf.system.foreign import link_or_copy

LAYERS = ("MatMul", "Convolution", "GroupConvolution")

ROUGHLY = 4
"""Layers are compared by scales of one in so many samples."""


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
        self._probes = judge.probes
        operators = _read(self._source).get_ordered_ops()
        self.layers = [op.get_friendly_name() for op in operators if op.get_type_name() in LAYERS]

    def write(self, kept: Sequence[str], path: Path, rough: bool = False) -> None:
        """See `Quantizer`; most of NNCF's time goes into running the samples."""
        nncf = _nncf()
        probes = [probe[:: ROUGHLY if rough else 1] for probe in self._probes]
        model = nncf.quantize(
            _read(self._source),
            nncf.Dataset(probes),
            subset_size=len(probes),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(kept)),
        )
        _save(model, path, self._row)


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
