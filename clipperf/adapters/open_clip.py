"""An exported model as one of open_clip: what takes its models takes this one.

CLIP_benchmark's evaluations do, and whatever else asks a model for no more than `encode_image` and
`encode_text` of torch's tensors, an image for pixels by a `transform`, and texts for token ids by a
tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.errors import ArtifactError, MissingDependencyError
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.variant import PixelDtype
from clipperf.serve.load import load
from clipperf.serve.model import ClipModel
from clipperf.system import extras

if TYPE_CHECKING:
    import torch
    from PIL import Image


class OpenClipLike:
    """A model with the methods of open_clip's; it embeds where its engines are, and stays there.

    Both take batches on any device, and give float32 [n, embed_dim] on the same one. `to`, `eval`
    and `requires_grad_` change nothing: an exported tower has no modes.
    """

    def __init__(self, model: ClipModel) -> None:
        self.model = model

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed what `transform` made of images: [n, 3, height, width]."""
        pixels = image.detach().cpu()
        pixels = pixels if pixels.dtype == _torch().uint8 else pixels.float()
        return _like(self.model.encode_pixels(pixels.numpy(), normalize=normalize), image)

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed what the tokenizer made of texts: [n, tokens]."""
        tokens = text.detach().cpu().numpy()
        return _like(self.model.encode_tokens(tokens, normalize=normalize), text)

    def eval(self) -> OpenClipLike:
        """Itself."""
        return self

    def to(self, *where: Any, **options: Any) -> OpenClipLike:
        """Itself: the device is chosen when the model is opened."""
        return self

    def requires_grad_(self, requires_grad: bool = False) -> OpenClipLike:
        """Itself."""
        return self


class Transform:
    """An image to the pixels that a model takes: a tensor [3, height, width]. It pickles."""

    def __init__(self, spec: PreprocessSpec, dtype: PixelDtype) -> None:
        self._spec = spec
        self._dtype = dtype

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Preprocess as `ClipModel.encode_images` does."""
        out = np.empty((1, *self._spec.shape), self._dtype)
        return _torch().from_numpy(preprocess([image], self._spec, out)[0])


class TokenizerLike:
    """Texts to token ids: a tensor int64 [n, context_length]. It pickles."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.context_length = tokenizer.context_tokens

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Any:
        """Tokenise as `ClipModel.encode_texts` does."""
        return _torch().from_numpy(self._tokenizer(texts, context_length))


def as_open_clip(
    folder: str | Path | ClipModel, **options: Any
) -> tuple[OpenClipLike, Transform, TokenizerLike]:
    """A model, its transform and its tokenizer, as open_clip gives them.

    `folder` and `options` are those of `clipperf.load`, or a model that it has opened.

    Raises:
        ArtifactError: a tower is missing; and whatever `clipperf.load` raises.
        MissingDependencyError: torch is not installed.
    """
    _torch()
    model = folder if isinstance(folder, ClipModel) else load(folder, **options)
    if model.pixels is None or model.tokenizer is None:
        missing = "image" if model.pixels is None else "text"
        raise ArtifactError(
            f"this artifact has no {missing} tower, and evaluations need both; export it too: "
            f"clipperf export MODEL --tower {missing}"
        )
    transform = Transform(model.pixels, model.pixel_dtype)
    return OpenClipLike(model), transform, TokenizerLike(model.tokenizer)


def _like(found: np.ndarray, given: torch.Tensor) -> torch.Tensor:
    """Embeddings where the inputs came from."""
    return _torch().from_numpy(found).to(given.device)


def _torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise MissingDependencyError(
            f"open_clip's models take torch's tensors: {extras.bring('torch')}"
        ) from exc
    return torch
