"""Batch norm folded into the convolution before it, in fp32, before a tower is made narrower.

In evaluation a batch norm is ``y = scale * x + shift`` per channel (Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167, algorithm 2), which a convolution before it takes into its own
weight and bias. After a cast its statistics, of many orders of magnitude, would be rounded first;
and TensorRT has no bf16 kernel for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fold_batch_norms(module: torch.nn.Module, example: torch.Tensor) -> int:
    """Remove the batch norms of an fp32 module, in place; return how many were folded.

    The module is run once on `example`. A batch norm goes into the convolution whose output it
    reads, where both are called once and nothing else reads that output; any other becomes a 1x1
    convolution of each channel by itself. What timm keeps inside (its activation) stays. Outputs
    are the same up to rounding.
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return 0
    before = _convolutions_before(module, example)
    instead: dict[torch.nn.Module, torch.nn.Module] = {}
    for norm in norms:
        scale, shift = _scale_and_shift(norm)
        if norm in before:
            _absorb(before[norm], scale, shift)
            instead[norm] = torch.nn.Sequential(*norm.children())
        else:
            instead[norm] = torch.nn.Sequential(_pointwise(scale, shift), *norm.children())
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if part in instead:
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, instead[part])
    return len(before)


@dataclass
class _Output:
    """The output of one call of a convolution, and how many operations have read it."""

    convolution: torch.nn.Conv2d
    norm: torch.nn.BatchNorm2d | None = None
    uses: int = 0


def _convolutions_before(
    module: torch.nn.Module, example: torch.Tensor
) -> dict[torch.nn.BatchNorm2d, torch.nn.Conv2d]:
    """Batch norms and the convolutions that work for them alone."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakTensorKeyDictionary

    outputs: Any = WeakTensorKeyDictionary()
    seen: list[_Output] = []
    calls: Counter[torch.nn.Module] = Counter()

    def after_convolution(convolution: Any, given: Any, output: torch.Tensor) -> None:
        calls[convolution] += 1
        outputs[output] = _Output(convolution)
        seen.append(outputs[output])

    def before_norm(norm: Any, given: Any) -> None:
        calls[norm] += 1
        if given[0] in outputs:
            outputs[given[0]].norm = norm

    class CountUses(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(result)):
                for leaf in tree_leaves((args, kwargs)):  # not for its shape alone, then
                    if isinstance(leaf, torch.Tensor) and leaf in outputs:
                        outputs[leaf].uses += 1
            return result

    hooks = []
    for part in module.modules():
        if type(part) is torch.nn.Conv2d:  # others may change their weight at every call
            hooks.append(part.register_forward_hook(after_convolution))
        elif isinstance(part, torch.nn.BatchNorm2d):
            hooks.append(part.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad(), CountUses():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        output.norm: output.convolution
        for output in seen
        if output.norm is not None
        and output.uses == calls[output.norm] == calls[output.convolution] == 1
    }


def _scale_and_shift(norm: torch.nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch norm multiplies each channel by, and adds, in fp64: [channels] each."""

    mean: Any = norm.running_mean
    variance: Any = norm.running_var
    scale = (variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale.detach(), shift.detach()


def _absorb(convolution: torch.nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    import torch

    weight = convolution.weight.double() * scale[:, None, None, None]
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    convolution.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    convolution.bias = torch.nn.Parameter(shift.float(), requires_grad=False)


def _pointwise(scale: torch.Tensor, shift: torch.Tensor) -> torch.nn.Conv2d:
    import torch

    channels = len(scale)
    convolution = torch.nn.Conv2d(channels, channels, 1, groups=channels, device="meta")
    convolution.weight = torch.nn.Parameter(scale.float()[:, None, None, None], False)
    convolution.bias = torch.nn.Parameter(shift.float(), False)
    return convolution
