"""M-CLIP: multilingual text towers, each taught to embed as one of OpenAI's or open_clip's does.

A repository of theirs holds a text tower alone; the image tower is the teacher's. The names are
those of CLIP-as-service, and of the repositories.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError, WeightsError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import hub, transformers_config, transformers_weights
from clipperf.models import weights as checkpoints
from clipperf.models.families import open_clip
from clipperf.models.family import CatalogEntry, Family
from clipperf.models.mclip_facts import (
    BASES,
    MODEL_TYPE,
    ORGANISATION,
    STUDENTS,
    TEACHERS,
    base_of,
    most_tokens,
)
from clipperf.models.open_clip_facts import PACKAGES, read_snapshot
from clipperf.models.published import normal
from clipperf.models.transformers_config import CONFIG, MOST_TOKENS
from clipperf.models.transformers_tokenizer import FILES as TOKENIZERS
from clipperf.nouns.model import ModelSpec, Sizes, TextIds, Tower
from clipperf.nouns.model import resized as at_sizes
from clipperf.nouns.variant import Side
from clipperf.system.files import digest_of
from clipperf.system.store import cached_sha256

TAG = "hub"
"""The weights that are published: the repository of the model's name."""


@cache
def entries() -> tuple[CatalogEntry, ...]:
    """The four that are published."""
    found = []
    for name, student in STUDENTS.items():
        teacher = TEACHERS[student.embed_dim]
        image = read_snapshot()["models"][teacher.partition("::")[0]]
        found.append(
            CatalogEntry(
                architecture=name,
                image_px=image["image_px"],
                context_tokens=MOST_TOKENS,
                embed_dim=student.embed_dim,
                text_kind=f"hf:{student.base}",
                tags=(TAG,),
                licences={TAG: None},
                image_parameters=image.get("image_parameters"),
                text_parameters=student.parameters,
                image_gflops=image.get("image_gflops"),
                notes=(f"its image tower is that of {teacher}", _TRANSFORMERS),
            )
        )
    return tuple(found)


_TRANSFORMERS = "its text tower needs the transformers package: clipperf[eval]"


def resolve(name: str, pretrained: str | None) -> ModelSpec | None:
    """The model of ``M-CLIP/NAME[::WEIGHTS]``, or of a folder of M-CLIP's; None for other names.

    WEIGHTS is ``hub``, ``random[:SEED]``, or a file or folder with those of the text tower.

    Raises:
        UsageError: unknown weights, or a name that M-CLIP has not published.
    """
    named, wanted = checkpoints.named(name, pretrained)
    source = transformers_config.folder_of(named)
    if source is not None:
        entry = _entry_of(source)
        if entry is None:
            return None
        default = str(transformers_weights.file_in(source) or "")
        if wanted is None and not default:
            transformers_weights.needed(source)
        label, weights = checkpoints.parse(wanted or default, entry)
        spec = entry.spec(f"{entry.architecture}::{label}", FAMILY.name, weights)
        return replace(spec, source=str(source), image_parameters=None, text_parameters=None)
    if not normal(named.removeprefix(hub.PREFIX)).startswith(normal(f"{ORGANISATION}/")):
        return None
    plain = normal(named.removeprefix(hub.PREFIX))
    known = {normal(entry.architecture): entry for entry in entries()}
    if plain not in known:
        raise UsageError(f"{named}: of M-CLIP's models these can be had: {', '.join(STUDENTS)}")
    label, weights = checkpoints.parse(wanted or TAG, known[plain])
    return known[plain].spec(f"{known[plain].architecture}::{label}", FAMILY.name, weights)


def _entry_of(folder: Path) -> CatalogEntry | None:
    """What a folder's configuration says; None where it is no model of M-CLIP's."""
    config = transformers_config.read_config(folder)
    if config.get("model_type") != MODEL_TYPE:
        return None
    width = config.get("numDims")
    if width not in TEACHERS:
        raise UsageError(
            f"{folder}: no image tower is known for text embeddings of width {width} (numDims in "
            f"{CONFIG}); known are {', '.join(map(str, TEACHERS))}"
        )
    base = base_of(config, folder)
    there = sorted(path for name in (CONFIG, *TOKENIZERS) if (path := folder / name).is_file())
    digest = digest_of(base, *map(cached_sha256, there))[:8]
    image = read_snapshot()["models"][TEACHERS[width].partition("::")[0]]
    return CatalogEntry(
        architecture=f"{folder.name}@{digest}",
        image_px=image["image_px"],
        context_tokens=min(MOST_TOKENS, most_tokens(base)),
        embed_dim=width,
        text_kind=f"hf:{config['modelBase']}",
        tags=(),
        licences={},
    )


def _own_base(spec: ModelSpec) -> dict[str, Any]:
    if spec.source is None:
        return BASES[STUDENTS[spec.architecture].base]
    folder = Path(spec.source)
    return base_of(transformers_config.read_config(folder), folder)


def _teacher(spec: ModelSpec) -> ModelSpec:
    """The model of open_clip's whose image tower it is; seeded noise where the spec says so."""
    name = TEACHERS[spec.embed_dim]
    if spec.random_weights:
        name = f"{name.partition('::')[0]}::{spec.pretrained}"
    found = open_clip.resolve(name, None)
    if found is None:
        raise UsageError(f"the installed open_clip has no {name}, whose image tower {spec.id} has")
    return found


def checkpoint(name: str, pretrained: str | None) -> Path | None:
    """The file of weights that is named or lies in the folder, where there is one."""
    named, _, own = name.partition("::")
    folder, given = transformers_config.folder_of(named), pretrained or own
    known = normal(named) in map(normal, STUDENTS)
    if not known and (folder is None or _entry_of(folder) is None):
        return None
    if checkpoints.seeded(given) or given == TAG:
        return None
    if given:
        return checkpoints.file_of(given)
    return None if known or folder is None else transformers_weights.file_in(folder)


# --- files ---------------------------------------------------------------------------------


def weights(spec: ModelSpec) -> Path | None:
    """The file of the text tower's weights; the image tower's come with open_clip's tag."""
    if spec.pretrained != TAG:
        return Path(spec.pretrained)
    folder = hub.cached(spec.architecture, hub.MAIN)
    return None if folder is None else transformers_weights.file_in(folder)


def fetch(spec: ModelSpec) -> Path:
    """The same, fetched from the hub if need be; raises WeightsError."""
    found = weights(spec)
    for patterns in hub.WEIGHTS:
        if found is None:
            hub.fetched(spec.architecture, hub.MAIN, patterns)
            found = weights(spec)
    if found is None:
        raise WeightsError(f"{spec.architecture} holds no weights on the hub")
    return found


def _tokenizer_folder(spec: ModelSpec) -> Path:
    """Where the tokenizer lies: with the weights, in the cache, or on the hub.

    Raises:
        WeightsError: nowhere, and it cannot be fetched.
    """
    beside = [] if spec.pretrained == TAG or spec.random_weights else [Path(spec.pretrained).parent]
    described = [] if spec.source is None else [Path(spec.source)]
    repositories = [] if spec.source else [spec.architecture, STUDENTS[spec.architecture].base]
    cached = (hub.cached(repo, hub.MAIN) for repo in repositories)
    for folder in (*beside, *described, *(folder for folder in cached if folder is not None)):
        if any((folder / name).is_file() for name in TOKENIZERS):
            return folder
    if not repositories:
        return described[0]  # reading it says what is missing
    return hub.fetched(repositories[0], hub.MAIN, hub.SETTINGS)


# --- towers and inputs ---------------------------------------------------------------------


def config(spec: ModelSpec) -> dict[str, Any]:
    """The configurations of both towers."""
    return {"image": open_clip.model_config(_teacher(spec)), "text": _own_base(spec)}


def build(spec: ModelSpec, side: Side, normalize: bool) -> Tower:
    """Build one tower in fp32, ready to run on the CPU.

    Raises:
        WeightsError: the weights cannot be fetched or read, or do not fit.
    """
    if side == "image":
        return replace(open_clip.build_tower(_teacher(spec), side, normalize), spec=spec)
    from clipperf.models import transformers_mean

    base = _own_base(spec)
    checkpoint = None if spec.random_weights else fetch(spec)
    said = transformers_config.cut_short(spec, most_tokens(base))
    return transformers_mean.build(spec, base, normalize, checkpoint, said)


def resized(spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """Texts of another length, as padding does not count; images keep to the teacher's size.

    Raises:
        UsageError: the model takes no such sizes.
    """
    if sizes.image_px not in (None, spec.image_px):
        raise UsageError(f"{spec.id} takes images of {spec.image_px} px: leave --image-size out")
    transformers_config.check_length(spec, sizes, most_tokens(_own_base(spec)))
    return at_sizes(spec, sizes)


def pixels(spec: ModelSpec) -> PreprocessSpec:
    """How images are prepared: as for the teacher."""
    return open_clip.FAMILY.pixels(_teacher(spec))


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    """Write the model's tokenizer files into `folder`; texts are not cleaned.

    Raises:
        WeightsError: it lies on the hub and cannot be fetched.
        MissingDependencyError: it needs a package that is not installed.
    """
    from clipperf.models import transformers_tokenizer

    pad = _own_base(spec)["pad_token_id"]
    transformers_tokenizer.write(_tokenizer_folder(spec), spec.context_tokens, folder, pad)


def text_ids(spec: ModelSpec) -> TextIds:
    """Ids that any vocabulary has, none of them the padding's."""
    words = _own_base(spec)["vocab_size"]
    return TextIds(sot=None, eot=2, low=3, high=min(1000, words))


FAMILY = Family(
    name="mclip",
    resolve=resolve,
    weights=weights,
    fetch=fetch,
    config=config,
    build=build,
    pixels=pixels,
    write_tokenizer=write_tokenizer,
    text_ids=text_ids,
    entries=entries,
    checkpoint=checkpoint,
    resized=resized,
    packages=PACKAGES,
)
