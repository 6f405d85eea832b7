"""Adapter: open_clip as its README shows it, both towers in the process."""

from __future__ import annotations

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("open_clip_torch", "torch", "pillow")


def open(setup: Setup) -> dict[str, Action]:
    """`create_model_and_transforms`, then `encode_image` and `encode_text`."""
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(setup.threads)
    name = setup.options["model"]
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(setup.folder / "open_clip.safetensors")
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)

    def image(inputs: Inputs) -> np.ndarray:
        with torch.no_grad():
            return model.encode_image(torch.from_numpy(inputs.pixels)).numpy()  # type: ignore[no-any-return]

    def jpeg(inputs: Inputs) -> np.ndarray:
        pixels = torch.stack([preprocess(Image.open(path)) for path in inputs.jpegs])
        with torch.no_grad():
            return model.encode_image(pixels).numpy()  # type: ignore[no-any-return]

    def tokenise(inputs: Inputs) -> list[torch.Tensor]:
        return [tokenizer(part) for part in chunks(inputs.texts, inputs.batch)]

    def text(inputs: Inputs) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model.encode_text(part) for part in tokenise(inputs)]).numpy()  # type: ignore[no-any-return]

    if setup.side == "image":
        return {"image": image, "jpeg": jpeg}
    return {"text": text, "tokenise": tokenise}
