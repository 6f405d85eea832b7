"""Adapter: optimum-onnx, the graph of both towers that its exporter writes, or one a tower.

The graph of both wants pictures and texts at every call: the side that is not asked for gets the
least it takes, one text of two tokens or one picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch")


def open(setup: Setup) -> dict[str, Action]:
    """`options`: "graph" is the exported folder, "both" whether it holds both towers, "padding"
    is that of the tokenizer ("max_length" or "longest"), "file" the graph's name.
    """
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForZeroShotImageClassification
    from transformers import AutoProcessor

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = setup.threads
    both = setup.options["both"]
    kind = ORTModelForZeroShotImageClassification if both else ORTModelForCustomTasks
    graph = setup.options["graph"] if both else f"{setup.options['graph']}/{setup.side}"
    model = kind.from_pretrained(
        graph, file_name=setup.options["file"], session_options=session_options
    )
    processor = AutoProcessor.from_pretrained(setup.folder / "transformers", use_fast=True)
    pad = np.array([[processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id]])
    no_text = {"input_ids": pad, "attention_mask": np.ones_like(pad)} if both else {}
    size = processor.image_processor.crop_size
    blank = np.zeros((1, 3, size["height"], size["width"]), np.float32)
    no_image = {"pixel_values": blank} if both else {}

    def run(output: str, given: dict[str, Any]) -> np.ndarray:
        return np.asarray(model(**given)[output])

    def image(inputs: Inputs) -> np.ndarray:
        return run("image_embeds", {"pixel_values": inputs.pixels, **no_text})

    def jpeg(inputs: Inputs) -> np.ndarray:
        from PIL import Image

        pictures = [Image.open(path) for path in inputs.jpegs]
        found = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return run("image_embeds", {"pixel_values": found.numpy(), **no_text})

    def tokenise(inputs: Inputs) -> list[dict[str, np.ndarray]]:
        return [
            dict(
                processor.tokenizer(
                    part, padding=setup.options["padding"], truncation=True, return_tensors="np"
                )
            )
            for part in chunks(inputs.texts, inputs.batch)
        ]

    def text(inputs: Inputs) -> np.ndarray:
        wanted = list(model.input_names)
        return np.concatenate(
            [
                run("text_embeds", {**{k: v for k, v in t.items() if k in wanted}, **no_image})
                for t in tokenise(inputs)
            ]
        )

    if setup.side == "image":
        return {"image": image, "jpeg": jpeg}
    return {"text": text, "tokenise": tokenise}
