"""Towers of open_clip models, built one at a time without ever holding both in RAM.

The whole model is laid out on the meta device (no storage), the checkpoint is memory-mapped and
adapted by open_clip's own conversions, and only the tensors of the wanted tower are assigned.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import MissingDependencyError, WeightsError
from clipperf.models import weights
from clipperf.models.open_clip_fit import check_fit, instead
from clipperf.nouns.model import ModelSpec, Similarity, Tower
from clipperf.nouns.variant import Side
from clipperf.system import extras

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
        WeightsError: its configuration cannot be fetched from the hub, or is none of open_clip's.
    """
    import warnings

    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(config)
    hub_text = config["text_cfg"].get("hf_model_name")
    text = config["text_cfg"]  # the last two are of open_clip 4
    modern = text.get("text_arch") == "modern" or text.get("variable_text", False)
    custom = config.pop("custom_text", False) or bool(hub_text) or modern
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
                f"its text tower {hub_text} needs transformers: {extras.bring('transformers')}"
            ) from exc
        raise _no_model(exc) from exc
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as exc:
        raise _no_model(exc) from exc
    except OSError as exc:
        raise WeightsError(
            f"the configuration of its text tower {hub_text} cannot be fetched from the hub: "
            f"{str(exc).splitlines()[0]}. Copy the hub's cache from a machine with network"
        ) from exc


def _no_model(exc: Exception) -> WeightsError:
    said = (str(exc).strip().splitlines() or [""])[0]
    import open_clip

    return WeightsError(
        f"open_clip {open_clip.__version__} makes no model of this configuration: "
        f"{type(exc).__name__}: {said}"
    )


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
    from clipperf.models.towers import finished

    model = skeleton(config)
    resized: dict[str, tuple[int, int]] = {}
    similarity = None
    if checkpoint is None:
        drop_other(model, side)
        weights.fill_random(model, "", int(spec.pretrained.partition(":")[2]))
    else:
        resized, similarity = assign(model, checkpoint, side, spec.id)
    px = image_size(config, spec)
    said = _resizings(resized, px)
    if side == "image":
        said |= _set_input_size(model, config, spec)
    else:
        _check_length(model, spec)
    size = (px, px) if isinstance(px, int) else px
    tower = finished(model, spec, side, size, normalize, said)
    return replace(tower, similarity=similarity)


def _check_length(model: torch.nn.Module, spec: ModelSpec) -> None:
    """Make sure that a text tower of transformers' has a position for each token."""
    config = getattr(getattr(model, "text", None), "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and spec.context_tokens > most:
        raise WeightsError(
            f"{spec.id} takes no texts of {spec.context_tokens} tokens: it has {most} positions"
        )


def _set_input_size(
    model: torch.nn.Module, config: Mapping[str, Any], spec: ModelSpec
) -> dict[str, str]:
    """Bring a timm tower to the configuration's image size, by timm's own rule; what it did.

    Raises:
        WeightsError: timm cannot.
    """
    visual: Any = model.visual
    embed = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    before, px = getattr(embed, "img_size", None), image_size(config, spec)
    wanted = (px, px) if isinstance(px, int) else tuple(px)
    if before is None or tuple(before) == wanted:
        return {}
    try:
        visual.set_input_size(wanted)
    except (AssertionError, RuntimeError, ValueError, TypeError) as exc:
        raise WeightsError(f"{spec.id} takes no images of {px} px: {exc}") from exc
    step = getattr(embed, "patch_size", (1, 1))
    if any(side % part for side, part in zip(wanted, step, strict=True)):
        raise WeightsError(
            f"{spec.id} takes no images of {px} px: it sees squares of {step[0]} px; give a "
            f"multiple"
        )
    return {"image size": f"positions resized from {before[0]} to {wanted[0]} px"}


def image_size(config: Mapping[str, Any], spec: ModelSpec) -> Any:
    """Pixels of an image's sides: a number, or height and width; open_clip's default is 224."""
    return config["vision_cfg"].get("image_size", spec.image_px)


def _resizings(resized: Mapping[str, tuple[int, int]], px: Any) -> dict[str, str]:
    """In words, what `assign` did to positions."""
    said = {}
    for name, (before, after) in resized.items():
        if name.startswith("visual.") and isinstance(px, int):
            # All but the class token's are places of a grid; open_clip resizes square ones alone.
            trained = round(px * ((before - 1) / (after - 1)) ** 0.5)
            said["image size"] = f"positions resized from {trained} to {px} px"
        elif name.startswith("visual."):
            said["image size"] = f"positions resized from {before - 1} to {after - 1} places"
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
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = weights.open_state_dict(path)
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    similarity = similarity_in(state, model)
    wanted = model.state_dict()
    # Tables and masks that the model computes; programs of other versions store some of them.
    for name in {name for name, _ in model.named_buffers()} - wanted.keys():
        state.pop(name, None)
    said = f"{path} does not fit {label}"
    before = {name: tensor.shape for name, tensor in state.items()}
    _resize_positions(model, state, said)
    drop_other(model, side)
    own = model.state_dict()
    check_fit(wanted, own.keys(), state, side, said)
    chosen = {name: weights.as_fp32(state[name]) for name in own}
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


def _resize_positions(model: torch.nn.Module, state: dict[str, torch.Tensor], said: str) -> None:
    """Bring positions to the model's number of them, by open_clip's rules.

    Raises:
        WeightsError: they are of another model; the message begins with what is `said`.
    """
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    wanted = model.state_dict()
    for name in POSITIONS & state.keys() & wanted.keys():
        found, width = state[name], wanted[name].shape[-1]
        if found.dim() != 2 or found.shape[-1] != width:
            part = "images" if name.startswith("visual.") else "texts"
            raise WeightsError(
                f"{said}: {name} is {tuple(found.shape)}, and the architecture's {part} are "
                f"{width} wide. {instead(state, ())}"
            )
        state[name] = weights.as_fp32(found)  # not every rule is there for half precision
    try:
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    except (AssertionError, RuntimeError) as exc:
        places = state["visual.positional_embedding"].shape[0] - 1
        raise WeightsError(
            f"{said}: its image positions are no square grid ({places} places), which open_clip "
            f"has no rule to resize"
        ) from exc


POSITIONS = {"visual.positional_embedding", "positional_embedding", "text.positional_embedding"}
"""Learned ones, which open_clip resizes."""
