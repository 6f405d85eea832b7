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


PLACES = (("visual", "proj"), ("visual", "head", "proj"), ("model", "visual_projection"))
"""Where image models keep their projection: open_clip's ViTs, timm's towers in open_clip, and
transformers' models."""


def has_projection(model: Any) -> bool:
    """Whether an image model ends with a projection that is known."""
    return _found(model) is not None


def _found(model: Any) -> tuple[Any, str, Any] | None:
    """The module that holds the projection, under which name, and the projection itself.

    It is a matrix [width, embed_dim] or a linear layer.
    """
    import torch

    for *path, name in PLACES:
        owner = model
        for each in path:
            owner = getattr(owner, each, None)
        found = getattr(owner, name, None)
        if isinstance(found, torch.nn.Linear):
            return owner, name, found
        if isinstance(found, torch.nn.Parameter) and found.ndim == 2:
            return owner, name, found
    return None


@contextlib.contextmanager
def _without_projection(model: Any) -> Iterator[Project]:
    """The model gives features meanwhile; yields what makes embeddings of them."""
    import torch

    found = _found(model)
    if found is None:
        yield lambda features: features
        return
    owner, name, projection = found
    is_layer = isinstance(projection, torch.nn.Linear)
    setattr(owner, name, torch.nn.Identity() if is_layer else None)
    try:
        yield projection if is_layer else lambda features: features @ projection
    finally:
        setattr(owner, name, projection)
