"""Whether a checkpoint is one of a model of open_clip's, and what is said where it is not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipperf.errors import WeightsError
from clipperf.models.open_clip_facts import installed_configs
from clipperf.nouns.variant import Side

if TYPE_CHECKING:
    import torch

SCALARS = {"logit_scale", "logit_bias"}
"""Of both towers, and needed by neither; a checkpoint may hold them as vectors of one number."""
NAMED = 6
"""How many tensors an error names."""


@dataclass(frozen=True)
class Spelling:
    """Whose names of tensors begin so, and how users give what has them."""

    whose: str
    begins: tuple[str, ...]
    fix: str


SPELLINGS = (
    Spelling(
        "transformers' models",
        ("text_model.", "vision_model."),
        "give the folder with its config.json in the place of MODEL",
    ),
    Spelling(
        "open_clip's models",
        ("visual.", "transformer.resblocks.", "text.transformer."),
        "give its architecture or the folder with its open_clip_config.json in the place of MODEL, "
        "and the file as --pretrained",
    ),
    Spelling(
        "M-CLIP's text towers",
        ("LinearTransformation.",),
        "give the folder with its config.json in the place of MODEL",
    ),
)
"""How libraries name the tensors of what may be one model."""


def check_fit(
    wanted: Mapping[str, torch.Tensor],
    own: Collection[str],
    state: Mapping[str, torch.Tensor],
    side: Side,
    said: str,
    advice: str | None = None,
) -> None:
    """Make sure that a checkpoint's tensors are those of a model; `own` are one tower's.

    `advice` ends an error's message; without, it says which model of open_clip's they may be of.

    Raises:
        WeightsError: they are not; the message begins with what is `said`.
    """
    other = [name for name in wanted if name not in own and name not in SCALARS]
    there = [name for name in other if name in state]
    unused = [name for name in state if name not in wanted and name not in SCALARS]

    def fix() -> str:
        return _spelt_otherwise(wanted, unused) or advice or instead(state, unused)

    for tower, names in ((f"its {side} tower", own), ("its other tower", other if there else ())):
        missing = [name for name in names if name not in state]
        if missing:
            raise WeightsError(
                f"{said}: {len(missing)} of {len(names)} tensors of {tower} are missing, for "
                f"example {missing[0]}. {fix()}"
            )
    if unused:
        raise WeightsError(
            f"{said}: the architecture has no place for {len(unused)} of its tensors: "
            f"{_some(unused)}. {fix()}"
        )
    for name in [*own, *there]:
        if state[name].shape != wanted[name].shape:
            raise WeightsError(
                f"{said}: {name} is {tuple(state[name].shape)}, the architecture wants "
                f"{tuple(wanted[name].shape)}. {fix()}"
            )


def instead(state: Mapping[str, torch.Tensor], unused: Collection[str]) -> str:
    """What a checkpoint is instead, and what to do with it."""
    if any("lora_" in name for name in unused):
        return "Merge the adapter into the weights, and save them again"
    fitting = fitting_architectures(state)
    if unused and fitting_architectures({k: v for k, v in state.items() if k not in unused}):
        return f"Remove what is no part of the model: {_some(list(unused))}"
    if fitting:
        return f"Its sizes are those of {_some(fitting)}"
    strange = _some(list(unused) or list(state))
    return f"No architecture of open_clip's has its sizes; it holds {strange}"


def _spelt_otherwise(wanted: Collection[str], unused: Collection[str]) -> str | None:
    """Whose names a checkpoint has where they are not those of the model that is wanted.

    None where the model itself is spelt so, or an adapter is left beside the weights.
    """
    if any("lora_" in name for name in unused):
        return None
    for spelling in SPELLINGS:
        theirs = [name for name in unused if name.startswith(spelling.begins)]
        if theirs and not any(name.startswith(spelling.begins) for name in wanted):
            return f"{_some(theirs, 3)} are names of {spelling.whose}: {spelling.fix}"
    return None


def _some(names: list[str], most: int = NAMED) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def fitting_architectures(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The architectures of open_clip's own towers that a checkpoint has the sizes of."""
    found = _sizes_of(state)
    if found is None:
        return []
    configs = installed_configs() or {}
    return [name for name, config in configs.items() if _sizes_in(config) == found]


_Sizes = tuple[int, int, int, int, int, int]
"""Width, layers and patch of the image tower, width and layers of the text tower, and of both."""


def _sizes_of(state: Mapping[str, torch.Tensor]) -> _Sizes | None:
    patches, shared = state.get("visual.conv1.weight"), state.get("visual.proj")
    words = state.get("token_embedding.weight", state.get("text.token_embedding.weight"))
    if patches is None or shared is None or words is None:
        return None
    blocks = [name.split(".resblocks.") for name in state if ".resblocks." in name]
    layers = {
        owner: 1 + max(int(rest.split(".")[0]) for own, rest in blocks if own == owner)
        for owner in ("visual.transformer", "transformer", "text.transformer")
        if any(own == owner for own, _ in blocks)
    }
    text = layers.get("transformer", layers.get("text.transformer", 0))
    image = layers.get("visual.transformer", 0)
    return (
        *(patches.shape[0], image, patches.shape[-1]),
        *(words.shape[1], text, shared.shape[-1]),
    )


def _sizes_in(config: Mapping[str, Any]) -> _Sizes | None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or "multimodal_cfg" in config:
        return None
    if not isinstance(vision.get("layers", 12), int):
        return None
    return (
        *(vision.get("width", 768), vision.get("layers", 12), vision.get("patch_size", 16)),
        *(text.get("width", 512), text.get("layers", 12), config["embed_dim"]),
    )
