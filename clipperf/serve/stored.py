"""Artifacts of the store by the name of their model."""

from __future__ import annotations

from pathlib import Path

from clipperf.engines import contract
from clipperf.errors import UsageError
from clipperf.models import hub
from clipperf.models.catalog import entries
from clipperf.models.published import normal
from clipperf.nouns.artifact import Manifest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import BASELINE_PRECISION, PRECISIONS
from clipperf.system.store import find_artifacts

EXPORTED = "onnx"
"""The runtime for which ``clipperf export`` makes towers where no other is named."""


def find(name: str, runtime: str | None = None, precision: str | None = None) -> Path | None:
    """The folder of the store that is best for a model, named as for ``clipperf export``.

    Where the name has no weights, those come first that an export would take, then those that were
    exported last; random ones come behind all others. Of one model's folders those come first that
    hold both towers, then those made for clipperf itself, then those of the runtime and precision
    that an export makes without options (onnx, fp32), then others as ``clipperf doctor`` and
    ``--precision`` list them, then the newest.

    None where there is none of this runtime and precision.

    Raises:
        UsageError: no such runtime or precision.
    """
    artifact = None if runtime is None else contract.get(runtime).artifact
    if precision is not None:
        PRECISIONS.get(precision)
    wanted, _, weights = normal(name.removeprefix(hub.PREFIX)).partition("::")
    usual = normal(_usual_id(name))
    found = [
        (folder, manifest)
        for folder, manifest in find_artifacts()
        if wanted in _names(manifest.spec)
        and (not weights or normal(manifest.spec.id) in (usual, normal(name)))
        and artifact in (None, manifest.runtime)
        and precision in (None, manifest.precision)
    ]
    newest: dict[str, str] = {}
    for _, manifest in found:
        made = newest.get(manifest.spec.id, "")
        newest[manifest.spec.id] = max(made, manifest.created_utc)

    def rank(pair: tuple[Path, Manifest]) -> tuple[object, ...]:
        manifest = pair[1]
        spec = manifest.spec
        return (
            *(normal(spec.id) == usual, not spec.random_weights, newest[spec.id], spec.id),
            len(manifest.towers),
            not any("portable" in tower.options for tower in manifest.towers),
            *(manifest.runtime == EXPORTED, -contract.RUNTIMES.rank(manifest.runtime)),
            *(manifest.precision == BASELINE_PRECISION, -PRECISIONS.rank(manifest.precision)),
            *(manifest.created_utc, str(pair[0])),
        )

    return max(found, key=rank)[0] if found else None


def _names(spec: ModelSpec) -> tuple[str, str]:
    """What an architecture is called: in full, and without its content, for those of a folder."""
    own = normal(spec.architecture)
    return own, own.partition("@")[0]


def _may_be_resolved(name: str) -> bool:
    """Whether a name is not one that the hub would be asked about: paths look like those, too."""
    listed = normal(name.removeprefix(hub.PREFIX).partition("::")[0])
    return "/" not in name or any(normal(entry.architecture) == listed for entry in entries())


def _usual_id(name: str) -> str:
    """The id of the model that an export of this name makes; the name where it makes none."""
    from clipperf.models import zoo

    if not _may_be_resolved(name):
        return name
    try:
        return zoo.resolve(name).id
    except UsageError:  # weights that are a file, or that nothing ranks
        return name


def missing(name: str, runtime: str | None, precision: str | None) -> str:
    """What to say of a model that the store does not hold; "" of what is no model's name."""
    from clipperf.models import zoo

    if not _may_be_resolved(name):
        return ""
    try:
        zoo.resolve(name)
    except UsageError as exc:
        return f"; as the name of a model: {exc}"
    artifact = EXPORTED if runtime is None else contract.get(runtime).artifact
    options = "" if artifact in (None, EXPORTED) else f" --runtime {artifact}"
    options += "" if precision is None else f" --precision {precision}"
    return f", and the store holds no such model; make it with: clipperf export {name}{options}"
