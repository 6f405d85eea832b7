"""Branches that are there for training alone, joined into the one convolution that they amount to.

MobileCLIP's image towers, RepViT and others are trained with parallel convolutions, whose sum is
one convolution (Ding et al. 2021, https://arxiv.org/abs/2101.03697). Their makers deploy the
latter; each part of timm's knows how it is joined.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WAYS = ("fuse", "reparameterize", "switch_to_deploy")
"""What timm's parts call it: the first returns what to use instead, the others change the part, as
in timm's ``reparameterize_model``."""

TOLERANCE = 1e-3
"""How far outputs may be from those of the branches, as a share of their length: rounding stays
below 1e-5, a branch that was joined wrongly comes to a tenth and more."""


def fuse_branches(module: torch.nn.Module, example: torch.Tensor) -> int:
    """Join the branches of an fp32 module, in place; return in how many of its parts.

    Sums are made in fp64. A part that cannot be joined stays as it is; where the outputs for noise
    in the shape of `example` come out different, all do.
    """
    parts = list(_parts(module))
    if not parts:
        return 0
    import torch

    if example.is_floating_point():  # zeros would not tell
        example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    replaced = []
    with torch.no_grad():
        expected = module(example)
        for parent, name, part in parts:
            joined = _joined(part)
            if joined is not None:
                setattr(parent, name, joined)
                replaced.append((parent, name, part))
        found = module(example) if replaced else expected
    if not float((found - expected).norm()) <= TOLERANCE * float(expected.norm()):
        for parent, name, part in replaced:
            setattr(parent, name, part)
        return 0
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return len(replaced)


def _parts(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """The outermost parts that can be joined, and where they are.

    Whole networks are looked into, so that no more than a part is ever there twice.
    """
    for name, child in module.named_children():
        network = hasattr(child, "forward_features")
        if not network and any(callable(getattr(child, way, None)) for way in WAYS):
            yield module, name, child
        else:
            yield from _parts(child)


def _joined(part: Any) -> torch.nn.Module | None:
    """A copy of a part with its branches joined; None where it has none, or refuses."""
    wide = copy.deepcopy(part).double()
    names = [name for name, _ in wide.named_parameters()]
    way = next(way for way in WAYS if callable(getattr(wide, way, None)))
    try:
        result = getattr(wide, way)()
    except Exception:  # noqa: BLE001 - then the part, which runs, stays as it is
        return None
    joined: Any = result if way == "fuse" else wide
    if [name for name, _ in joined.named_parameters()] == names:
        return None
    return joined.float().eval()  # type: ignore[no-any-return]
