"""Folders as servers and libraries of others read them, made of artifacts.

A layout is one `Deployment` record, in a file of `deployments/` or in an installed package (see
`registry`). It says which artifacts it takes and writes its files; this module makes the artifacts,
stages the folder and exchanges it, the same for every layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipperf.engines import contract
from clipperf.errors import ArtifactError, UsageError
from clipperf.export.exporter import Need, precisions_for
from clipperf.export.folder import Exported
from clipperf.export.job import Tell
from clipperf.export.make import make
from clipperf.export.workshop import Workshop
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.artifact import LAYOUT_RECORD, Artifact, Layout, Manifest, is_inside
from clipperf.nouns.model import ModelSpec, Similarity
from clipperf.nouns.variant import PRECISIONS, Side, Variant
from clipperf.registry import Registry
from clipperf.system import files, store
from clipperf.system.foreign import carry_over, check, is_empty
from clipperf.system.reading import regular_bytes
from clipperf.system.targets import kind_of
from clipperf.version import __version__

RECIPE = 3
"""Raise it when the same artifacts come to give other files."""


@dataclass(frozen=True)
class Made:
    """What a layout is written from: the artifacts of a model, by variant, in the order asked.

    `depends`: see `Deployment`.
    """

    spec: ModelSpec
    sides: tuple[Side, ...]
    exports: Mapping[Variant, Exported]
    depends: Any = None

    def tower(self, variant: Variant, side: Side) -> tuple[Path, Artifact]:
        """An artifact's folder and one tower of it."""
        found = self.exports[variant]
        tower = found.manifest.tower(side)
        if tower is None:
            raise ArtifactError(f"{found.folder} lost its {side} tower: export the model again")
        return found.folder, tower

    def settings(self, side: Side) -> tuple[Path, Artifact]:
        """A folder with the settings of a side's inputs, which are the same in every variant."""
        return self.tower(next(iter(self.exports)), side)

    @property
    def pixels(self) -> PreprocessSpec:
        """How images are prepared."""
        return PreprocessSpec.from_json(next(iter(self.exports.values())).manifest.preprocess)

    @property
    def similarity(self) -> Similarity | None:
        """How the model compares images with texts; None where that is not known."""
        towers = [self.settings(side)[1] for side in self.sides]
        return next((t.similarity for t in towers if t.similarity is not None), None)


@dataclass(frozen=True)
class Deployment:
    """A layout of folders.

    `reader` is whom it is for, `runtimes` are those that its towers may be for, `several` says
    whether one folder holds several precisions. Its functions:

    - `needs(variant, sides)`: the artifacts that it takes for one that is asked for, and which
      sides of them.
    - `write(made, variants, folder)`: writes into an empty folder; `variants` were asked for.
    - `check(variants)`: raises UsageError for what one folder cannot hold.
    - `depends(made, variants)`: what else changes the files, as JSON values; `write` finds it in
      `made.depends`.
    """

    name: str
    reader: str
    write: Callable[[Made, Sequence[Variant], Path], None]
    needs: Callable[[Variant, Sequence[Side]], Sequence[Need]]
    runtimes: tuple[str, ...] = ("onnx",)
    several: bool = False
    check: Callable[[Sequence[Variant]], None] = lambda variants: None
    depends: Callable[[Made, Sequence[Variant]], object] = lambda made, variants: None


DEPLOYMENTS: Registry[Deployment] = Registry(
    "deployment", noun="layout", room="clipperf.export.deployments"
)
"""Every layout."""


@dataclass(frozen=True)
class LaidOut:
    """What came of it: the folder, its record, and whether nothing had to be written.

    `failed`: it holds a tower that was kept although it failed the parity gate.
    """

    folder: Path
    record: Layout
    up_to_date: bool
    failed: bool


def lay_out(
    layout: str,
    spec: ModelSpec,
    sides: Sequence[Side],
    variants: Sequence[Variant],
    out: Path,
    *,
    keep_failed: bool = False,
    on_stage: Tell = lambda stage: None,
    workshop: Workshop | None = None,
) -> LaidOut:
    """Make sure that a folder holds a model in a layout; its artifacts are made in the store.

    Raises:
        UsageError: no such layout, it cannot hold the variants, or `out` holds something else.
        ExportError: the layout cannot hold the model.
        And as `make`; whatever stood in the folder before still stands.
    """
    deployment = DEPLOYMENTS.get(layout)
    _check_variants(deployment, variants)
    check_target(out, deployment, spec)
    shop = workshop or Workshop()
    exports = {
        each: make(spec, of, each, keep_failed=keep_failed, on_stage=on_stage, workshop=shop)
        for variant in variants
        for each, of in deployment.needs(variant, sides)
    }
    towers = [tower for each in exports.values() for tower in each.manifest.towers]
    failed = any(tower.parity is not None and not tower.parity.passed for tower in towers)
    made = Made(spec, tuple(sides), exports)
    made = replace(made, depends=deployment.depends(made, variants))
    key = _key(deployment, made)
    with files.locked(out, on_wait=lambda: on_stage(f"waiting for a process that writes {out}")):
        before = read(out)
        if before is not None and before.key == key and not _damaged(out, before):
            return LaidOut(out, before, True, failed)
        ours = _own_files(before)
        on_stage(f"writing the {layout} layout")
        with files.staged(out) as staging:
            deployment.write(made, variants, staging)
            _check_unchanged(made)
            names = sorted(
                path.relative_to(staging).as_posix()
                for path in staging.rglob("*")
                if path.is_file()
            )
            record = Layout(
                schema_version=store.SCHEMA_VERSION,
                layout=layout,
                spec=spec,
                sides=tuple(sides),
                precisions=tuple(variant.precision for variant in variants),
                key=key,
                files=files.sha256_files(staging, names),
                created_utc=files.utc_now(),
                clipperf_version=__version__,
            )
            files.write_json(staging / LAYOUT_RECORD, record)
            check(out, ours, (*names, LAYOUT_RECORD))
            carry_over(out, staging, ours)
    return LaidOut(out, record, False, failed)


def _check_variants(deployment: Deployment, variants: Sequence[Variant]) -> None:
    """Raise UsageError for what a layout cannot hold."""
    for variant in variants:
        if variant.runtime not in deployment.runtimes:
            raise UsageError(
                f"--layout {deployment.name} is for --runtime {' or '.join(deployment.runtimes)}"
            )
        if variant.features or variant.pixel_dtype != "float32":
            option = "--features" if variant.features else f"--input {variant.pixel_dtype}"
            raise UsageError(
                f"--layout {deployment.name}: {deployment.reader} feeds and reads towers without "
                f"{option}: leave it out"
            )
    if len(variants) > 1 and not deployment.several:
        raise UsageError(
            f"--layout {deployment.name} holds one precision: make a folder for each of them"
        )
    deployment.check(variants)
    for variant in variants:
        runtime = variant.runtime
        if not _is_run_by_others(runtime, variant.precision):
            taken = [each for each in precisions_for(runtime) if _is_run_by_others(runtime, each)]
            raise UsageError(
                f"--layout {deployment.name} takes no {variant.precision}: its towers have to run "
                f"on any processor, in {deployment.reader} alone; choose from {', '.join(taken)}"
            )


def _is_run_by_others(runtime: str, precision: str) -> bool:
    """Whether a precision's towers run wherever a runtime does, with nothing set for them.

    On CPUs ONNX Runtime has no products in bf16, and what rounds as a GPU does needs its optimizer
    told so.
    """
    known = contract.get(runtime)
    on_cpus = known.devices[0] == "cpu"
    return precision in known.precisions and not (on_cpus and PRECISIONS.get(precision).emulated)


def check_target(out: Path, deployment: Deployment, spec: ModelSpec) -> None:
    """Refuse to replace a folder that is not this model's in this layout.

    Raises:
        UsageError: it holds something else.
        StorageError: it is no folder, or nothing can take its place.
    """
    kind = kind_of(out)
    if kind == "nothing":
        return
    files.check_replaceable(out)
    if is_empty(out):
        return
    before = read(out)
    if before is None:
        raise UsageError(
            f"{out} already exists and is no layout of clipperf's; choose another --out"
        )
    if (before.layout, before.spec.architecture) != (deployment.name, spec.architecture):
        raise UsageError(
            f"{out} holds {before.spec.id} for {before.layout}; choose another --out, or remove it "
            f"first"
        )


def read(folder: Path) -> Layout | None:
    """The record of a laid out folder; None where there is none that can be read."""
    path = folder / LAYOUT_RECORD
    try:
        data = store.read_versioned(path, "export the model again")
        found = store.record_of(Layout, data, path, "export the model again")
    except ArtifactError:
        return None
    return found if all(map(is_inside, found.files)) else None


def _key(deployment: Deployment, made: Made) -> str:
    """A digest of all that changes the files."""
    towers = [
        (variant.precision, *row)
        for variant, export in made.exports.items()
        for row in _read_of(export.manifest, made.sides)
    ]
    own = (deployment.name, made.spec, made.sides, towers, made.depends)
    return files.digest_of("layout", RECIPE, __version__, *own)


def _read_of(manifest: Manifest, sides: Sequence[Side]) -> list[tuple[Any, ...]]:
    """What of an artifact folder a layout's files are made of, for each of its towers."""
    shared = (manifest.preprocess, manifest.tokenizer)
    return [(*shared, tower.files) for tower in manifest.towers if tower.side in sides]


def _check_unchanged(made: Made) -> None:
    """Raise ArtifactError where another export has taken an artifact's place since it was made."""
    for export in made.exports.values():
        found = store.read_manifest(export.folder)
        if _read_of(found, made.sides) != _read_of(export.manifest, made.sides):
            raise ArtifactError(
                f"{export.folder} was replaced meanwhile: run the same command again"
            )


def _damaged(folder: Path, record: Layout) -> bool:
    """Whether a file is missing or altered."""
    return any(
        regular_bytes(folder / name) is None or store.cached_sha256(folder / name) != digest
        for name, digest in record.files.items()
    )


def _own_files(record: Layout | None) -> Callable[[str], bool]:
    """Which files of a folder, by their paths in there, are clipperf's."""
    names: set[Any] = {LAYOUT_RECORD, *(record.files if record is not None else ())}
    return names.__contains__
