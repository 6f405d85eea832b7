"""Models that a running server serves, reached over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from clipperf.nouns.variant import Side

REMOTE = "remote"
"""The device of cells that a server runs: nobody here can say which it is."""

Takes = Literal["image files", "texts", "pixels", "tokens"]
"""What a served model is given: encoded images, strings, or arrays that are prepared already."""


@dataclass(frozen=True)
class Endpoint:
    """One model of a server, as the server describes it; plain values, without any credentials.

    `url` is what comes before the protocol's own paths, `model` what the server calls it, `server`
    the server's name and version. `input`, `datatype` and `shape` (batch first, -1 for any size)
    are those of what it takes, in the protocol's words, and `also` further inputs, each filled with
    ones. `output` is the tensor with the vectors, `width` how many numbers one has where that is
    known. `encoding` says how tensors travel, such as "binary" or "json". `max_batch` is the most
    inputs of a request, None where the server does not say. `least_cosine` is the lowest between
    some vectors of it and those of the model's artifact in the store, None where they were not
    compared.
    """

    url: str
    protocol: str
    model: str
    takes: Takes
    side: Side
    input: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    output: str = ""
    width: int | None = None
    encoding: str = "json"
    server: str = ""
    max_batch: int | None = None
    least_cosine: float | None = None

    @property
    def host(self) -> str:
        """Its URL without how it is spoken to: no scheme and no port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or ''}{parts.path}"

    @property
    def label(self) -> str:
        """What it is called in a sentence."""
        return f"{self.model} at {self.url}" if self.model else self.url
