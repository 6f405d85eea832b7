"""Inputs without an end: parts of any size, corrupt ones among them, and one tower of a folder."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import ArtifactError, EngineError, UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.serve.bulk import Embedded, encode_each, open_tower

SPEC = PreprocessSpec(4, 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Means:
    """An engine whose two outputs are the mean of an image's first channel, and its negative."""

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.sizes: list[int] = []
        self._lock = threading.Lock()

    def run(self, array: np.ndarray) -> np.ndarray:
        with self._lock:
            self.sizes.append(len(array))
        mean = array[:, 0].mean(axis=(1, 2))
        return np.stack([mean, -mean], axis=1).astype(np.float32)

    def close(self) -> None:
        pass


def image(shade: int) -> np.ndarray:
    return np.full((4, 4, 3), shade, np.uint8)


def embedded(parts: list[list[Any]], engine: Means, workers: int) -> list[Embedded]:
    ways = {"dtype": "float32", "embed_dim": 2}
    return list(encode_each(iter(parts), SPEC, engine, workers, **ways))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streams", [1, 2])
def test_every_part_has_its_rows(streams: int, workers: int) -> None:
    parts = [
        [image(0), image(51), image(102)],
        [b"x", image(153)],
        [],
        [b"y"],
        [b"z", b"z"],
        [image(204), Image.new("I", (4, 4), 999)],
        [Path("absent.png")],
    ]
    engine = Means(streams)
    found = embedded(parts, engine, workers)
    nan = np.nan
    expected = [[0, 0.2, 0.4], [nan, 0.6], [], [nan], [nan, nan], [0.8, 1.0], [nan]]
    for one, means in zip(found, expected, strict=True):
        rows = np.array([[mean, -mean] for mean in means], np.float32).reshape(-1, 2)
        assert np.allclose(one.rows, rows, equal_nan=True, atol=1e-6)
    # Empty parts are no runs.
    assert sorted(engine.sizes) == [1, 2, 3]
    assert [list(one.unreadable) for one in found] == [[], [0], [], [0], [0, 1], [], [0]]
    assert found[1].unreadable[0].startswith("not an image, or a format")
    assert found[6].unreadable == {0: "cannot read the image: No such file or directory"}
    assert [one.clipped for one in found] == [(), (), (), (), (), (1,), ()]


@pytest.mark.parametrize(("workers", "streams", "most"), [(0, 1, 1), (2, 1, 2), (2, 2, 6)])
def test_parts_are_taken_as_they_are_needed(workers: int, streams: int, most: int) -> None:
    taken = 0

    def endless() -> Iterator[list[np.ndarray]]:
        nonlocal taken
        while True:
            taken += 1
            yield [image(5)]

    ways: Any = {"dtype": "float32", "embed_dim": 2}
    found = encode_each(endless(), SPEC, Means(streams), workers, **ways)
    for number, _ in enumerate(found):
        assert taken - number <= most
        if number == 20:
            break
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() < 20


def test_an_engine_that_fails_ends_it() -> None:
    class Failing(Means):
        def run(self, array: np.ndarray) -> np.ndarray:
            raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        embedded([[image(1)], [image(2)]], Failing(), 2)


def test_one_tower_is_opened(sample_artifact: Path) -> None:
    with open_tower(sample_artifact, "text", threads=1) as tower:
        assert (tower.side, tower.batch, tower.embed_dim) == ("text", 32, 192)
        assert (tower.cell.runtime, tower.cell.precision) == ("onnx", "fp32")
        assert tower.artifact.side == "text"
        assert tower.texts(["a", "b"])[0].shape == (2, 192)
    with pytest.raises(UsageError, match="runs on cpu"):
        open_tower(sample_artifact, "image", device="cuda", runtime="onnx")


def test_a_tower_that_is_not_there(sample_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sample_artifact, tmp_path / "images")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["towers"] = [tower for tower in manifest["towers"] if tower["side"] == "image"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"has no text tower; export it too: .* --tower text"):
        open_tower(folder, "text")
