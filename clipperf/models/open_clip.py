"""Towers of open_clip models, built one at a time without ever holding both in RAM.

The whole model is laid out on the meta device (no storage), the checkpoint is memory-mapped and
adapted by open_clip's own conversions, and only the tensors of the wanted tower are assigned.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import MissingDependencyError, WeightsError
from clipperf.models import weights
from clipperf.nouns.model import ModelSpec, Similarity, Tower
from clipperf.nouns.variant import Side

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def parameters_on_meta(convolutions: bool = True) -> Iterator[None]:
    """Create modules whose parameters have no storage, while buffers are real.

    Buffers that are computed (attention masks, position tables) and not stored in checkpoints
    keep their values that way, which building under `torch.device("meta")` would lose.
    Without `convolutions` these, and biases and norms, are real too, so that they can run.
    """
    import torch

    register = torch.nn.Module.register_parameter

    def register_on_meta(
        module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None
    ) -> None:
        if parameter is not None and (convolutions or parameter.dim() in (2, 3)):
            parameter = torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]


def skeleton(config: dict[str, Any]) -> torch.nn.Module:
    """The full open_clip model of a configuration with parameters on the meta device.

    Raises:
        MissingDependencyError: the text tower comes from `transformers`, which is absent.
        WeightsError: its configuration cannot be fetched from the hub.
    """
    import warnings

    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(config)
    hub_text = config["text_cfg"].get("hf_model_name")
    custom = config.pop("custom_text", False) or bool(hub_text)
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    config["vision_cfg"]["timm_model_pretrained"] = False
    if hub_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _laid_out(kind, config)
    except RuntimeError as exc:
        if hub_text and "transformers" in str(exc):
            raise MissingDependencyError(
                f"its text tower {hub_text} needs the transformers package: "
                f"pip install 'clipperf[eval]'"
            ) from exc
        raise
    except OSError as exc:
        raise WeightsError(
            f"the configuration of its text tower {hub_text} cannot be fetched from the hub: "
            f"{str(exc).splitlines()[0]}"
        ) from exc


def _laid_out(kind: type[torch.nn.Module], config: dict[str, Any]) -> torch.nn.Module:
    try:
        with parameters_on_meta():
            model = kind(**copy.deepcopy(config)).eval()
        if not any(buffer.is_meta for buffer in model.buffers()):
            return model
    except RuntimeError as exc:
        if "meta" not in str(exc):
            raise
    # Hybrids (ViTamin, MobileCLIP-B) run their stem of convolutions while they are built, to learn
    # the size of its output, and Swin makes its masks on the device of a norm.
    with parameters_on_meta(convolutions=False):
        return kind(**config).eval()


def build_from_config(
    spec: ModelSpec,
    config: dict[str, Any],
    side: Side,
    checkpoint: Path | None = None,
    normalize: bool = False,
) -> Tower:
    """Build one tower of a model configuration in fp32, ready to run on the CPU.

    Without `checkpoint` its weights are the seeded ones that `spec` names.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit.
        MissingDependencyError: an optional package is needed.
    """
    import torch

    from clipperf.models.towers import ImageTower, TextTower, takes_short_texts

    model = skeleton(config)
    resized: dict[str, tuple[int, int]] = {}
    similarity = None
    if checkpoint is None:
        drop_other(model, side)
        weights.fill_random(model, "", int(spec.pretrained.partition(":")[2]))
    else:
        resized, similarity = assign(model, checkpoint, side, spec.id)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    module: torch.nn.Module
    if side == "image":
        px = config["vision_cfg"]["image_size"]
        height, width = (px, px) if isinstance(px, int) else px
        example = torch.zeros(2, 3, height, width)
        dynamic, module = False, ImageTower(model, normalize)
    else:
        example = torch.zeros(2, spec.context_tokens, dtype=torch.int64)
        example[:, 1:3] = 1
        dynamic = takes_short_texts(model)
        module = TextTower(model, dynamic, normalize)
    return Tower(
        *(spec, side, module.eval(), example, dynamic),
        assumptions=_resizings(resized, config),
        similarity=similarity,
    )


def _resizings(resized: Mapping[str, tuple[int, int]], config: Mapping[str, Any]) -> dict[str, str]:
    """In words, what `assign` did to positions."""
    said = {}
    for name, (before, after) in resized.items():
        if name.startswith("visual."):
            px = config["vision_cfg"]["image_size"]
            # All but the class token's are places of a grid; open_clip resizes square ones alone.
            trained = round(px * ((before - 1) / (after - 1)) ** 0.5)
            said["image size"] = f"positions resized from {trained} to {px} px"
        else:
            said["context length"] = f"positions resized from {before} to {after} tokens"
    return said


TEXT_OF_PLAIN_CLIP = (
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
    "attn_mask",
)
"""Where `open_clip.CLIP`, whose text tower has no module of its own, keeps it."""


def drop_other(model: torch.nn.Module, side: Side) -> None:
    """Remove what only the other tower needs: its tensors are never materialised."""
    dropped = ["logit_scale", "logit_bias", "text_decoder"]
    if side == "text":
        dropped.append("visual")
    else:
        dropped += ["text", *TEXT_OF_PLAIN_CLIP]
    for name in dropped:
        if hasattr(model, name):
            delattr(model, name)


def assign(
    model: torch.nn.Module, path: Path, side: Side, label: str
) -> tuple[dict[str, tuple[int, int]], Similarity | None]:
    """Give one tower of a skeleton the tensors of a checkpoint, without copying fp32 ones.

    Both towers are held to what open_clip's own strict loading asks for, since a file that does
    not fit is one of another model; only the other tower may be absent, as a whole. Returns which
    positions open_clip's rule had to resize, with their number before and after; and what the
    checkpoint says of similarity.

    Raises:
        WeightsError: tensors are missing, left over, or have other shapes; the message names some.
    """
    import torch
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    state = weights.open_state_dict(path)
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    if POSITION_IDS not in model.state_dict():  # transformers computes them since 4.31
        state.pop(POSITION_IDS, None)
    before = {name: tensor.shape for name, tensor in state.items()}
    resize_pos_embed(state, model)
    try:
        resize_text_pos_embed(state, model)
    except AssertionError as exc:
        raise WeightsError(f"{path} does not fit {label}: {exc}") from exc
    similarity = similarity_in(state, model)
    wanted = model.state_dict()
    drop_other(model, side)
    own = model.state_dict()
    check_fit(wanted, own.keys(), state, side, f"{path} does not fit {label}")
    chosen = {name: _as_fp32(state[name], torch) for name in own}
    model.load_state_dict(chosen, strict=True, assign=True)
    resized = {
        name: (before[name][0], state[name].shape[0])
        for name in own
        if before[name] != state[name].shape
    }
    return resized, similarity


def similarity_in(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> Similarity | None:
    """How a checkpoint's model compares images with texts; None where it has no scale.

    Models with a bias, in the file or in the architecture, were trained with a sigmoid.
    """
    scale, bias = (
        float(state[name].reshape(-1)[0]) if name in state else None
        for name in ("logit_scale", "logit_bias")
    )
    biased = bias is not None or getattr(model, "logit_bias", None) is not None
    if scale is None or (biased and bias is None):
        return None
    return Similarity("sigmoid" if biased else "softmax", scale, bias)


POSITION_IDS = "text.transformer.embeddings.position_ids"
SCALARS = {"logit_scale", "logit_bias"}
"""Of both towers, and needed by neither; a checkpoint may hold them as vectors of one number."""
NAMED = 6
"""How many tensors an error names."""


def check_fit(
    wanted: Mapping[str, torch.Tensor],
    own: Collection[str],
    state: Mapping[str, torch.Tensor],
    side: Side,
    said: str,
) -> None:
    """Make sure that a checkpoint's tensors are those of a model; `own` are one tower's.

    Raises:
        WeightsError: they are not; the message begins with what is `said`.
    """
    hint = "Is it a checkpoint of another architecture? (clipperf models lists them)"
    other = [name for name in wanted if name not in own and name not in SCALARS]
    there = [name for name in other if name in state]
    for tower, names in ((f"its {side} tower", own), ("its other tower", other if there else ())):
        missing = [name for name in names if name not in state]
        if missing:
            raise WeightsError(
                f"{said}: {len(missing)} of {len(names)} tensors of {tower} are missing, for "
                f"example {missing[0]}. {hint}"
            )
    unused = [name for name in state if name not in wanted and name not in SCALARS]
    if unused:
        shown = ", ".join(unused[:NAMED]) + (", ..." if len(unused) > NAMED else "")
        if any("lora_" in name for name in unused):
            hint = "Merge the adapter into the weights, and save them again"
        raise WeightsError(
            f"{said}: the architecture has no place for {len(unused)} of its tensors: {shown}. "
            f"{hint}"
        )
    for name in [*own, *there]:
        if state[name].shape != wanted[name].shape:
            raise WeightsError(
                f"{said}: {name} is {tuple(state[name].shape)}, the architecture wants "
                f"{tuple(wanted[name].shape)}"
            )


def _as_fp32(tensor: torch.Tensor, torch: Any) -> torch.Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
