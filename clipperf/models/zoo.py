"""From what a user types to a `ModelSpec`. Imports neither torch nor open_clip."""

from __future__ import annotations

import re

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import MAX_SIDE_PX
from clipperf.models import catalog, checkpoint_files
from clipperf.models.family import FAMILIES, family_of
from clipperf.models.open_clip_facts import LOCAL
from clipperf.nouns.model import OWN_SIZES, ModelSpec, Sizes
from clipperf.system.store import MANIFEST_NAME, known_sha256
from clipperf.system.targets import existing, expanded, kind_of

MAX_TOKENS = 8192
"""The longest context that can be asked for, above any published model's."""


def resolve(name: str, pretrained: str | None = None, sizes: Sizes = OWN_SIZES) -> ModelSpec:
    """The model that `name` and ``--pretrained`` mean, in the first family that knows the name.

    A name may end in sizes, as an id does: ``ViT-B-32@320px@64tokens``.

    Raises:
        UsageError: unknown architecture or weights, or no such sizes; the message lists close
            names.
    """
    name, own = _sizes_in(name)
    for family in FAMILIES:
        spec = family.resolve(name, pretrained)
        if spec is not None:
            return _resized(spec, _merged(own, sizes))
    if not name.strip():
        raise UsageError("the model's name is empty; clipperf models lists all")
    if existing(name) is not None:
        raise UsageError(_unknown_path(name))
    if name.startswith((".", "/", "~")):
        raise UsageError(f"{name}: there is no such file or folder")
    entry = catalog.find(name)
    raise UsageError(f"{name!r} is listed as {entry.architecture}, but cannot be had")


def _unknown_path(name: str) -> str:
    path = expanded(name)
    if kind_of(path) == "file":
        return (
            f"{name} is a file, and no model by itself: name its architecture, and the checkpoint "
            f"with --pretrained {name}"
        )
    if kind_of(path / MANIFEST_NAME) == "file":
        return f"{name} is an artifact folder, made from a model: open it with clipperf.load"
    wanted = ", ".join(dict.fromkeys(file for family in FAMILIES for file in family.files))
    return f"{name} is a folder without a model: looked for {wanted}"


def _sizes_in(name: str) -> tuple[str, Sizes]:
    """A name without the sizes that it ends in, and these."""
    if existing(name) is not None:
        return name, OWN_SIZES
    found = re.fullmatch(r"(.+?)(?:@(\d{1,6})px)?(?:@(\d{1,6})tokens)?", name)
    if found is None:
        return name, OWN_SIZES
    px, tokens = (None if size is None else int(size) for size in found.groups()[1:])
    return found[1], Sizes(px, tokens)


def _merged(own: Sizes, asked: Sizes) -> Sizes:
    """The sizes of a name and of options; raises UsageError where they differ."""
    for mine, option, value in (
        (own.image_px, "--image-size", asked.image_px),
        (own.context_tokens, "--context-length", asked.context_tokens),
    ):
        if None not in (mine, value) and mine != value:
            raise UsageError(f"the name already says {mine}: leave {option} {value} out")
    return Sizes(
        own.image_px if asked.image_px is None else asked.image_px,
        own.context_tokens if asked.context_tokens is None else asked.context_tokens,
    )


def _resized(spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """The model at these sizes; raises UsageError where its family has no others."""
    if sizes.image_px in (None, spec.image_px) and sizes.context_tokens in (
        None,
        spec.context_tokens,
    ):
        return spec
    for option, value, most in (
        ("--image-size", sizes.image_px, MAX_SIDE_PX),
        ("--context-length", sizes.context_tokens, MAX_TOKENS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{option} {value}: give a whole number from 1 to {most}")
    family = family_of(spec)
    if family.resized is None:
        raise UsageError(
            f"{spec.id} takes images of {spec.image_px} px and texts of {spec.context_tokens} "
            f"tokens, and models of the family {family.name} no others: leave --image-size and "
            f"--context-length out"
        )
    return family.resized(spec, sizes)


def must_read(name: str, pretrained: str | None) -> bool:
    """Whether `resolve` will read a whole checkpoint for its digest, which takes seconds."""
    name, _ = _sizes_in(name)
    given = (pretrained, name.partition("::")[2], name, name.removeprefix(LOCAL))
    if not any(text and existing(text) for text in given):
        return False
    found = (family.checkpoint(name, pretrained) for family in FAMILIES)
    files = [file for path in found if path is not None for file in checkpoint_files.parts(path)]
    return any(known_sha256(file) is None for file in files)


def weights_id(spec: ModelSpec) -> str | None:
    """What tells a model's weights from all others: their sha256, or the seed.

    None as long as they have to be fetched: only fetching can tell. Imports no torch.
    """
    if spec.random_weights:
        return spec.pretrained
    path = family_of(spec).weights(spec)
    if path is None or not path.is_file():
        return None
    return f"sha256:{checkpoint_files.digest(path)}"
