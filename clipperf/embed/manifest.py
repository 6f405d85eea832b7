"""What a folder of vectors was begun with: `manifest.json`, which a resumed run must agree with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.embed.dataset import Dataset
from clipperf.embed.items import Wanted
from clipperf.embed.names import as_text
from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import Cell
from clipperf.nouns.variant import Side
from clipperf.serve.bulk import Tower
from clipperf.system.files import utc_now, write_json
from clipperf.system.store import read_versioned, record_of
from clipperf.text import number_of, quoted, shown
from clipperf.version import __version__

SCHEMA_VERSION = 1
KIND = "vectors"
FILE = "manifest.json"


@dataclass(frozen=True)
class Data:
    """The dataset: its kind, what tells its files from others, its items and their columns."""

    kind: str
    path: str
    files: int
    size_bytes: int
    digest: str
    items: int
    column: str | None = None
    id_column: str | None = None


@dataclass(frozen=True)
class Plan:
    """How vectors lie in shards: so many items each, the last one fewer; in which form."""

    format: str
    dtype: str
    shard_items: int
    shards: int

    def span(self, number: int, items: int) -> range:
        """The places of a shard's items among all of them."""
        start = number * self.shard_items
        return range(start, min(start + self.shard_items, items))


@dataclass(frozen=True)
class Manifest:
    """All that the vectors depend on but the machine.

    `key` is the tower's: it changes with its weights, precision and versions. `preprocess` is how
    images become pixels, None of texts. `batch` counts where a tower scales a batch as a whole.
    """

    schema_version: int
    kind: str
    created_utc: str
    clipperf: str
    model: str
    side: Side
    key: str
    runtime: str
    precision: str
    device: str
    batch: int
    preprocess: dict[str, Any] | None
    dimension: int
    normalized: bool
    data: Data
    plan: Plan


OPTIONS = {
    "side": "--tower",
    "key": "artifact",
    "normalized": "normalisation",
    "preprocess.method": "--preprocess",
    "data.column": "--column",
    "data.id_column": "--id-column",
    "plan.format": "--format",
    "plan.dtype": "--dtype",
    "plan.shard_items": "--shard-items",
}
"""How people call what a manifest pins, where they call it something else."""

FREE = ("schema_version", "kind", "created_utc", "clipperf", "data.path", "device")
"""What a resumed run may have otherwise."""


@dataclass(frozen=True)
class Facts:
    """What vectors depend on of a tower that was opened, wherever that was; see `bulk.Tower`."""

    cell: Cell
    artifact: Artifact
    batch: int
    embed_dim: int
    pixels: PreprocessSpec


def facts_of(tower: Tower) -> Facts:
    """What vectors depend on of a tower that is open here."""
    return Facts(tower.cell, tower.artifact, tower.batch, tower.embed_dim, tower.pixels)


def manifest_of(
    tower: Facts,
    dataset: Dataset,
    items: int,
    wanted: Wanted,
    plan: Plan,
    normalize: bool,
) -> Manifest:
    """What a run is about."""
    cell, image = tower.cell, wanted.side == "image"
    pinned = dataset.files, dataset.size_bytes, dataset.digest, items
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind=KIND,
        created_utc=utc_now(),
        clipperf=__version__,
        model=cell.model_id,
        side=wanted.side,
        key=tower.artifact.key,
        runtime=cell.runtime,
        precision=cell.precision,
        device=cell.device,
        batch=tower.batch,
        preprocess=tower.pixels.to_json() if image else None,
        dimension=tower.embed_dim,
        normalized=normalize or tower.artifact.normalized,
        data=Data(
            dataset.kind, as_text(str(dataset.path)), *pinned, wanted.column, wanted.id_column
        ),
        plan=plan,
    )


def read_manifest(out: Path) -> Manifest:
    """The manifest of a folder of vectors.

    Raises:
        ArtifactError: it is missing, damaged, or of another version.
    """
    path, fix = out / FILE, "choose another folder with --out"
    data = read_versioned(path, fix, SCHEMA_VERSION)
    if data.get("kind") != KIND:
        raise ArtifactError(f"{path} is not of vectors: {fix}")
    return record_of(Manifest, data, path, fix)


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Begin a folder of vectors; raises StorageError."""
    write_json(out / FILE, manifest)


def check_same(out: Path, before: Manifest, now: Manifest) -> None:
    """Make sure that a run goes on with what the folder was begun with.

    Raises:
        UsageError: it does not; the message says in what they differ.
    """
    old, new = _flat(before), _flat(now)
    unlike = [name for name in new if name not in FREE and old.get(name) != new[name]]
    if not unlike:
        return
    parts = []
    if "data.digest" in unlike:  # numbers of files and bytes follow from it
        details = ("data.files", "data.size_bytes", "data.items", "plan.shards")
        unlike = [name for name in unlike if name not in (*details, "data.digest")]
        parts.append(_files(before.data, now.data))
    parts += [_difference(name, old.get(name), new[name]) for name in unlike]
    said = "; ".join(parts)
    raise UsageError(
        f"{shown(out)} was begun with something else: {said}. Repeat the command that began it, "
        f"or choose another folder with --out"
    )


def _files(before: Data, now: Data) -> str:
    """In what the files of two datasets differ, as far as what is kept of them tells."""
    old, new = (
        f"{number_of(data.files, 'file')} of {data.size_bytes:,} bytes" for data in (before, now)
    )
    if old != new:
        return f"the dataset was {old}, now {new}"
    return (
        f"the dataset has {old} as before, but names, sizes of some or times of change are others: "
        f"copies have new times, where they are not made with cp -p or rsync -t"
    )


def _difference(name: str, before: object, now: object) -> str:
    called = OPTIONS.get(name, name.rpartition(".")[2].replace("_", " "))
    return f"{called} was {quoted(before)}, now {quoted(now)}"


def _flat(manifest: Manifest) -> dict[str, Any]:
    """What a manifest pins, by name; what lies in records by its name with theirs."""
    found = dict(vars(manifest))
    for name in ("data", "plan", "preprocess"):
        own = found.pop(name)
        fields = own if isinstance(own, dict) else {} if own is None else vars(own)
        found |= {f"{name}.{key}": value for key, value in fields.items()}
    return found
