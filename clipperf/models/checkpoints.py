"""From what a checkpoint file holds to a model's tensors by their own names.

Training programs put the weights beside other things, under a key of their own, and behind the
names of whatever wrapped the model. What is done about that is a table each: `PLACES`, `WRAPPERS`,
`PREFIXES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import WeightsError
from clipperf.models import checkpoint_files

if TYPE_CHECKING:
    import torch

PLACES = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "clip_model"),
    *("state_dict_ema", "model_ema", "ema_model", "ema_state_dict", "ema", "shadow"),
)
"""Keys under which the weights lie, the first that is there counts: open_clip and Lightning,
PyTorch's tutorials, FSDP, DeepSpeed; the averaged ones of timm and others."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that `torch.compile`, FSDP and activation checkpointing put into names, anywhere."""

PREFIXES = ("module", "_forward_module", "model", "clip_model", "clip", "net", "network")
"""What names begin with behind DDP, SWA, DeepSpeed, Fabric, or a class of one's own."""

COUNTERS = ("n_averaged",)
"""Tensors of wrappers: `torch.optim.swa_utils.AveragedModel` counts what it averaged."""

OPENAI_MARKS = frozenset(("input_resolution", "context_length", "vocab_size"))
"""What OpenAI's own CLIP files hold beside the weights: sizes of the model."""

SHOWN = 8
"""How many keys an error names."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors by their own names.

    `openais` says whether the marks of OpenAI's files were there. `assumptions` are what had to be
    chosen: a name and words each.
    """

    tensors: dict[str, torch.Tensor]
    openais: bool
    assumptions: dict[str, str] = field(default_factory=dict)


def opened(path: Path) -> Checkpoint:
    """The tensors of a checkpoint: a file, a list of shards, or a folder that holds either.

    Raises:
        WeightsError: not a checkpoint, damaged, one that needs code to be unpickled, or one whose
            weights cannot be found; the message says which keys are there.
    """
    import torch

    held = checkpoint_files.read(path)
    state, taken = _weights_in(held)
    if not state:
        raise WeightsError(f"{path} holds no weights: {_found(held)}. {_LOOKED_FOR}")
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    _check_floats(path, tensors)
    _check_whole(path, tensors)
    names = own_names(list(state))
    marks = OPENAI_MARKS if names.keys() >= OPENAI_MARKS else frozenset()
    own = {new: state[old] for new, old in names.items() if old in tensors and new not in marks}
    chosen = {} if taken is None else {"weights": taken}
    return Checkpoint(own, bool(marks), chosen)


_LOOKED_FOR = (
    f"Looked for tensors by name, as they are or under {', '.join(PLACES)}. Save the model's "
    f"state_dict() by itself"
)


def _weights_in(held: Any) -> tuple[Mapping[str, Any], str | None]:
    """The innermost names and tensors in what a file holds, and in words what was chosen."""
    if not isinstance(held, Mapping):
        return {}, None
    for place in (place for place in PLACES if place in held):
        state, chosen = _weights_in(held[place])
        if state:
            others = [p for p in PLACES if p != place and p in held and _weights_in(held[p])[0]]
            if others and chosen is None:
                chosen = f"those under {place}; the file has others under {', '.join(others)}"
            return state, chosen
    import torch

    named = {k: v for k, v in held.items() if isinstance(k, str)}
    return (named if any(isinstance(v, torch.Tensor) for v in named.values()) else {}), None


def _found(held: Any) -> str:
    """In words, what a file holds instead of weights."""
    if not isinstance(held, Mapping):
        return f"it is a {type(held).__name__}"
    if not held:
        return "it is empty"
    keys = [str(key) for key in held]
    others = [key for key in keys if isinstance(held.get(key), checkpoint_files.Nothing)]
    if any(key.endswith("weight") for key in others):
        return f"{len(others)} of its values are no tensors of torch's, such as {others[0]}"
    return f"its keys are {', '.join(keys[:SHOWN])}" + (", ..." if len(keys) > SHOWN else "")


def _check_floats(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make sure that weights are no whole numbers, as quantised ones are."""
    whole = [
        name
        for name, tensor in tensors.items()
        if name.endswith("weight") and not (tensor.is_floating_point() or tensor.is_complex())
    ]
    if whole:
        raise WeightsError(
            f"{path} holds whole numbers for weights ({whole[0]} is {tensors[whole[0]].dtype}): "
            "save the weights before they were quantised"
        )


def _check_whole(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make sure that a file has its tensors' values, of which it may have the names alone."""
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0 or tensor.is_meta]
    if 2 * len(empty) > len(tensors):
        raise WeightsError(
            f"{path} holds no values of {len(empty)} of its {len(tensors)} tensors, for example "
            f"{empty[0]}: DeepSpeed's ZeRO stage 3 keeps them in other files, of which its "
            f"zero_to_fp32.py makes one"
        )


def own_names(names: list[str]) -> dict[str, str]:
    """A model's own names of tensors, each with the one that the file has.

    A prefix is one where most tensors are behind it: then the few others are no part of the model,
    or one that its loading will name.
    """
    own = {_unwrapped(name): name for name in names}
    if len(own) < len(names):
        own = {name: name for name in names}
    while prefix := _prefix(own):
        own = {name.removeprefix(prefix): old for name, old in own.items()}
    return {new: old for new, old in own.items() if new not in COUNTERS}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(names: Mapping[str, Any]) -> str | None:
    """What most names begin with that is no part of theirs."""
    for prefix in PREFIXES:
        behind = [name for name in names if name.startswith(f"{prefix}.")]
        without = {name.removeprefix(f"{prefix}.") for name in behind}
        if 2 * len(behind) > len(names) and not without & names.keys():
            return f"{prefix}."
    return None
