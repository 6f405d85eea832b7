"""An exported model in use: images and strings in, embeddings out, without torch.

Needs numpy, pillow, tokenizers, msgspec and the artifact's runtime (and ftfy for texts beyond
plain ASCII, cykooz-resizer for the fast ways to preprocess).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.decode import ImageInput
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.artifact import CutAt
from clipperf.nouns.cell import Engine
from clipperf.nouns.model import Similarity
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serve import arrays
from clipperf.serve.features import Wide
from clipperf.serve.forks import leave
from clipperf.serve.images import OnError
from clipperf.serve.images import encode as embed_images
from clipperf.serve.similarity import probabilities
from clipperf.serve.streams import run_all, spread
from clipperf.serve.texts import embed as embed_tokens
from clipperf.serve.texts import encode as embed_texts
from clipperf.serve.towers import DEFAULT_BATCH
from clipperf.system.processes import trim_heap
from clipperf.text import quoted


class ClipModel:
    """A CLIP whose towers run in some runtime. Make one with `clipperf.load`.

    `encode_images` and `encode_texts` return float32 [n, embed_dim]: the raw embeddings, or unit
    vectors where the model was exported with ``--normalize`` or `normalize` is passed; so do
    `encode_pixels` and `encode_tokens` of what was prepared elsewhere.
    `batch_size` is by default the tuned one, else 32.
    `pixels` says how images are preprocessed, None without an image tower.
    `logit_scale` and `logit_bias` are as checkpoints hold them, None where a model has none, as
    those with random weights: similarity is exp(logit_scale) times a cosine, plus the bias. What
    follows on it, softmax or sigmoid, `probabilities` knows.

    A model of `clipperf.load` pickles, as its path and its options: whoever unpickles it, such as
    a process that multiprocessing has spawned, opens the same towers, or gets an ArtifactError.
    """

    def __init__(
        self,
        engines: dict[Side, Engine],
        pixels: PreprocessSpec | None,
        tokenizer: Tokenizer | None,
        *,
        embed_dim: int,
        cut: CutAt | None,
        random_weights: bool = False,
        batches: Mapping[Side, int] | None = None,
        pixel_dtype: PixelDtype = "float32",
        first_token: int | None = None,
        similarity: Similarity | None = None,
        features: int | None = None,
        open_again: Callable[[], dict[Side, Engine]] | None = None,
        pickled_as: tuple[Callable[..., ClipModel], tuple[Any, ...]] | None = None,
        described: str = "of engines",
    ) -> None:
        self._engines = engines
        self._open_again = open_again
        self._pickled_as = pickled_as
        self._described = described
        self._forked = False
        self._lock = threading.Lock()
        self._batches = dict(batches or {})
        self._tokenizer = tokenizer
        self._cut = cut
        self._closed = False
        self._pixel_dtype = pixel_dtype
        self._first_token = first_token
        self._similarity = similarity
        self._features = features
        self.pixels = pixels
        self.embed_dim = embed_dim
        self.random_weights = random_weights

    def encode_images(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int | None = None,
        normalize: bool = False,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> np.ndarray:
        """Decode, preprocess and embed images.

        Each is a path, a PIL image, what is in an image file (`bytes`, or a binary file that is
        read from where it stands to its end), or pixels: a uint8 array [height, width, 3] in RGB.
        `workers` threads prepare the next batch while the engine runs the current one, by default
        one for each core of this process; 0 does all of it in the calling thread. `on_error` says
        what becomes of images that cannot be read: "raise"; "mark" their rows as NaN, and name
        them in one `UnreadableWarning`, whose `reasons` are by place; or a function that is called
        with the place and the error instead, such as `failed.__setitem__` of a dict.

        Raises:
            UsageError: an image cannot be read, `images` is not a list, `batch_size` is below 1,
                or `workers` below 0.
            ArtifactError: the artifact has no image tower.
        """
        images = arrays.listed(images, "encode_images takes a list of images: put it in brackets")
        found = self._encoded(images, batch_size, workers, on_error, features=False)
        return arrays.finished(found, self.embed_dim, normalize)

    def encode_features(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of images, and features: what the tower computes before its projection.

        Float32 [n, embed_dim] and [n, width], both as they come; see `encode_images`. Where no
        projection is known, the features are the embeddings.

        Raises:
            UsageError: the image tower was exported without ``--features``; and as there.
            UnsupportedError: the runtime gives embeddings alone.
        """
        if self._features is None:
            raise UsageError("exported without its features: clipperf export MODEL --features")
        images = arrays.listed(images, "encode_features takes a list of images")
        rows = self._encoded(images, batch_size, workers, on_error, features=True)
        embeddings = arrays.finished(rows[:, : self.embed_dim], self.embed_dim, False)
        return embeddings, rows[:, self.embed_dim :].copy()

    def _encoded(
        self,
        images: Sequence[ImageInput],
        batch_size: int | None,
        workers: int | None,
        on_error: OnError,
        features: bool,
    ) -> np.ndarray:
        """Rows of embeddings, with features behind where they are wanted."""
        engine, batch_size = self._engine("image", batch_size)
        engine, width = (Wide(engine), self._features or 0) if features else (engine, 0)
        batch_size = spread(engine, len(images), batch_size)
        assert self.pixels is not None
        return embed_images(
            *(images, self.pixels, engine, batch_size, workers),
            dtype=self._pixel_dtype,
            embed_dim=self.embed_dim + width,
            on_error=on_error,
        )

    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int | None = None, normalize: bool = False
    ) -> np.ndarray:
        """Tokenise and embed strings; longer ones than the context are cut as open_clip does.

        Of a text of any length CLIP's own tokenizer reads as much as the context holds. The others
        (of a kind "hf" or "clips") read all of it, as the last words may count there, too: they
        refuse texts of more than 1,048,576 characters, or 16,384 with HTML entities in them. So
        does CLIP's own for a text without spaces to cut it at.

        Equal texts are embedded once. Where the tower allows it, which is exact, texts of like
        length share batches that are cut at their longest (see `serve.texts`).

        Raises:
            UsageError: `texts` is not a list of strings, or `batch_size` is below 1.
            ArtifactError: the artifact has no text tower.
        """
        texts = arrays.listed(texts, "encode_texts takes a list of strings: put it in brackets")
        engine, batch_size = self._engine("text", batch_size)
        assert self._tokenizer is not None
        found = None
        if texts:
            found = embed_texts(texts, self._tokenizer, engine, batch_size, cut=self._cut)
        return arrays.finished(found, self.embed_dim, normalize)

    def encode_pixels(
        self, pixels: np.ndarray, *, batch_size: int | None = None, normalize: bool = False
    ) -> np.ndarray:
        """Embed images that are pixels of the model's size already.

        `pixels` is [n, 3, height, width] in RGB: uint8, the bytes of images, which are normalised
        here or by the tower; or float32, normalised as `pixels.mean` and `pixels.std` of the model
        say, which a tower that takes bytes refuses. `inputs.preprocess` makes both.

        Raises:
            UsageError: the array has another shape or type, or values that are none of such pixels.
            ArtifactError: the artifact has no image tower.
        """
        engine, batch_size = self._engine("image", batch_size)
        assert self.pixels is not None
        pixels = arrays.checked_pixels(pixels, self.pixels, self._pixel_dtype)
        batch_size = spread(engine, len(pixels), batch_size)
        ready = (
            arrays.as_taken(pixels[start : start + batch_size], self.pixels, self._pixel_dtype)
            for start in range(0, len(pixels), batch_size)
        )
        parts = run_all(engine, ready)
        return arrays.finished(np.concatenate(parts) if parts else None, self.embed_dim, normalize)

    def encode_tokens(
        self, tokens: np.ndarray, *, batch_size: int | None = None, normalize: bool = False
    ) -> np.ndarray:
        """Embed texts that are token ids already: whole numbers [n, tokens], as int64.

        Rows are as the model's tokenizer makes them: with its first and last tokens, and padded to
        the context length. Where texts are cut, which `encode_texts` does too, they may be shorter.

        Raises:
            UsageError: the array has another shape or type, ids that the tokenizer has not, or
                rows that begin with another token than the tower takes them to.
            ArtifactError: the artifact has no text tower.
        """
        engine, batch_size = self._engine("text", batch_size)
        assert self._tokenizer is not None
        tokens = arrays.checked_tokens(
            tokens, self._tokenizer, shorter=self._cut is not None, first_token=self._first_token
        )
        found = None
        if len(tokens):
            found = embed_tokens(tokens, self._tokenizer, engine, batch_size, cut=self._cut)
        return arrays.finished(found, self.embed_dim, normalize)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What makes token ids of texts, None without a text tower."""
        return self._tokenizer

    @property
    def pixel_dtype(self) -> PixelDtype:
        """What the image tower takes."""
        return self._pixel_dtype

    @property
    def logit_scale(self) -> float | None:
        """The natural logarithm of what cosines are multiplied by, as in checkpoints."""
        return None if self._similarity is None else self._similarity.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """What is added to the products; SigLIP's models have one."""
        return None if self._similarity is None else self._similarity.logit_bias

    def probabilities(self, image_embeds: np.ndarray, text_embeds: np.ndarray) -> np.ndarray:
        """How well each text fits each image: float32 [images, texts] from 0 to 1.

        Embeddings [images, embed_dim] and [texts, embed_dim] may be of any length. In CLIP's
        models an image's add up to 1 over the texts (softmax); SigLIP's take each pair by itself
        (sigmoid).

        Raises:
            UsageError: the embeddings have other shapes, or the model has no `logit_scale`.
        """
        return probabilities(self._similarity, image_embeds, text_embeds, self.embed_dim)

    def __reduce__(self) -> tuple[Callable[..., ClipModel], tuple[Any, ...]]:
        """See the class: what opens it again."""
        if self._closed or self._pickled_as is None:
            state = "is closed" if self._closed else "was not opened by clipperf.load"
            raise UsageError(f"this model {state}, so it cannot be pickled")
        return self._pickled_as

    def _engine(self, side: Side, batch_size: int | None) -> tuple[Engine, int]:
        """A tower's engine, and the number of inputs that it is to be given at once."""
        if self._closed:
            raise UsageError("this model is closed; open the artifact again with clipperf.load")
        self._open_after_fork()
        if batch_size is None:
            batch_size = self._batches.get(side, DEFAULT_BATCH)
        if batch_size < 1:
            raise UsageError(f"batch_size is {quoted(batch_size)}, it must be 1 or more")
        if side not in self._engines:
            raise ArtifactError(
                f"this artifact has no {side} tower; export it too: "
                f"clipperf export MODEL --tower {side}"
            )
        return self._engines[side], batch_size

    def forked(self) -> None:
        """Called in a forked process: its engines' threads are the parent's, so it needs others."""
        leave(self._engines.values())
        self._engines, self._lock = {}, threading.Lock()
        self._forked = not self._closed

    def _open_after_fork(self) -> None:
        with self._lock:
            if self._forked and self._open_again is not None:
                self._engines = self._open_again()
                self._forked = False

    def close(self) -> None:
        """Free both towers, and give the memory back that they leave to the process."""
        for engine in self._engines.values():
            engine.close()
        self._engines = {}
        self._closed = True
        trim_heap()

    def __repr__(self) -> str:
        return f"<ClipModel {self._described}{' (closed)' if self._closed else ''}>"

    def __enter__(self) -> ClipModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
