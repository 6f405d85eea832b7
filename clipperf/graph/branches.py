"""Parallel branches of a convolutional net fused to the one convolution that they amount to.

RepVGG (Ding et al. 2021, https://arxiv.org/abs/2101.03697), MobileOne, FastViT and with it
MobileCLIP are trained with several convolutions, batch norms and a shortcut side by side. Their
sum is one convolution, which is how their makers mean them to be run. timm's modules know how.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

METHODS = ("fuse", "reparameterize", "switch_to_deploy")
"""What timm's modules call it: the first returns what to use instead, the others change the module,
as in timm's ``reparameterize_model``."""

TOLERANCE = 1e-3
"""How far fused embeddings may be from the others, as a share of their length: rounding stays
below 1e-5, a branch that was fused wrongly comes to 1e-1."""


def fuse_branches(module: torch.nn.Module, example: torch.Tensor) -> int:
    """Fuse what can be fused in an fp32 module, in place; return how many parts were.

    Sums are made in fp64. A part that cannot be fused stays; where the fused module gives other
    embeddings of noise shaped as `example`, all do.
    """
    import torch

    found = list(_parts(module))
    if not found:
        return 0
    if example.is_floating_point():
        example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    replaced = []
    with torch.no_grad():
        before = module(example)
        for parent, name, part in found:
            fused = _fused(part)
            if fused is not None:
                setattr(parent, name, fused)
                replaced.append((parent, name, part))
        after = module(example) if replaced else before
    if not float((after - before).norm() / before.norm()) <= TOLERANCE:
        for parent, name, part in replaced:
            setattr(parent, name, part)
        return 0
    return len(replaced)


def _parts(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """The outermost parts that offer to be fused, with where they are; whole networks are looked
    into, so that no more than a part is ever there twice."""
    for name, child in module.named_children():
        network = hasattr(child, "forward_features")
        if not network and any(callable(getattr(child, method, None)) for method in METHODS):
            yield module, name, child
        else:
            yield from _parts(child)


def _fused(part: Any) -> torch.nn.Module | None:
    """A fused copy of a part; None where there is nothing in it to fuse, or no way."""
    wide = copy.deepcopy(part).double()
    names = [name for name, _ in wide.named_parameters()]
    method = next(method for method in METHODS if callable(getattr(wide, method, None)))
    try:
        result = getattr(wide, method)()
    except Exception:  # noqa: BLE001 - then the part, which runs, stays as it is
        return None
    fused: Any = result if method == "fuse" else wide
    if [name for name, _ in fused.named_parameters()] == names:
        return None
    fused = fused.float().eval()
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused  # type: ignore[no-any-return]
