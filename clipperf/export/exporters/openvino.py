"""OpenVINO's IR of the ONNX towers: as they are, with int8 weights, or in int8 by NNCF."""

from __future__ import annotations

from clipperf.errors import MissingDependencyError
from clipperf.export import derived
from clipperf.export.exporter import Below, Exporter
from clipperf.export.job import Built, Job, Tell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.system.env import version_of


def packages(variant: Variant) -> tuple[str, ...]:
    """What it takes to make a variant; their versions change the bytes."""
    return ("openvino", "nncf") if variant.row.is_quantised else ("openvino",)


def complete(spec: ModelSpec, variant: Variant) -> Variant:
    """See `Exporter`.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    variant = derived.complete(spec, variant)
    for package in packages(variant):
        if version_of(package) is None:
            raise MissingDependencyError(
                f'{package} is not installed. To use it: pip install "clipperf[openvino]"'
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
    makes={"openvino": ("fp32", "int8w", "int8")},
    file="model.xml",
    key=key,
    job=make,
    complete=complete,
    needs=derived.needs,
    refusal=derived.refusal,
    choices=derived.CHOICES,
    features=True,
)
