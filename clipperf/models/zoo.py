"""From what a user types to a `ModelSpec`. Imports neither torch nor open_clip."""

from __future__ import annotations

from pathlib import Path

from clipperf.errors import UsageError
from clipperf.models import catalog
from clipperf.models.family import FAMILIES, family_of
from clipperf.nouns.model import ModelSpec
from clipperf.system.store import cached_sha256, known_sha256
from clipperf.system.targets import kind_of


def resolve(name: str, pretrained: str | None = None) -> ModelSpec:
    """The model that `name` and ``--pretrained`` mean, in the first family that knows the name.

    Raises:
        UsageError: unknown architecture or weights; the message lists close names.
    """
    for family in FAMILIES:
        spec = family.resolve(name, pretrained)
        if spec is not None:
            return spec
    if not name.strip():
        raise UsageError("the model's name is empty; clipperf models lists all")
    if "/" in name and kind_of(Path(name)) != "nothing":
        raise UsageError(
            f"{name} is a path: name the architecture, and a checkpoint with --pretrained FILE. "
            f"Artifact folders are opened with clipperf.load"
        )
    entry = catalog.find(name)
    raise UsageError(f"{name!r} is listed as {entry.architecture}, but cannot be had")


def must_read(name: str, pretrained: str | None) -> bool:
    """Whether `resolve` will read a whole checkpoint for its digest, which takes seconds."""
    found = (family.checkpoint(name, pretrained) for family in FAMILIES)
    return any(path is not None and known_sha256(path) is None for path in found)


def weights_id(spec: ModelSpec) -> str | None:
    """What tells a model's weights from all others: their sha256, or the seed.

    None as long as they have to be fetched: only fetching can tell. Imports no torch.
    """
    if spec.random_weights:
        return spec.pretrained
    path = family_of(spec).weights(spec)
    return f"sha256:{cached_sha256(path)}" if path is not None and path.is_file() else None
