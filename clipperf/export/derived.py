"""Towers of eight bits, made from the ONNX ones and judged by samples: what exporters share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipperf.errors import ExportError, UsageError
from clipperf.evals import datasets, place
from clipperf.export.exporter import Below, Choices, Need
from clipperf.export.gate import refusal as usual_refusal
from clipperf.export.job import Built, Job
from clipperf.export.judge import parity
from clipperf.export.judge.search import MOST_KEPT
from clipperf.nouns.artifact import Artifact, Parity, Quantization
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import BASELINE_PRECISION, SIDES, Side, Variant
from clipperf.system import files, store
from clipperf.system.env import version_of
from clipperf.system.targets import expanded

ONNX = "onnx"
SAMPLE = "sample"
MARGIN = 0.5

AS_EXPECTED = 0.25
"""Of a tower that was chosen for its speed at most this share of layers stays as it is. By the
speeds of `engines.candidates` on VNNI, OpenVINO's int8 with a quarter of its layers in fp32 takes
0.75 / 4.05 + 0.25 / 1.30 of PyTorch's time, and is 2.65 times as fast: hardly more than what comes
next, which has 2.59."""

VERSION = 8
"""Raise it when the same settings come to write other bytes."""

OPTIONS = {"--calibrate": "calibrate", "--margin": "margin"}


@dataclass(frozen=True)
class QuantizeSettings:
    """What users choose of a quantised tower.

    `calibrate` is "sample" or a folder as `datasets.load_dataset` takes it. `margin` are the
    percentage points that recall@1 and top-1 on these samples may lose. `most_kept` is the share
    of layers beyond which the search ends; what holds before is the same whatever it is.
    """

    calibrate: str = SAMPLE
    margin: float = MARGIN
    most_kept: float = MOST_KEPT


def settings_of(variant: Variant) -> QuantizeSettings:
    """A variant's settings, the usual ones where it has none."""
    found = variant.settings
    return found if isinstance(found, QuantizeSettings) else QuantizeSettings()


def as_expected(variant: Variant) -> Variant:
    """A variant whose search ends where its tower is no longer as fast as it was expected to be."""
    if not variant.row.samples:
        return variant
    settings = variant.settings or QuantizeSettings()
    if not isinstance(settings, QuantizeSettings):  # an engine's, whose graph has its own
        return variant
    return replace(variant, settings=replace(settings, most_kept=AS_EXPECTED))


def check_expected(towers: Sequence[Artifact]) -> None:
    """Make sure that towers, which may have been made before, are as `as_expected` has them.

    Raises:
        ExportError: more layers of one were kept.
    """
    for tower in towers:
        found = tower.quantization
        if found is not None and len(found.kept) > AS_EXPECTED * found.layers:
            raise ExportError(_too_many(found, f"{len(found.kept)} of its {found.layers}"))


def _too_many(found: Quantization, kept: str) -> str:
    return (
        f"{kept} layers stay in {found.kept_in}, of which at most {AS_EXPECTED:.0%} may: it is no "
        f"longer what was expected to be fast"
    )


def options(variant: Variant) -> dict[str, str]:
    """See `Choices`: only what rounds activations takes samples."""
    return OPTIONS if variant.row.samples else {}


def complete(spec: ModelSpec, variant: Variant) -> Variant:
    """See `Exporter`; raises UsageError for a margin below zero, and samples that are none."""
    settings = settings_of(variant)
    if not settings.margin >= 0:
        raise UsageError(f"--margin {settings.margin}: give percentage points from 0 on")
    if settings.calibrate != SAMPLE:
        settings = replace(settings, calibrate=str(expanded(settings.calibrate)))
        place.check(settings.calibrate)  # before what it takes to use them, which is minutes
    return replace(variant, settings=settings)


def needs(
    spec: ModelSpec, sides: Sequence[Side], variant: Variant, graph: str | None = None
) -> list[Need]:
    """See `Exporter`: the graph to start from, and the fp32 towers that judge what comes of it.

    The graph is one in the precision's own floats, or those of `graph`. Accuracy takes both towers,
    where the weights are no noise.
    """
    judges = SIDES if variant.row.samples and not spec.random_weights else sides
    source = replace(variant, runtime=ONNX, precision=graph or variant.row.graph, settings=None)
    baseline = replace(source, precision=BASELINE_PRECISION)
    return [(baseline, judges)] if source == baseline else [(source, sides), (baseline, judges)]


def described(variant: Variant) -> dict[str, str]:
    """See `Choices`; nothing where the settings change nothing."""
    settings = settings_of(variant)
    if not variant.row.samples:
        return {}
    return {"calibrate": settings.calibrate, "margin": f"{settings.margin:g}"}


def suffix(variant: Variant) -> str:
    """See `Choices`."""
    chosen = described(variant)
    usual = described(replace(variant, settings=None))
    return "" if chosen == usual else files.digest_of(chosen)[:6]


CHOICES = Choices(
    settings=QuantizeSettings,
    described=described,
    suffix=suffix,
    options=options,
    options_for="is for --precision int8 of onnx or openvino, fp8 of onnx",
)


def key(variant: Variant, below: Below, how: str, packages: Sequence[str], *more: object) -> str:
    """A digest of everything that changes a tower's bytes, its source's key first."""
    versions = {name: version_of(name) for name in packages}
    samples = _samples_sha256(settings_of(variant).calibrate) if variant.row.samples else None
    return files.digest_of(
        "derived", VERSION, below.key, how, versions, described(variant), samples,
        variant.row.min_cosine, *more,
    )  # fmt: skip


def _samples_sha256(calibrate: str) -> str:
    if calibrate == SAMPLE:  # reading all of its images takes a second
        return store.cached_sha256(place.SAMPLE)
    return datasets.load_dataset(calibrate).sha256


def refusal(job: Job, built: Built, found: Parity) -> str:
    """See `Exporter`."""
    cost, settings = built.quantization, settings_of(job.variant)
    if cost is None:
        return usual_refusal(job, built, found)
    said = parity.explain(found, job.label)
    if not built.holds and settings.most_kept != MOST_KEPT:
        return f"{job.label}: " + _too_many(
            cost, f"more than {len(cost.kept)} of its {cost.layers}"
        )
    if not built.holds:
        lost = "" if cost.points_lost is None else f"loses {cost.points_lost:.2f} points and "
        takes = "and no more would help"
        if built.needed:
            takes = f"it would take {len(built.needed)}: {', '.join(built.needed)}"
        said = (
            f"{job.label}: with half of its {cost.layers} layers in {cost.kept_in} it still {lost}"
            f"has a minimum cosine of {cost.min_cosine:.5f} on {cost.samples} samples of "
            f"{settings.calibrate} and of {found.min_cosine:.5f} on {found.inputs} "
            f"({settings.margin:g} points and {found.required_min_cosine} are asked for); {takes}"
        )
    return f"{said}. It was refused; a larger --margin or --keep-failed keeps it"
