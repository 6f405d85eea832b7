"""Adapter: optimum-intel, that is OpenVINO, with a quantised graph a tower.

What int8 leaves is computed in the type that OpenVINO takes for its own choice: bf16 where the
processor multiplies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("optimum-intel", "optimum", "openvino", "nncf", "transformers", "torch")


def open(setup: Setup) -> dict[str, Action]:
    """`options["graph"]` is the folder that holds one exported folder a tower."""
    from optimum.intel import OVModelForCustomTasks
    from transformers import AutoTokenizer, CLIPImageProcessor

    model = OVModelForCustomTasks.from_pretrained(
        f"{setup.options['graph']}/{setup.side}",
        ov_config={"INFERENCE_NUM_THREADS": str(setup.threads)},
    )
    folder = setup.folder / "transformers"

    def run(**given: Any) -> np.ndarray:
        return np.asarray(model(**given)[f"{setup.side}_embeds"])

    if setup.side == "image":
        process = CLIPImageProcessor.from_pretrained(folder)

        def image(inputs: Inputs) -> np.ndarray:
            return run(pixel_values=inputs.pixels)

        def jpeg(inputs: Inputs) -> np.ndarray:
            from PIL import Image

            pictures: list[Image.Image] = [Image.open(path) for path in inputs.jpegs]
            found = process(pictures, return_tensors="pt")["pixel_values"]
            return run(pixel_values=found.numpy())

        return {"image": image, "jpeg": jpeg}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenise(inputs: Inputs) -> list[dict[str, np.ndarray]]:
        return [
            dict(tokenizer(part, padding=True, truncation=True, return_tensors="np"))
            for part in chunks(inputs.texts, inputs.batch)
        ]

    def text(inputs: Inputs) -> np.ndarray:
        return np.concatenate([run(**tokens) for tokens in tokenise(inputs)])

    return {"text": text, "tokenise": tokenise}
