"""Artifact folders: cached by key, locked, staged aside and exchanged, all towers or none new.

What users put beside the towers is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, StorageError, UsageError
from clipperf.export.space import check_space
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.inputs.tokenize import CONFIG_FILE, TOKENIZER_FILE
from clipperf.nouns.artifact import PARITY_FILES, Artifact, Manifest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import SIDES, Side, Variant
from clipperf.system import files, store
from clipperf.system.foreign import carry_over, check, link_or_copy
from clipperf.system.targets import real
from clipperf.version import __version__

SHARED_FILES: dict[Side, tuple[str, ...]] = {
    "image": (PREPROCESS_FILE, *PARITY_FILES["image"]),
    "text": (TOKENIZER_FILE, CONFIG_FILE, *PARITY_FILES["text"]),
}
"""What lies beside the towers: how inputs are made, some inputs, PyTorch's embeddings of them."""


@dataclass(frozen=True)
class Exported:
    """What an export left: the folder, its manifest, and which sides were built just now.

    `replaced` is the runtime and precision of what stood there before, where it was another's.
    """

    folder: Path
    manifest: Manifest
    built: tuple[Side, ...]
    replaced: str | None = None

    @property
    def up_to_date(self) -> bool:
        """Whether nothing had to be built."""
        return not self.built


@dataclass(frozen=True)
class Wanted:
    """What an artifact folder is to hold.

    `keys` says for each wanted side what its tower depends on; `needed_bytes` is what building
    one side takes on the disk at least, `file` the name of a tower's model file. Towers of other
    weights, precision or `options` cannot share the folder with the wanted ones.
    """

    folder: Path
    spec: ModelSpec
    variant: Variant
    weights_id: str
    keys: Mapping[Side, str]
    needed_bytes: Mapping[Side, int]
    file: str
    options: Mapping[str, str] = field(default_factory=dict)

    def fits(self, tower: Artifact) -> bool:
        """Whether a tower that lies in the folder may stay there."""
        return (
            tower.key == self.keys.get(tower.side, tower.key)
            and tower.weights_id == self.weights_id
            and tower.precision == self.variant.precision
            and tower.normalized == self.variant.normalized
            and tower.options == self.options
        )


def ensure(
    wanted: Wanted,
    build: Callable[[Sequence[Side], Path], Iterable[Artifact]],
    *,
    shared_from: Path | None = None,
    keep_failed: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Make sure that the folder holds the wanted towers, building those that are missing.

    What is there and fits is used even where nothing can be written.

    `build(sides, staging)` writes towers into a staging folder and describes them; the files
    that they share (preprocessing, tokenizer) are its to write, too, or are copied from
    `shared_from`. A tower that failed the parity gate counts only with `keep_failed`.

    Raises:
        UsageError: the folder holds a tower that is not wanted and cannot stay beside the wanted.
        StorageError: too little space, an unwritable folder; and whatever `build` raises. What
            stood in the folder before still stands.
    """
    folder = wanted.folder
    with contextlib.ExitStack() as held:
        unwritable = None
        try:
            held.enter_context(_locked(folder, on_stage))
        except StorageError as exc:
            unwritable = exc
        kept = _kept(wanted, keep_failed)
        missing = [side for side in wanted.keys if side not in kept]
        if not missing:
            return Exported(folder, store.read_manifest(folder), ())
        if unwritable is not None:
            raise unwritable
        check_space(folder, wanted.spec, sum(wanted.needed_bytes[side] for side in missing))
        before = None
        with contextlib.suppress(ArtifactError):
            before = _kind(store.read_manifest(folder))
        ours, coming = own_files(folder), [f"{side}/{wanted.file}" for side in missing]
        check(folder, ours, (*coming, *(name for side in missing for name in SHARED_FILES[side])))
        with files.staged(folder) as staging:
            for tower in kept.values():
                _carry_over(folder, staging, tower)
            towers = {**kept, **{tower.side: tower for tower in build(missing, staging)}}
            for source in (folder if kept else None, shared_from):
                _copy_shared(source, staging)
            _keep_method(folder, staging)
            manifest = _manifest(wanted, staging, towers)
            files.write_json(staging / store.MANIFEST_NAME, manifest)
            carry_over(folder, staging, ours)
        for tower in manifest.towers:
            for name, digest in tower.files.items():
                store.remember_sha256(folder / name, digest)
    replaced = before if before != _kind(manifest) else None
    return Exported(folder, manifest, tuple(missing), replaced)


def _kind(manifest: Manifest) -> str:
    return f"{manifest.runtime} {manifest.precision}"


def _kept(wanted: Wanted, keep_failed: bool) -> dict[Side, Artifact]:
    """The towers of the folder that stay.

    Raises:
        UsageError: one is not wanted and cannot stay beside the wanted.
    """
    present = current_towers(wanted.folder)
    for side, tower in present.items():
        # What is not wanted has no key here that would tell its sizes and its configuration.
        stays = wanted.fits(tower) and tower.model_id == wanted.spec.id
        if side not in wanted.keys and not stays:
            raise UsageError(
                f"{wanted.folder} has its {side} tower of other weights, sizes or options, which "
                f"this export would drop; export both with --tower both, or choose another --out"
            )
    return {
        side: tower
        for side, tower in present.items()
        if wanted.fits(tower) and (keep_failed or tower.parity is None or tower.parity.passed)
    }


def set_preprocess(
    exported: Exported, method: str, on_stage: Callable[[str], None] = lambda stage: None
) -> Exported:
    """Make `method` the way in which a folder's images are preprocessed; towers stay as they are.

    Raises:
        UsageError: no such method.
        MissingDependencyError: it needs a package that is not installed.
        StorageError: the folder cannot be written; it is then as before.
    """
    folder = exported.folder
    manifest = store.read_manifest(folder)
    if method == PreprocessSpec.from_json(manifest.preprocess).method:
        return dataclasses.replace(exported, manifest=manifest)
    with _locked(folder, on_stage):
        manifest = store.read_manifest(folder)
        spec = PreprocessSpec.from_json(manifest.preprocess)
        if method != spec.method:
            settings = dataclasses.replace(spec, method=method).to_json()
            with files.staged(folder) as staging:
                for tower in manifest.towers:
                    _carry_over(folder, staging, tower)
                _copy_shared(folder, staging)
                files.write_json(staging / PREPROCESS_FILE, settings)
                digest = files.sha256_file(staging / PREPROCESS_FILE)
                digests = {**manifest.files, PREPROCESS_FILE: digest}
                manifest = dataclasses.replace(manifest, preprocess=settings, files=digests)
                files.write_json(staging / store.MANIFEST_NAME, manifest)
                carry_over(folder, staging, own_files(folder))
    return dataclasses.replace(exported, manifest=manifest)


def _keep_method(folder: Path, staging: Path) -> None:
    """Images are prepared as the folder said before; exactly where it is new, whatever that which
    its files were copied from has been set to."""
    if not (staging / PREPROCESS_FILE).is_file():
        return
    try:
        method = PreprocessSpec.from_json(store.read_manifest(folder).preprocess).method
    except ArtifactError:
        method = PreprocessSpec().method
    spec = PreprocessSpec.from_json(files.read_json(staging / PREPROCESS_FILE))
    if spec.method != method:
        settings = dataclasses.replace(spec, method=method).to_json()
        files.write_json(staging / PREPROCESS_FILE, settings)


def _locked(folder: Path, on_stage: Callable[[str], None]) -> AbstractContextManager[None]:
    """Nobody else builds the folder meanwhile; says when it has to wait for that."""
    said = f"waiting for another process that builds {folder}"
    return files.locked(folder, on_wait=lambda: on_stage(said))


def copy_tower(folder: Path, side: Side, target: Path) -> None:
    """Make an artifact folder of one tower of another, named after its side, in `target`.

    Files are linked where the file system can, else copied; weights beside an ONNX graph always
    are, since onnx and what is built on it refuse files of several names.

    Raises:
        ArtifactError: the folder has no such tower.
    """
    manifest = store.read_manifest(folder)
    tower = manifest.tower(side)
    if tower is None:
        raise ArtifactError(f"{folder} has no {side} tower: export the model again")
    (target / side).mkdir()
    _carry_over(folder, target / side, tower, for_others=True)
    _copy_shared(folder, target / side)
    manifest = dataclasses.replace(manifest, towers=(tower,))
    files.write_json(target / side / store.MANIFEST_NAME, manifest)


def current_towers(folder: Path) -> dict[Side, Artifact]:
    """The intact towers of an artifact folder; none where it does not exist or is damaged."""
    try:
        manifest = store.read_manifest(folder)
        damaged = store.check_files(folder, manifest, content=True)
    except ArtifactError:
        return {}
    return {} if damaged else {tower.side: tower for tower in manifest.towers}


def own_files(folder: Path) -> Callable[[str], bool]:
    """Which files of an artifact folder, by their paths in there, are clipperf's.

    Those that the manifest names; where it cannot be read, those of the names that clipperf gives.
    """
    try:
        return {store.MANIFEST_NAME, *store.read_manifest(folder).all_files}.__contains__
    except ArtifactError:
        own = {store.MANIFEST_NAME, *(name for names in SHARED_FILES.values() for name in names)}
        models = tuple(f"{side}/model." for side in SIDES)
        return lambda name: name in own or name.startswith(models)


def written(staging: Path, side: Side) -> list[str]:
    """All files of a side in a folder, as paths in there."""
    found = sorted(path for path in (staging / side).rglob("*") if path.is_file())
    return [path.relative_to(staging).as_posix() for path in found]


def _carry_over(folder: Path, staging: Path, tower: Artifact, for_others: bool = False) -> None:
    for name in tower.files:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        beside = name != tower.path and tower.path.endswith(".onnx")
        take = shutil.copyfile if for_others and beside else link_or_copy
        take(real(folder / name), staging / name)


def _copy_shared(source: Path | None, staging: Path) -> None:
    """Copy what towers share, as far as it is there, and is not made anew."""
    if source is None:
        return
    for name in store.read_manifest(source).files:
        if (source / name).is_file() and not os.path.lexists(staging / name):
            shutil.copy2(source / name, staging / name)


def _manifest(wanted: Wanted, staging: Path, towers: Mapping[Side, Artifact]) -> Manifest:
    shared = dict.fromkeys(name for names in SHARED_FILES.values() for name in names)
    present = [name for name in shared if (staging / name).is_file()]

    def settings(name: str) -> dict[str, Any]:
        return dict(files.read_json(staging / name)) if name in present else {}

    return Manifest(
        schema_version=store.SCHEMA_VERSION,
        spec=wanted.spec,
        runtime=wanted.variant.runtime,
        precision=wanted.variant.precision,
        preprocess=settings(PREPROCESS_FILE),
        tokenizer=settings(CONFIG_FILE),
        files=files.sha256_files(staging, present),
        towers=tuple(towers[s] for s in SIDES if s in towers),
        created_utc=files.utc_now(),
        clipperf_version=__version__,
    )
