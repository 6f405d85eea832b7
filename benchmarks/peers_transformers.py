"""Adapter: Hugging Face transformers' CLIPModel, its attention by PyTorch's SDPA, both towers."""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("transformers", "torch")


def open(setup: Setup) -> dict[str, Action]:
    """`options["dtype"]` is "fp32" or "bf16"; texts are padded to a batch's longest."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    torch.set_num_threads(setup.threads)
    folder = setup.folder / "transformers"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setup.options["dtype"]]
    model = CLIPModel.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype).eval()

    def plain(found: Any) -> np.ndarray:
        # A tensor up to transformers 4, a record around it since.
        tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
        result: np.ndarray = tensor.float().numpy()
        return result

    def run(pixels: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return plain(model.get_image_features(pixel_values=pixels.to(dtype)))

    if setup.side == "image":
        process = CLIPImageProcessor.from_pretrained(folder)

        def image(inputs: Inputs) -> np.ndarray:
            return run(torch.from_numpy(inputs.pixels))

        def jpeg(inputs: Inputs) -> np.ndarray:
            pictures: list[Image.Image] = [Image.open(path) for path in inputs.jpegs]
            return run(process(pictures, return_tensors="pt")["pixel_values"])

        return {"image": image, "jpeg": jpeg}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenise(inputs: Inputs) -> list[Any]:
        return [
            tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            for part in chunks(inputs.texts, inputs.batch)
        ]

    def text(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([plain(model.get_text_features(**t)) for t in tokenise(inputs)])

    return {"text": text, "tokenise": tokenise}
