"""Adapter: an artifact folder of clipperf's, opened by `clipperf.load`, one tower a process."""

from __future__ import annotations

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("numpy", "tokenizers", "pillow")


def open(setup: Setup) -> dict[str, Action]:
    """`options`: "graph" is the folder that holds one artifact folder a tower, "load" what
    `clipperf.load` is given besides.
    """
    import clipperf
    from clipperf.inputs.tokenize import Tokenizer
    from clipperf.serve.streams import run_all, spread

    folder = f"{setup.options['graph']}/{setup.side}"
    model = clipperf.load(folder, threads=setup.threads, **setup.options.get("load", {}))

    def image(inputs: Inputs) -> np.ndarray:
        # `encode_images` takes pictures; the candidates are compared on the same pixels here.
        engine, _ = model._engine("image", inputs.batch)
        size = spread(engine, len(inputs.pixels), inputs.batch)
        return np.concatenate(run_all(engine, chunks(inputs.pixels, size)))

    def jpeg(inputs: Inputs) -> np.ndarray:
        return model.encode_images(inputs.jpegs, batch_size=inputs.batch)

    def text(inputs: Inputs) -> np.ndarray:
        return model.encode_texts(inputs.texts, batch_size=inputs.batch)

    if setup.side == "image":
        return {"image": image, "jpeg": jpeg}
    tokenizer = Tokenizer.from_folder(folder)

    def tokenise(inputs: Inputs) -> list[np.ndarray]:
        return [tokenizer(part) for part in chunks(inputs.texts, inputs.batch)]

    return {"text": text, "tokenise": tokenise}
