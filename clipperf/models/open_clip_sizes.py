"""open_clip's models at other sizes than their architecture's: images, and texts."""

from __future__ import annotations

import copy
from typing import Any

from clipperf.errors import UsageError
from clipperf.models.open_clip_facts import config_facts
from clipperf.nouns.model import ModelSpec, Sizes, resized


def sized(config: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """A model configuration at a model's sizes."""
    facts, found = config_facts(config), copy.deepcopy(config)
    if facts["image_px"] != spec.image_px:
        found["vision_cfg"]["image_size"] = spec.image_px
    if facts["context_tokens"] != spec.context_tokens:
        found["text_cfg"]["context_length"] = spec.context_tokens
    return found


def at_sizes(config: dict[str, Any], spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """A model at other sizes; what open_clip's rules cannot do is refused.

    Raises:
        UsageError: it cannot be; the message says why.
    """
    found = resized(spec, sizes)
    vision, text, px = config["vision_cfg"], config["text_cfg"], found.image_px
    if px != spec.image_px and "timm_model_name" not in vision:
        # A ResNet halves an image five times; its positions are those of the attention at its end.
        pooled = isinstance(vision.get("layers"), list)
        step = 32 if pooled else vision.get("patch_size", 16)
        if isinstance(step, int) and px % step:
            raise UsageError(
                f"--image-size {px}: {spec.architecture} sees squares of {step} px; give a "
                f"multiple, such as {max(step, px // step * step)}"
            )
        if pooled and not spec.random_weights:
            raise UsageError(
                f"--image-size {px}: open_clip has no rule for the positions of {spec.id}, a "
                f"ResNet, at other sizes than {spec.image_px} px"
            )
    if found.context_tokens != spec.context_tokens and text.get("embed_cls"):
        raise UsageError(
            f"--context-length {found.context_tokens}: the positions of {spec.id} end in that of a "
            f"class token, which open_clip's rule would mix with those of words"
        )
    return found
