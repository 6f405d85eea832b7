"""The bundled sample, an open_clip model that brings its own configuration and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import sample
from clipperf.models.family import CatalogEntry, Family
from clipperf.models.open_clip_facts import PACKAGES, config_facts, count_safetensors
from clipperf.models.published import normal
from clipperf.nouns.model import CLIP_IDS, ModelSpec, Tower
from clipperf.nouns.variant import Side


def resolve(name: str, pretrained: str | None) -> ModelSpec | None:
    """The sample, by its name or its alias, ``clipperf-sample::bundled``.

    Raises:
        UsageError: it is to have other weights.
    """
    wanted, _, tag = name.partition("::")
    if normal(wanted) != sample.NAME:
        return None
    if pretrained is not None:
        raise UsageError(f"{sample.NAME} brings its own weights: leave --pretrained out")
    if normal(tag) not in ("", sample.TAG):
        raise UsageError(f"{sample.NAME} has no tag {tag!r}: Its tags: {sample.TAG}")
    return _entry().spec(sample.NAME, FAMILY.name, sample.TAG)


def entries() -> list[CatalogEntry]:
    """The sample; nothing in a source checkout in which it was not built."""
    try:
        return [_entry()]
    except FileNotFoundError:
        return []


def _entry() -> CatalogEntry:
    image, text = count_safetensors(sample.weights_path())
    return CatalogEntry(
        architecture=sample.NAME,
        tags=(sample.TAG,),
        licences={sample.TAG: sample.LICENCE},
        image_parameters=image,
        text_parameters=text,
        notes=("ships with clipperf: works offline, trained on emoji drawings",),
        **config_facts(sample.config()["model_cfg"]),
    )


def model_config(spec: ModelSpec) -> dict[str, Any]:
    """open_clip's model configuration."""
    return dict(sample.config()["model_cfg"])


def build(spec: ModelSpec, side: Side, normalize: bool) -> Tower:
    """Build one tower in fp32; raises as `open_clip.build_from_config`."""
    from clipperf.models.open_clip import build_from_config

    return build_from_config(spec, model_config(spec), side, sample.weights_path(), normalize)


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Write CLIP's own tokenizer into `folder`."""
    from clipperf.models.tokenizer_files import write_clip_tokenizer

    write_clip_tokenizer(folder, spec.context_tokens)


FAMILY = Family(
    name="sample",
    resolve=resolve,
    weights=lambda spec: sample.weights_path(),
    fetch=lambda spec: sample.weights_path(),
    config=model_config,
    build=build,
    pixels=lambda spec: PreprocessSpec.from_open_clip(sample.config()["preprocess_cfg"]),
    write_tokenizer=write_tokenizer,
    text_ids=lambda spec: CLIP_IDS,
    entries=entries,
    packages=PACKAGES,
)
