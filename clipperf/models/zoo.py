"""From what a user types to a `ModelSpec`. Imports neither torch nor open_clip."""

from __future__ import annotations

from pathlib import Path

from clipperf.errors import UsageError
from clipperf.models import catalog, sample, weights
from clipperf.models.published import accuracy
from clipperf.nouns.model import ModelSpec
from clipperf.system.store import known_sha256


def resolve(name: str, pretrained: str | None = None) -> ModelSpec:
    """The model that `name` and ``--pretrained`` mean.

    `name` is an architecture, ``clipperf-sample``, or ``ARCHITECTURE::WEIGHTS`` where WEIGHTS is
    a tag (hyphens and underscores are the same), ``random:SEED`` or a file. An architecture
    without weights gets the tag with the best published mean accuracy.

    Raises:
        UsageError: unknown architecture or weights; the message lists close names.
    """
    if name == sample.NAME:
        if pretrained is not None:
            raise UsageError(f"{sample.NAME} brings its own weights: leave --pretrained out")
        return _sample_spec()
    if not name.strip():
        raise UsageError("the model's name is empty; clipperf models lists all")
    if "/" in name and Path(name).exists():
        raise UsageError(
            f"{name} is a path: name the architecture, and a checkpoint with --pretrained FILE. "
            f"Artifact folders are opened with clipperf.load"
        )
    architecture, _, own = name.partition("::")
    if own and pretrained and own != pretrained:
        raise UsageError(f"{name} already names its weights: leave --pretrained {pretrained} out")
    if own and not (own.startswith("random") or own.endswith(weights.SUFFIXES)):
        architecture, own = catalog.split_alias(name)
    entry = catalog.find(architecture)
    wanted: str | None = own or pretrained
    if wanted is not None and not wanted.strip():
        raise UsageError("--pretrained is empty: give a tag, a file, or random[:SEED]")
    if wanted is None:
        wanted = _default_weights(entry)
    label, canonical = weights.parse(wanted, entry.tags, entry.architecture)
    return ModelSpec(
        id=f"{entry.architecture}::{label}",
        family="open_clip",
        architecture=entry.architecture,
        pretrained=canonical,
        image_px=entry.image_px,
        context_tokens=entry.context_tokens,
        embed_dim=entry.embed_dim,
        image_parameters=entry.image_parameters,
        text_parameters=entry.text_parameters,
        licence=entry.licence(canonical),
    )


def must_read(name: str, pretrained: str | None) -> bool:
    """Whether `resolve` will read a whole checkpoint for its digest, which takes seconds."""
    given = pretrained or name.partition("::")[2]
    if not given.endswith(weights.SUFFIXES):
        return False
    path = Path(given).expanduser()
    return path.is_file() and known_sha256(path) is None


def _default_weights(entry: catalog.CatalogEntry) -> str:
    """The tag with the best published mean over open_clip's 38 datasets, else the only tag.

    Raises:
        UsageError: nothing published tells several tags apart.
    """
    means = {
        tag: mean.value
        for tag in entry.tags
        if (mean := accuracy(entry.architecture, tag, "38 datasets", "mean")) is not None
    }
    if means:
        return max(means, key=lambda tag: means[tag])
    if len(entry.tags) == 1:
        return entry.tags[0]
    raise UsageError(
        f"{entry.architecture} comes with {len(entry.tags)} sets of weights and no published "
        f"ranking; choose one with --pretrained TAG ({', '.join(entry.tags) or 'no tags known'}), "
        f"--pretrained FILE, or --pretrained random for sizing"
    )


def _sample_spec() -> ModelSpec:
    config = sample.config()["model_cfg"]
    entry = catalog.find(sample.NAME)
    return ModelSpec(
        id=sample.NAME,
        family="sample",
        architecture=sample.NAME,
        pretrained="bundled",
        image_px=config["vision_cfg"]["image_size"],
        context_tokens=config["text_cfg"]["context_length"],
        embed_dim=config["embed_dim"],
        image_parameters=entry.image_parameters,
        text_parameters=entry.text_parameters,
        licence=sample.LICENCE,
    )


def weights_id(spec: ModelSpec) -> str | None:
    """The identity of a model's weights, or None for a tag that was never fetched."""
    if spec.family == "sample":
        return weights.identity(spec.architecture, str(sample.weights_path()))
    return weights.identity(spec.architecture, spec.pretrained)
