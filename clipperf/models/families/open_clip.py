"""open_clip's architectures, with its published weights, a file's, or seeded noise.

Architectures are read from the installed open_clip's own `model_configs`; its tags cannot be, as
reading them means importing open_clip and with it torch, or interpreting its source. They come
from a snapshot (`clipperf/data/open_clip_catalog.json`, written by `tools/make_catalog.py`) that
also holds parameters and GFLOPs; a test compares it with the installed open_clip. Figures of an
architecture whose configuration has changed since are left out rather than shown wrong.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import weights
from clipperf.models.family import CatalogEntry, Family
from clipperf.models.open_clip_facts import (
    COUNTED_AT,
    COUNTS,
    FACTS,
    PACKAGES,
    config_digest,
    config_facts,
    installed_configs,
    read_snapshot,
)
from clipperf.models.open_clip_sizes import at_sizes, sized
from clipperf.models.published import accuracy, normal
from clipperf.nouns.model import CLIP_IDS, OTHER_VOCABULARY, ModelSpec, Sizes, TextIds, Tower
from clipperf.nouns.variant import Side
from clipperf.system import extras

# --- names ---------------------------------------------------------------------------------


@cache
def entries() -> tuple[CatalogEntry, ...]:
    """Every architecture in alphabetical order."""
    known = read_snapshot()["models"]
    configs = installed_configs()
    found = []
    for name in sorted(known if configs is None else configs, key=str.lower):
        record = known.get(name, {})
        if configs is None:
            facts, current = {key: record[key] for key in FACTS}, True
        else:
            facts = config_facts(configs[name])
            current = record.get("config_sha256") == config_digest(configs[name])
        counts = {key: record[key] for key in COUNTS} if current else {}
        tags = record.get("tags", {})
        found.append(
            CatalogEntry(
                architecture=name,
                tags=tuple(tags),
                licences={tag: source["licence"] for tag, source in tags.items()},
                notes=_notes(name, facts["text_kind"], bool(tags)),
                **facts,
                **counts,
            )
        )
    return tuple(found)


def _notes(architecture: str, text_kind: str, has_tags: bool) -> tuple[str, ...]:
    notes = []
    origin, _, name = text_kind.partition(":")
    if origin == "hf":
        notes.append(f"text tower {name} needs the transformers package: clipperf[eval]")
        notes += [
            f"text GFLOPs are for {tokens} tokens"
            for start, tokens in COUNTED_AT.items()
            if architecture.startswith(start)
        ]
    elif origin == "hf-tokenizer":
        notes.append(f"tokenizer {name} is fetched from the hub")
    if not has_tags:
        notes.append("no published weights: --pretrained random or a file")
    return tuple(notes)


def _entry(architecture: str) -> CatalogEntry | None:
    wanted = normal(architecture)
    return next((entry for entry in entries() if normal(entry.architecture) == wanted), None)


def resolve(name: str, pretrained: str | None) -> ModelSpec | None:
    """The model of ``ARCHITECTURE`` or ``ARCHITECTURE::WEIGHTS``; None for other architectures.

    WEIGHTS is a tag (hyphens and underscores are the same), ``random:SEED`` or a file. An
    architecture without weights gets the tag with the best published mean accuracy.

    Raises:
        UsageError: unknown weights; the message lists close names.
    """
    entry = _entry(name.partition("::")[0])
    if entry is None:
        return None
    _, wanted = weights.named(name, pretrained)
    if wanted is not None and not wanted.strip():
        raise UsageError("--pretrained is empty: give a tag, a file, or random[:SEED]")
    if wanted is None:
        wanted = _default_weights(entry)
    label, canonical = weights.parse(wanted, entry)
    return entry.spec(f"{entry.architecture}::{label}", FAMILY.name, canonical)


def _default_weights(entry: CatalogEntry) -> str:
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


def checkpoint(name: str, pretrained: str | None) -> Path | None:
    """The file that is named, where there is one."""
    architecture, _, own = name.partition("::")
    entry, given = _entry(architecture), pretrained or own
    if entry is None or normal(given) in map(normal, entry.tags):
        return None
    return weights.file_of(given)


# --- models --------------------------------------------------------------------------------


def model_config(spec: ModelSpec) -> dict[str, Any]:
    """open_clip's model configuration, with QuickGELU as the weights were trained.

    open_clip itself only warns when ``ViT-B-32`` is loaded with weights trained with QuickGELU;
    such a model loses accuracy. Here the tag decides, or the marks that OpenAI's files carry.
    """
    from open_clip.pretrained import get_pretrained_cfg

    config = sized(_own_config(spec), spec)
    tag = get_pretrained_cfg(spec.architecture, spec.pretrained) or {}
    if tag.get("quick_gelu") or _are_openais(spec):
        config["quick_gelu"] = True
    return dict(config)


def _own_config(spec: ModelSpec) -> dict[str, Any]:
    """open_clip's configuration of the architecture, at its own sizes."""
    from open_clip import get_model_config

    config = get_model_config(spec.architecture)
    if config is None:
        raise UsageError(f"the installed open_clip has no architecture {spec.architecture!r}")
    return dict(config)


def _resized(spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    configs = installed_configs()
    if configs is None or spec.architecture not in configs:
        raise MissingDependencyError(f"open_clip is not installed: {extras.bring('open_clip')}")
    return at_sizes(configs[spec.architecture], spec, sizes)


def _are_openais(spec: ModelSpec) -> bool:
    return weights.is_file(spec.pretrained) and weights.are_openais(Path(spec.pretrained))


def _activation(spec: ModelSpec) -> dict[str, str]:
    """What is assumed of the activation function, where only the weights' training can tell."""
    from open_clip import get_model_config, list_models

    trained_with = f"{spec.architecture}-quickgelu"
    if not weights.is_file(spec.pretrained) or trained_with not in list_models():
        return {}
    if (get_model_config(spec.architecture) or {}).get("quick_gelu"):
        return {}
    if _are_openais(spec):
        return {"activation": "QuickGELU, as the file is one of OpenAI's"}
    return {
        "activation": f"GELU is assumed, the file does not say: if these weights were trained with "
        f"QuickGELU, export {trained_with}"
    }


def build_tower(spec: ModelSpec, side: Side, normalize: bool = False) -> Tower:
    """Build one tower in fp32, ready to run on the CPU.

    Raises:
        WeightsError: the checkpoint cannot be fetched or read, or does not fit.
        MissingDependencyError: an optional package is needed.
    """
    from clipperf.models.open_clip import build_from_config

    path = None if spec.random_weights else weights.locate(spec.architecture, spec.pretrained)
    tower = build_from_config(spec, model_config(spec), side, path, normalize)
    chosen = {} if path is None else weights.chosen_in(path)
    return replace(tower, assumptions={**chosen, **_activation(spec), **tower.assumptions})


def preprocess_config(spec: ModelSpec) -> dict[str, Any]:
    """open_clip's preprocessing configuration: the tag's, else what the tags agree on.

    Weights from a file or random ones carry no such record. Where every tag of the architecture
    has the same mean, std, interpolation and resize mode those are used, else open_clip's
    defaults.
    """
    from dataclasses import asdict

    from open_clip.pretrained import _PRETRAINED, get_pretrained_cfg
    from open_clip.transform import PreprocessCfg

    config = asdict(PreprocessCfg())
    fields = ("mean", "std", "interpolation", "resize_mode", "fill_color")

    def relevant(tag: dict[str, Any]) -> dict[str, Any]:
        return {k: tag[k] for k in fields if k in tag}

    known = get_pretrained_cfg(spec.architecture, spec.pretrained)
    if known:
        config.update(relevant(known))
    else:
        variants = [relevant(t) for t in _PRETRAINED.get(spec.architecture, {}).values()]
        if variants and all(v == variants[0] for v in variants):
            config.update(variants[0])
    config["size"] = model_config(spec)["vision_cfg"].get("image_size", spec.image_px)
    return config


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Write the model's tokenizer files into `folder`.

    Raises:
        WeightsError: the tokenizer lives on the hub and cannot be fetched.
        MissingDependencyError: it needs the transformers package.
    """
    from open_clip import get_tokenizer

    from clipperf.models.tokenizer_files import write_fetched

    write_fetched(
        folder,
        spec.architecture,
        lambda: get_tokenizer(spec.architecture, context_length=spec.context_tokens),
    )


def text_ids(spec: ModelSpec) -> TextIds:
    """Those of CLIP's own tokenizer, or some that every other has."""
    entry = _entry(spec.architecture)
    return CLIP_IDS if entry and entry.text_kind == "clip-bpe" else OTHER_VOCABULARY


FAMILY = Family(
    name="open_clip",
    resolve=resolve,
    weights=lambda spec: weights.known(spec.architecture, spec.pretrained),
    fetch=lambda spec: weights.locate(spec.architecture, spec.pretrained),
    config=model_config,
    build=build_tower,
    pixels=lambda spec: PreprocessSpec.from_open_clip(preprocess_config(spec)),
    write_tokenizer=write_tokenizer,
    text_ids=text_ids,
    entries=entries,
    checkpoint=checkpoint,
    resized=_resized,
    packages=PACKAGES,
)
