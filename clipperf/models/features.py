"""What an image tower computes before its projection into the space of embeddings.

The CLIP paper probes these features of its ViTs (appendix A.3); its ResNets end with an attention
pool and have no projection, so that there the embeddings are the features. So it is wherever no
projection is known: a linear layer at the end without which the tower is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from clipperf.models.towers import ImageTower

Project = Callable[["torch.Tensor"], "torch.Tensor"]


def both(tower: ImageTower, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [batch, embed_dim] and features [batch, width] of preprocessed images, float32.

    Without a projection the features are the embeddings as they are before they are normalised.
    """
    from torch.nn import functional

    dtype = next(tower.model.parameters()).dtype
    with _without_projection(tower.model) as project:
        features = tower.model.encode_image(pixels.to(dtype), normalize=False)
        embeds = project(features).float()
    return functional.normalize(embeds, dim=-1) if tower.normalize else embeds, features.float()


def has_projection(model: Any) -> bool:
    """Whether an image model ends with a projection that is known."""
    return _parameter(model) is not None or _layer(model) is not None


def _parameter(model: Any) -> Any:
    """The matrix [width, embed_dim] at the end of open_clip's ViTs."""
    import torch

    found = getattr(getattr(model, "visual", None), "proj", None)
    return found if isinstance(found, torch.nn.Parameter) and found.ndim == 2 else None


def _layer(model: Any) -> Any:
    """The linear layer at the end of timm's towers in open_clip."""
    import torch

    found = getattr(getattr(getattr(model, "visual", None), "head", None), "proj", None)
    return found if isinstance(found, torch.nn.Linear) else None


@contextlib.contextmanager
def _without_projection(model: Any) -> Iterator[Project]:
    """The model gives features meanwhile; yields what makes embeddings of them."""
    import torch

    matrix, layer = _parameter(model), _layer(model)
    if matrix is not None:
        model.visual.proj = None
        try:
            yield lambda features: features @ matrix
        finally:
            model.visual.proj = matrix
    elif layer is not None:
        model.visual.head.proj = torch.nn.Identity()
        try:
            yield layer
        finally:
            model.visual.head.proj = layer
    else:
        yield lambda features: features
