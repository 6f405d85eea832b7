"""Models of transformers: folders written by ``save_pretrained``, and repositories of the hub.

What embeds images and texts is taken: CLIP, SigLIP, SigLIP 2 (NaFlex at one number of patches),
AltCLIP, Chinese CLIP. Code that comes with a repository is never run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import (
    checkpoint_files,
    hub,
    siglip_tokenizer,
    transformers_config,
    transformers_images,
    transformers_tokenizer,
    transformers_weights,
)
from clipperf.models import weights as checkpoints
from clipperf.models.families import open_clip_files
from clipperf.models.family import Family
from clipperf.models.open_clip_facts import PACKAGES
from clipperf.models.transformers_config import CONFIG, KINDS, PREPROCESSOR, PROCESSOR, TOKENIZER
from clipperf.nouns.model import CLIP_IDS, ModelSpec, Sizes, TextIds, Tower
from clipperf.nouns.model import resized as at_sizes
from clipperf.nouns.variant import Side
from clipperf.system.files import digest_of
from clipperf.system.store import cached_sha256
from clipperf.system.targets import existing, kind_of

HUB = "hub"
"""`ModelSpec.pretrained` of weights that lie beside the configuration on the hub."""

DESCRIPTION = (
    *(CONFIG, PREPROCESSOR, PROCESSOR, TOKENIZER, "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""The files of a folder that, beside the weights, decide what its towers and inputs are."""


def resolve(name: str, pretrained: str | None) -> ModelSpec | None:
    """The model of ``[hf-hub:]ORG/NAME[@REVISION]`` or of a folder; None for other names.

    ``--pretrained`` is a file of weights for its configuration, or ``random[:SEED]``.

    Raises:
        UsageError: it is no model that embeds images and texts.
        WeightsError: its configuration cannot be fetched, or is damaged.
    """
    named, wanted = checkpoints.named(name, pretrained)
    folder = existing(named)
    if folder is not None:
        if kind_of(folder / CONFIG) != "file":
            return None
        digest = digest_of(*map(cached_sha256, _description(folder)))
        architecture = f"{folder.name}@{digest[:8]}"
        default = str(transformers_weights.file_in(folder) or "")
    else:
        repository = hub.repository(named)
        if repository is None:
            return None
        folder = hub.cached(*repository) or hub.fetched(*repository, hub.SETTINGS)
        if not any((folder / each).is_file() for each in (CONFIG, open_clip_files.CONFIG_FILE)):
            folder = hub.fetched(*repository, hub.SETTINGS)
        if _is_open_clips(folder, named):
            return _of_open_clip(repository, folder, wanted)
        architecture, default = f"{repository[0]}@{folder.name[:8]}", HUB
    facts = transformers_config.facts(folder)
    if wanted is None and not default:
        transformers_weights.needed(folder)
    noise = checkpoints.seeded(wanted or "")
    path = checkpoints.file_of(wanted) if wanted and not noise else Path(default)
    if path is None:
        raise UsageError(
            f"--pretrained {wanted}: {named} has no other weights than its own: leave it out, or "
            f"give a file, or random[:SEED]"
        )
    weights = noise or str(path)
    counted = None if noise else (transformers_weights.file_in(folder) if weights == HUB else path)
    image, text = transformers_weights.parameters(counted) if counted else (None, None)
    label = "" if weights == HUB else f"::{noise or checkpoints.label_of(path)}"
    return ModelSpec(
        id=f"{architecture}{label}",
        family=FAMILY.name,
        architecture=architecture,
        pretrained=weights,
        image_px=facts.image_px,
        context_tokens=facts.context_tokens,
        embed_dim=facts.embed_dim,
        image_parameters=image,
        text_parameters=text,
        source=str(folder),
    )


def _is_open_clips(folder: Path, named: str) -> bool:
    """Whether a repository is read as open_clip does: where it is asked for as open_clip does, too.

    Many hold a model for both libraries.
    """
    if not (folder / open_clip_files.CONFIG_FILE).is_file():
        return False
    return named.startswith(hub.PREFIX) or not (folder / CONFIG).is_file()


def _of_open_clip(
    repository: tuple[str, str], folder: Path, wanted: str | None
) -> ModelSpec | None:
    """The model of a repository with open_clip's configuration, its weights fetched."""
    if wanted is None:
        for patterns in ((), *hub.OPEN_CLIPS_WEIGHTS):
            if patterns:
                hub.fetched(*repository, patterns)
            if any((folder / name).is_file() for name in checkpoint_files.WHOLE_FILES):
                break
    spec = open_clip_files.resolve(str(folder), wanted)
    if spec is None:
        return None
    architecture = spec.architecture.replace(folder.name, repository[0], 1)
    name = spec.id.replace(folder.name, repository[0], 1)
    return replace(spec, id=name, architecture=architecture)


def _description(folder: Path) -> list[Path]:
    return [folder / name for name in DESCRIPTION if (folder / name).is_file()]


def _folder(spec: ModelSpec) -> Path:
    return Path(spec.source or "")


def weights(spec: ModelSpec) -> Path | None:
    """The file of a model's weights, or the list of several; None until the hub's are fetched."""
    found = spec.pretrained
    return transformers_weights.file_in(_folder(spec)) if found == HUB else Path(found)


def fetch(spec: ModelSpec) -> Path:
    """The same, fetched from the hub if need be; raises WeightsError."""
    found = weights(spec)
    if found is not None:
        return found
    repo = spec.architecture.partition("@")[0]
    for patterns in hub.WEIGHTS:
        hub.fetched(repo, _folder(spec).name, patterns)
        found = weights(spec)
        if found is not None:
            return found
    return transformers_weights.needed(_folder(spec))


def config(spec: ModelSpec) -> dict[str, Any]:
    """All on which a graph depends: the configuration, and what texts do not attend to."""
    pad, side = padding(spec)
    return {**transformers_config.read_config(_folder(spec)), "pad": pad, "padding_side": side}


def padding(spec: ModelSpec) -> tuple[int | None, str]:
    """The id of the padding that texts do not attend to, None where they do; and its side.

    Towers for which their tokenizer makes no mask attend to all tokens, SigLIP's among them. That
    of CLIP cannot look behind the end of a text anyway.
    """
    folder = _folder(spec)
    read = transformers_config.read_config(folder)
    kind = transformers_config.kind_of(read, folder)
    settings = transformers_config.read_settings(folder / TOKENIZER)
    said = settings or {}
    if KINDS[kind].masked:
        default = 1 if kind == "altclip" else 0
        return read["text_config"].get("pad_token_id", default), said.get("padding_side", "right")
    # Where settings do not say, the classes of transformers' make a mask.
    names = said.get("model_input_names", ["attention_mask"])
    if kind == "clip" or settings is None or "attention_mask" not in names:
        return None, "right"
    if siglip_tokenizer.is_in(folder):
        return siglip_tokenizer.end_id(folder), said.get("padding_side", "right")
    tokenizer = transformers_tokenizer.opened(folder)
    return tokenizer.pad_token_id, tokenizer.padding_side


def build(spec: ModelSpec, side: Side, normalize: bool) -> Tower:
    """Build one tower in fp32, ready to run on the CPU.

    Raises:
        WeightsError: the weights cannot be fetched or read, or do not fit.
    """
    from clipperf.models import transformers_towers

    folder = _folder(spec)
    facts = transformers_config.facts(folder)
    pad, padding_side = padding(spec) if side == "text" else (None, "right")
    return transformers_towers.build(
        spec, folder, facts, side, normalize, pad, padding_side,
        None if spec.random_weights else fetch(spec), _assumptions(spec, facts, side),
    )  # fmt: skip


def _assumptions(spec: ModelSpec, facts: transformers_config.Facts, side: Side) -> dict[str, str]:
    if side == "text":
        return transformers_config.cut_short(spec, facts.most_tokens)
    folder, said = _folder(spec), {}
    if transformers_images.image_settings(folder) is None:
        own = transformers_images.settings_file(folder)
        lack = "is missing" if own.name == PREPROCESSOR else "does not say how images are prepared"
        said["preprocessing"] = f"that of {KINDS[facts.kind].model}, {own.name} {lack}"
    if facts.kind == "siglip2":
        said["patches"] = (
            f"images are squashed to {facts.image_px} x {facts.image_px} px; NaFlex's own "
            f"processor keeps the aspect ratio, and is equal for squares alone"
        )
    return said


def resized(spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """Texts of another length, where padding does not count and there are positions for them.

    Raises:
        UsageError: the model takes no such sizes.
    """
    facts = transformers_config.facts(_folder(spec))
    if sizes.image_px not in (None, spec.image_px):
        raise UsageError(
            f"{spec.id} takes images of {spec.image_px} px: leave --image-size out, or resize its "
            f"positions in PyTorch and save it"
        )
    if not KINDS[facts.kind].masked:
        raise UsageError(
            f"{spec.id} takes texts of {spec.context_tokens} tokens: leave --context-length out"
        )
    transformers_config.check_length(spec, sizes, facts.most_tokens)
    return at_sizes(spec, sizes)


def checkpoint(name: str, pretrained: str | None) -> Path | None:
    """The file of weights that is named or lies in the folder, where there is one."""
    named, _, own = name.partition("::")
    folder, given = transformers_config.folder_of(named), pretrained or own
    if folder is None or checkpoints.seeded(given):
        return None
    return checkpoints.file_of(given) if given else transformers_weights.file_in(folder)


def pixels(spec: ModelSpec) -> PreprocessSpec:
    """How images are prepared; raises UsageError where that cannot be done here."""
    folder = _folder(spec)
    return transformers_images.pixels(folder, transformers_config.facts(folder))


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Write the model's tokenizer files into `folder`; raises as `transformers_tokenizer.write`."""
    pad = padding(spec)[0]
    transformers_tokenizer.write(_folder(spec), spec.context_tokens, folder, pad)


def text_ids(spec: ModelSpec) -> TextIds:
    """CLIP's own where the vocabulary is of its size, else some that the tower pools at."""
    text = transformers_config.read_config(_folder(spec))["text_config"]
    words = text.get("vocab_size", CLIP_IDS.eot + 1)
    if words == CLIP_IDS.eot + 1:
        return CLIP_IDS
    end = text.get("eos_token_id")
    if not isinstance(end, int) or end == 2 or not 2 < end < words:
        end = words - 1
    return TextIds(sot=None, eot=end, low=3, high=min(1000, end))


FAMILY = Family(
    name="hugging_face",
    resolve=resolve,
    weights=weights,
    fetch=fetch,
    config=config,
    build=build,
    pixels=pixels,
    write_tokenizer=write_tokenizer,
    text_ids=text_ids,
    checkpoint=checkpoint,
    resized=resized,
    files=(CONFIG,),
    packages=PACKAGES,
)
