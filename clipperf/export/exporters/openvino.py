"""OpenVINO's IR of the fp32 ONNX towers: as they are, with int8 weights, or in int8 by NNCF.

What is to be computed in bf16 has its floats in fp16 on disk, half of their bytes: they have three
bits more than bf16, to which OpenVINO rounds them when it compiles.
"""

from __future__ import annotations

from functools import partial

from clipperf.engines import processor
from clipperf.errors import MissingDependencyError
from clipperf.export import derived
from clipperf.export.exporter import Below, Exporter
from clipperf.export.job import Built, Job, Tell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import BASELINE_PRECISION, Side, Variant
from clipperf.system import extras
from clipperf.system.env import version_of

PRECISIONS = ("fp32", "bf16", "int8w", "int8", "int8-bf16")


def packages(variant: Variant) -> tuple[str, ...]:
    """What it takes to make a variant; their versions change the bytes."""
    return ("openvino", "nncf") if variant.row.is_quantised else ("openvino",)


def complete(spec: ModelSpec, variant: Variant) -> Variant:
    """See `Exporter`.

    Raises:
        MissingDependencyError: a package is not installed.
        UnsupportedError: the processor, which has to judge the tower, does not multiply it.
    """
    processor.check(variant.precision, PRECISIONS)
    variant = derived.complete(spec, variant)
    for package in packages(variant):
        if version_of(package) is None:
            raise MissingDependencyError(
                f"{package} is not installed. To use it: {extras.bring(package)}"
            )
    return variant


def key(spec: ModelSpec, side: Side, variant: Variant, below: Below) -> str:
    """See `Exporter`."""
    return derived.key(variant, below, variant.precision, packages(variant))


def make(job: Job, tell: Tell) -> Built:
    """See `Exporter`."""
    from clipperf.export.jobs import derive, openvino

    if job.variant.row.samples:
        return derive.quantised(job, tell, openvino.OpenVinoQuantizer)
    return openvino.converted(job, tell)


EXPORTER = Exporter(
    name="openvino",
    makes={"openvino": PRECISIONS},
    file="model.xml",
    key=key,
    job=make,
    complete=complete,
    needs=partial(derived.needs, graph=BASELINE_PRECISION),
    refusal=derived.refusal,
    choices=derived.CHOICES,
    features=True,
)
