"""Branches that are there for training alone, joined into the one convolution that they amount to.

MobileCLIP's image towers, RepViT and others are trained with parallel convolutions, whose sum is
one convolution (Ding et al. 2021, https://arxiv.org/abs/2101.03697). Their makers deploy the
latter; each part of timm's knows how it is joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WAYS = ("fuse", "reparameterize", "switch_to_deploy")
"""What timm's parts call it."""


def fuse_branches(module: torch.nn.Module) -> int:
    """Join the branches of an fp32 module, in place; return how many convolutions are gone.

    Outputs are the same up to rounding. Once: some parts cannot be joined again.
    """
    if not any(callable(getattr(part, way, None)) for part in module.modules() for way in WAYS):
        return 0
    import torch
    from timm.utils.model import reparameterize_model

    before = _convolutions(module)
    with torch.no_grad():
        reparameterize_model(module, inplace=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return before - _convolutions(module)


def _convolutions(module: torch.nn.Module) -> int:
    import torch

    return sum(isinstance(part, torch.nn.Conv2d) for part in module.modules())
