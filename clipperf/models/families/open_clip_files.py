"""open_clip's models from files: a folder with ``open_clip_config.json``, and a JSON file of an
architecture of one's own.

A folder is what open_clip writes for the hub, and calls ``local-dir:``: the configuration of model
and preprocessing, weights, and the files of a tokenizer where it is not CLIP's own. The name of
such a model ends in a digest of all but the weights, so that what changes is another model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, UsageError, WeightsError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import checkpoint_files, weights
from clipperf.models.family import CatalogEntry, Family
from clipperf.models.open_clip_facts import LOCAL, PACKAGES, config_facts, count_safetensors
from clipperf.models.open_clip_sizes import at_sizes, sized
from clipperf.nouns.model import CLIP_IDS, OTHER_VOCABULARY, ModelSpec, TextIds, Tower
from clipperf.nouns.variant import Side
from clipperf.system.files import digest_of, read_json
from clipperf.system.store import cached_sha256
from clipperf.system.targets import existing

CONFIG_FILE = "open_clip_config.json"
NEEDED = ("embed_dim", "vision_cfg", "text_cfg")
"""What a model configuration of open_clip's has."""


# --- names ---------------------------------------------------------------------------------


def resolve(name: str, pretrained: str | None) -> ModelSpec | None:
    """The model of a folder (``local-dir:PATH`` or its path), or of a JSON file (PATH).

    A folder's weights are those in it, unless others are named with ``--pretrained`` or behind
    ``::``; a JSON file has none. None for other names.

    Raises:
        UsageError: no such model or weights.
    """
    source = _source(name.partition("::")[0])
    if source is None:
        return None
    config = _described(source)
    path = _weights_named(source, weights.named(name, pretrained)[1])
    label = path if isinstance(path, str) else weights.label_of(path)
    architecture = f"{source.stem if source.is_file() else source.name}@{_digest(source, config)}"
    image, text = (None, None)
    if isinstance(path, Path) and path.suffix == ".safetensors":
        image, text = count_safetensors(path)
    entry = CatalogEntry(
        architecture=architecture,
        tags=(),
        licences={},
        image_parameters=image,
        text_parameters=text,
        **config_facts(config["model_cfg"]),
    )
    spec = entry.spec(f"{architecture}::{label}", FAMILY.name, str(path))
    return replace(spec, source=str(source))


def _source(name: str) -> Path | None:
    """The folder or file that a name means; None where it means neither."""
    path = existing(name.removeprefix(LOCAL))
    if path is not None and (path / CONFIG_FILE).is_file():
        return path
    if name.startswith(LOCAL):
        raise UsageError(f"{name}: there is no {CONFIG_FILE} in that folder")
    if not name.endswith(".json"):
        return None
    if path is None or not path.is_file():
        raise UsageError(f"{name}: there is no such file")
    return None if "model_type" in _read(path) else path  # which is transformers' own


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, large=True)
    except ArtifactError as exc:
        raise UsageError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object")
    return found


def _described(source: Path) -> dict[str, Any]:
    """What a folder's file, or a file, says: ``model_cfg``, and ``preprocess_cfg`` where given.

    Raises:
        UsageError: it is no configuration of open_clip's.
    """
    path = source / CONFIG_FILE if source.is_dir() else source
    found = _read(path)
    config = found if "model_cfg" in found else {"model_cfg": found}
    model, pixels = config["model_cfg"], config.get("preprocess_cfg") or {}
    whole = isinstance(model, dict) and all(key in model for key in NEEDED)
    objects = whole and all(isinstance(x, dict) for x in (*map(model.get, NEEDED[1:]), pixels))
    if not objects:
        keys = ", ".join(list(model if isinstance(model, dict) else config)[:8]) or "none"
        raise UsageError(
            f"{path} describes no model of open_clip's: looked for {', '.join(NEEDED)}, and found "
            f"{keys}"
        )
    try:
        config_facts(model)
    except (TypeError, ValueError, LookupError) as exc:
        raise UsageError(f"{path}: its sizes are no whole numbers ({exc})") from exc
    return {"model_cfg": model, "preprocess_cfg": pixels}


def _weights_named(source: Path, given: str | None) -> Path | str:
    """The checkpoint, or ``random:SEED``.

    Raises:
        UsageError: there is none.
    """
    if given is not None:
        found = weights.seeded(given) or weights.file_of(given)
        if found is None:
            raise UsageError(f"--pretrained {given}: there is no such file or folder")
        return found
    fix = "give its weights with --pretrained FILE, or random[:SEED] for sizing"
    if source.is_file():
        raise UsageError(f"{source} is an architecture alone: {fix}")
    try:
        return checkpoint_files.find(source)
    except WeightsError as exc:
        raise UsageError(f"{exc}; or {fix}") from exc


def checkpoint(name: str, pretrained: str | None) -> Path | None:
    """The file of weights that is named or lies in the folder, where there is one."""
    name, _, own = name.partition("::")
    source = _source(name)
    found = None if source is None else _weights_named(source, own or pretrained)
    return found if isinstance(found, Path) else None


# --- models --------------------------------------------------------------------------------


def _digest(source: Path, config: dict[str, Any]) -> str:
    """What tells a description from all others: its values, and a tokenizer's files."""
    files = sorted(source.glob("*token*")) if source.is_dir() else []
    files += [source / name for name in VOCABULARIES if source.is_dir()]
    return digest_of(config, {f.name: cached_sha256(f) for f in files if f.is_file()})[:8]


VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model")
"""Files of tokenizers that "token" is no part of the name of."""


def _config(spec: ModelSpec) -> dict[str, Any]:
    """What a model's file says now.

    Raises:
        WeightsError: it is gone, or no longer says what it said when the model was named.
    """
    source = Path(str(spec.source))
    if not source.exists():
        raise WeightsError(f"{source}, which describes {spec.id}, is gone")
    found = _described(source)
    if _digest(source, found) != spec.architecture.rpartition("@")[2]:
        raise WeightsError(f"{source} no longer describes {spec.id}: name the model again")
    return found


def model_config(spec: ModelSpec) -> dict[str, Any]:
    """open_clip's model configuration, with QuickGELU where the weights are OpenAI's."""
    config = sized(_config(spec)["model_cfg"], spec)
    if _openais(spec):
        config["quick_gelu"] = True
    return config


def _openais(spec: ModelSpec) -> bool:
    return not spec.random_weights and weights.are_openais(Path(spec.pretrained))


def _activation(spec: ModelSpec) -> dict[str, str]:
    """What is assumed of the activation function where the file does not say."""
    own = _config(spec)["model_cfg"]
    # Towers of timm's and transformers' have their own.
    if spec.random_weights or own.get("quick_gelu") or "timm_model_name" in own["vision_cfg"]:
        return {}
    if _openais(spec):
        return {"activation": "QuickGELU, as the weights are OpenAI's, whatever the file says"}
    if "quick_gelu" in own:
        return {}
    return {
        "activation": "GELU, open_clip's default, as the file does not say: for weights that were "
        'trained with QuickGELU it needs "quick_gelu": true'
    }


def build(spec: ModelSpec, side: Side, normalize: bool) -> Tower:
    """Build one tower in fp32; raises as `open_clip.build_from_config`."""
    from clipperf.models.open_clip import build_from_config

    path = None if spec.random_weights else Path(spec.pretrained)
    tower = build_from_config(spec, model_config(spec), side, path, normalize)
    said = {} if path is None else weights.chosen_in(path)
    if side == "image" and not _config(spec)["preprocess_cfg"]:
        said["preprocessing"] = "open_clip's defaults are assumed, as the file does not say"
    return replace(tower, assumptions={**said, **_activation(spec), **tower.assumptions})


def pixels(spec: ModelSpec) -> PreprocessSpec:
    """How images are preprocessed: as the file says, at the tower's size."""
    config = _config(spec)
    size = sized(config["model_cfg"], spec)["vision_cfg"].get("image_size", spec.image_px)
    return PreprocessSpec.from_open_clip({**config["preprocess_cfg"], "size": size})


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Write the tokenizer that lies in the folder, that the file names, or CLIP's own.

    Raises:
        UsageError: the text tower has no place for CLIP's vocabulary.
        WeightsError: the tokenizer lives on the hub and cannot be fetched.
        MissingDependencyError: it needs the transformers package.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    from clipperf.models.tokenizer_files import write_fetched

    text, source = model_config(spec)["text_cfg"], Path(str(spec.source))
    options = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if name:
        options["tokenizer_mode"] = text.get("tokenizer_mode")
        if any((source / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
            name = str(source)

    def get() -> Any:
        if name:
            return HFTokenizer(name, context_length=spec.context_tokens, **options)
        return SimpleTokenizer(context_length=spec.context_tokens, **options)

    size = text.get("vocab_size", CLIP_IDS.eot + 1)
    if not name and size <= CLIP_IDS.eot:
        raise UsageError(
            f"the text tower of {spec.id} has {size} tokens, and CLIP's tokenizer "
            f"{CLIP_IDS.eot + 1}: name its own in text_cfg as hf_tokenizer_name"
        )
    write_fetched(folder, spec.id, get)


def text_ids(spec: ModelSpec) -> TextIds:
    """Those of CLIP's own tokenizer, or some that every other has."""
    kind = config_facts(_config(spec)["model_cfg"])["text_kind"]
    return CLIP_IDS if kind == "clip-bpe" else OTHER_VOCABULARY


FAMILY = Family(
    name="open_clip_files",
    resolve=resolve,
    weights=lambda spec: Path(spec.pretrained),
    fetch=lambda spec: Path(spec.pretrained),
    config=model_config,
    build=build,
    pixels=pixels,
    write_tokenizer=write_tokenizer,
    text_ids=text_ids,
    checkpoint=checkpoint,
    resized=lambda spec, sizes: at_sizes(_config(spec)["model_cfg"], spec, sizes),
    files=(CONFIG_FILE,),
    packages=PACKAGES,
)
