"""The one way to an artifact: what it is made from is made first, then its towers, then checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clipperf.errors import ExportError, ParityError, UsageError, WeightsError
from clipperf.export import folder as folders
from clipperf.export.exporter import EXPORTERS, Below, Exporter, Need, exporter_of
from clipperf.export.folder import Exported, Wanted
from clipperf.export.job import Built, Job, Tell
from clipperf.export.space import check_target, weight_bytes
from clipperf.export.workshop import Workshop
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, Parity
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.serve import machine
from clipperf.system import files, store
from clipperf.system.env import available_cores, installed_versions


def make(
    spec: ModelSpec,
    sides: Sequence[Side],
    variant: Variant,
    *,
    out: Path | None = None,
    keep_failed: bool = False,
    on_stage: Tell = lambda stage: None,
    workshop: Workshop | None = None,
) -> Exported:
    """Make sure that a folder holds these towers, building what is missing.

    What they are made from, and judged by, is made first where it does not exist. `out` is a
    folder of the user's choice, by default it is one of the store. A tower that fails the parity
    gate is refused, or kept with `keep_failed`.

    Raises:
        UsageError: the variant cannot be, or `out` holds something else.
        MissingDependencyError: a package that it takes is not installed.
        ExportError, ParityError, StorageError, WeightsError: see `clipperf.errors`; whatever
            stood in the folder before still stands.
    """
    shop = workshop or Workshop()
    exporter = exporter_of(variant)
    if variant.features and not exporter.features:
        raise UsageError(
            f"towers for {variant.runtime} give embeddings alone: --features is for "
            f"{', '.join(dict.fromkeys(r for e in EXPORTERS if e.features for r in e.makes))}"
        )
    variant = exporter.complete(spec, variant)
    if out is not None:  # in the store whatever is damaged is built again
        check_target(out.absolute(), spec, variant.runtime)
    below = [
        _made_before(spec, sides, variant, need, on_stage, shop)
        for need in exporter.needs(spec, sides, variant)
    ]
    if below:
        graphs = {tower.side: tower for tower in below[0].manifest.towers}
        weights_id = graphs[sides[0]].weights_id
        sources = {side: Below(graphs[side].key, graphs[side].files) for side in sides}
        needed_bytes = {side: graphs[side].disk_bytes for side in sides}
    else:
        weights_id = present_weights(spec, shop, on_stage)
        sources = dict.fromkeys(sides, Below(weights_id))
        needed_bytes = weight_bytes(spec, sides, variant.row)
    name = "-".join(filter(None, [variant.folder_name, exporter.choices.suffix(variant)]))
    wanted = Wanted(
        folder=(out or store.artifact_folder(spec, weights_id, variant.runtime, name)).absolute(),
        spec=spec,
        variant=variant,
        weights_id=weights_id,
        keys={side: exporter.key(spec, side, variant, sources[side]) for side in sides},
        needed_bytes=needed_bytes,
        file=exporter.file,
        options={**exporter.choices.described(variant), **variant.described},
    )
    folders_below = tuple(each.folder for each in below)
    exported = folders.ensure(
        wanted,
        partial(_built, _Turn(exporter, wanted, folders_below, shop, keep_failed, on_stage)),
        shared_from=folders_below[0] if below else None,
        keep_failed=keep_failed,
        on_stage=on_stage,
    )
    if exporter.shares_process:  # nobody needs torch any more
        shop.dismiss()
    return exported


def serving(
    spec: ModelSpec,
    sides: Sequence[Side],
    variant: Variant,
    batches: tuple[int, int],
    on_stage: Tell = lambda stage: None,
) -> Path:
    """A folder with towers that take every batch of `batches` (smallest, largest).

    One that a user has exported with settings of its own is taken where it does; otherwise see
    `make`.
    """
    exporter = exporter_of(variant)
    found = exporter.serving(spec, sides, variant, batches) if exporter.serving else variant
    return found if isinstance(found, Path) else make(spec, sides, found, on_stage=on_stage).folder


def _made_before(
    spec: ModelSpec,
    sides: Sequence[Side],
    variant: Variant,
    need: Need,
    on_stage: Tell,
    shop: Workshop,
) -> Exported:
    """One of the folders that a variant is made from, or judged by; raises as `make`."""
    other, needed = need
    try:
        return make(spec, needed, other, on_stage=on_stage, workshop=shop)
    except WeightsError as exc:
        more = [side for side in needed if side not in sides]
        if not more:
            raise
        raise WeightsError(
            f"{variant.precision} of the {' and '.join(sides)} tower is judged by accuracy, which "
            f"takes the {' and '.join(more)} tower, too: {exc}"
        ) from exc


def present_weights(spec: ModelSpec, shop: Workshop, on_stage: Tell) -> str:
    """The id of a model's weights, which are fetched first where they are not on this machine.

    Raises:
        WeightsError: they cannot be fetched.
    """
    weights_id = zoo.weights_id(spec)
    if weights_id is None:
        on_stage(f"fetching the weights of {spec.id}")
        shop.run("fetch", spec.id, spec=spec)
        weights_id = zoo.weights_id(spec)
    if weights_id is None:
        raise ExportError(f"the weights of {spec.id} vanished after they were fetched")
    return weights_id


@dataclass(frozen=True)
class _Turn:
    """One turn of the recursion: what is wanted, from whom, and what it is made from."""

    exporter: Exporter
    wanted: Wanted
    sources: tuple[Path, ...]
    shop: Workshop
    keep_failed: bool
    on_stage: Tell

    def tell(self, side: Side, stage: str) -> None:
        self.on_stage(f"{side} {self.exporter.tower}: {stage}")

    def job(self, side: Side, staging: Path) -> Job:
        variant = self.wanted.variant
        return Job(
            exporter=self.exporter.name,
            spec=self.wanted.spec,
            side=side,
            variant=variant,
            folder=str(staging),
            file=str(staging / side / self.exporter.file),
            sources=tuple(map(str, self.sources)),
            threads=available_cores(),
            min_cosine=variant.row.min_cosine,
        )


def _built(turn: _Turn, sides: Sequence[Side], staging: Path) -> Iterator[Artifact]:
    """Make towers in child processes; check them when their memory is given back."""
    together = turn.exporter.shares_process
    made: dict[Side, Built] = {}
    digests: dict[Side, Future[dict[str, str]]] = {}
    hashing = ThreadPoolExecutor(1)  # reading gigabytes goes on beside the next stages
    try:
        for group in [sides] if together else [[side] for side in sides]:
            with turn.shop.worker(torch=together) as worker:
                for side in group:
                    (staging / side).mkdir()
                    job = turn.job(side, staging)
                    made[side] = worker.make(job, partial(turn.tell, side))
                    written = folders.written(staging, side)
                    digests[side] = hashing.submit(files.sha256_files, staging, written)
            for side in group:
                found = _checked(turn, turn.job(side, staging), made[side])
                yield _described(turn, side, staging, made[side], found, digests[side].result())
    finally:
        hashing.shutdown(cancel_futures=True)


def _checked(turn: _Turn, job: Job, built: Built) -> Parity | None:
    """Whether a tower gives PyTorch's embeddings; None where this machine cannot run it.

    Raises:
        ParityError: it does not, and failed towers are not to be kept.
    """
    exporter = turn.exporter
    if not exporter.checkable(job):
        return None
    turn.tell(job.side, "checking parity")
    gate = turn.shop.gate if exporter.gate_in_child else exporter.gate
    found = gate(job, built)
    found = replace(found, passed=found.passed and built.holds)
    if not found.passed and not turn.keep_failed:
        raise ParityError(exporter.refusal(job, built, found))
    return found


def _described(
    turn: _Turn,
    side: Side,
    staging: Path,
    built: Built,
    found: Parity | None,
    digests: Mapping[str, str],
) -> Artifact:
    wanted = turn.wanted
    return Artifact(
        model_id=wanted.spec.id,
        side=side,
        runtime=wanted.variant.runtime,
        precision=wanted.variant.precision,
        path=f"{side}/{turn.exporter.file}",
        disk_bytes=sum((staging / name).stat().st_size for name in digests),
        files=dict(digests),
        inputs=built.inputs,
        outputs=built.outputs,
        normalized=wanted.variant.normalized,
        tokens=built.tokens,
        key=wanted.keys[side],
        weights_id=wanted.weights_id,
        build_s=built.build_s,
        peak_rss_bytes=built.peak_rss_bytes,
        built_with=installed_versions(),
        parity=found,
        options=dict(wanted.options),
        first_token=built.first_token,
        weight_bits=built.weight_bits,
        quantization=built.quantization,
        assumptions=built.assumptions,
        cut=built.cut,
        similarity=built.similarity,
        joined=built.joined,
        in_fp32=built.in_fp32,
        features=built.features,
        made_on=machine.here(wanted.variant.runtime),
    )
