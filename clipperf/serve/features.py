"""Features of images: what a tower computes before its projection, beside the embeddings."""

from __future__ import annotations

import numpy as np

from clipperf.errors import UnsupportedError
from clipperf.nouns.cell import Engine


def features_of(engine: Engine, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [batch, embed_dim] and features [batch, width] of a batch.

    Raises:
        UnsupportedError: the runtime gives embeddings alone.
    """
    run = getattr(engine, "run_features", None)
    if run is None:
        raise UnsupportedError("this runtime gives embeddings alone: take onnx or openvino")
    embeds, features = run(array)
    return embeds, features


class Wide:
    """An engine whose rows are embeddings with their features behind: [batch, embed_dim + width].

    So both go the way of embeddings: through threads, streams and what is kept of them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.streams: int = getattr(engine, "streams", 1)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embeddings and features of a batch."""
        return np.concatenate(features_of(self._engine, array), axis=1)

    def close(self) -> None:
        """The engine is its owner's to close."""
