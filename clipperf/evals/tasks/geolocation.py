"""Geolocation: an image was taken where the reference image that is most alike was.

(Hays and Efros 2008, "IM2GPS"; appendix H of the CLIP paper, with a million references.) Images
have their places in the columns ``latitude`` and ``longitude`` of their table, in degrees.
"""

from __future__ import annotations

import math

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Located, figures_of, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import TIE
from clipperf.evals.task import Embeddings, Task
from clipperf.text import quoted

EARTH_KM = 6371.0
"""The mean radius of the earth."""

LIMITS = {"latitude": 90, "longitude": 180}

PLACES = (
    "the columns latitude and longitude in a table with the images; a TOML may rename them "
    '(latitude = "COLUMN", longitude = "COLUMN")'
)

_QUERIES, _REFERENCES = 256, 8192
"""A tile of scores: 16 MiB, beside 32 MiB of references in float64 at 512 values each."""


def coordinates(dataset: Dataset) -> np.ndarray:
    """Latitude and longitude of every image, float64 [n, 2] in degrees.

    Raises:
        UsageError: an image has none, or there are no such places; the message names the image.
    """
    found = np.empty((len(dataset.images), 2))
    for column, (name, limit) in enumerate(LIMITS.items()):
        if name not in dataset.columns:
            raise UsageError(f"{dataset.name} has no column {name}: it needs {PLACES}")
        for row, (image, said) in enumerate(
            zip(dataset.images, dataset.columns[name], strict=True)
        ):
            try:
                value = float(said)
            except ValueError:
                value = math.nan
            if not abs(value) <= limit:
                raise UsageError(
                    f"{dataset.name}: {quoted(image.name)} has the {name} {quoted(said)}: give "
                    f"degrees from -{limit} to {limit}"
                )
            found[row, column] = value
    return found


def distances_km(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Great-circle distances of pairs of places [n, 2] in degrees, by the haversine formula."""
    (a, b), (c, d) = np.radians(here).T, np.radians(there).T
    inner = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    km: np.ndarray = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(inner, 0, 1)))
    return km


def nearest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """The reference most alike to each query, both unit vectors: int64 [queries].

    Of equal ones the first. Tile by tile, so that memory does not grow with their number.
    """
    best, index = np.full(len(queries), -np.inf), np.zeros(len(queries), np.int64)
    for left in range(0, len(references), _REFERENCES):
        part = references[left : left + _REFERENCES].astype(np.float64).T
        for top in range(0, len(queries), _QUERIES):
            rows = slice(top, top + _QUERIES)
            scores = queries[rows].astype(np.float64) @ part
            most = scores.max(axis=1)
            first = (scores >= most[:, None] - TIE).argmax(axis=1)
            better = most > best[rows] + TIE
            index[rows] = np.where(better, left + first, index[rows])
            best[rows] = np.where(better, most, best[rows])
    return index


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    own, known = coordinates(dataset), coordinates(dataset.parts["reference"])
    guessed = known[nearest(found.images, found.parts["reference"])]
    return measured(Located("geolocation", "image", distances_km(own, guessed)))


def _check(dataset: Dataset) -> None:
    coordinates(dataset)
    coordinates(dataset.parts["reference"])


TASK = Task(
    name="geolocation",
    fits=lambda dataset: LIMITS.keys() <= dataset.columns.keys(),
    texts=lambda dataset: {},
    outcomes=_outcomes,
    parts=("reference",),
    asked=True,
    check=_check,
    figures=lambda dataset: figures_of("geolocation", "geolocation", 0),
    needs=PLACES,
)
