"""`clipperf.load` while the artifact is replaced: the old one or the new one, never both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import clipperf
from clipperf.errors import ArtifactError
from clipperf.serve import held, parts
from clipperf.serve.model import ClipModel
from clipperf.system import files

LOADS = 25
IMAGES = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
TEXTS = ["a red apple", "a house by the sea"]

EXCHANGE = """
import os, shutil, sys
from itertools import cycle
from pathlib import Path
from clipperf.system import files
target, *sources = map(Path, sys.argv[1:])
print("exchanging", flush=True)
for source in cycle(sources):
    with files.staged(target) as staging:
        shutil.copytree(source, staging, copy_function=os.link, dirs_exist_ok=True)
"""


def with_other_weights(artifact: Path, target: Path) -> Path:
    """A copy whose embeddings point the other way: a sound artifact of other weights."""
    import onnx
    from onnx import numpy_helper

    shutil.copytree(artifact, target)
    manifest = json.loads((target / "manifest.json").read_text())
    for tower in manifest["towers"]:
        path = target / tower["path"]
        model = onnx.load(path)
        rows = model.graph.initializer
        last = next(t for t in reversed(rows) if len(t.dims) == 2 and 192 in t.dims)
        last.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last), last.name))
        onnx.save(model, path)
        tower["disk_bytes"] = path.stat().st_size
        tower["files"] = {tower["path"]: files.sha256_file(path)}
        tower["key"] = "another"
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@pytest.fixture(scope="module")
def pair(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    shutil.copytree(sample_artifact, root / "a")
    return root / "a", with_other_weights(sample_artifact, root / "b")


@pytest.fixture
def exchanged(pair: tuple[Path, Path], tmp_path: Path) -> Iterator[Path]:
    """A folder that is one of the pair and then the other, without a pause."""
    target = tmp_path / "served"
    shutil.copytree(pair[0], target, copy_function=os.link)
    process = subprocess.Popen(
        [sys.executable, "-c", EXCHANGE, target, *pair], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield target
    assert process.poll() is None, "the exchange ended by itself"
    process.kill()
    process.communicate()


def embedded(model: ClipModel) -> tuple[np.ndarray, np.ndarray]:
    return model.encode_images(IMAGES), model.encode_texts(TEXTS)


def test_both_towers_are_of_one_artifact(pair: tuple[Path, Path], exchanged: Path) -> None:
    wanted = []
    for folder in pair:
        with clipperf.load(folder, threads=1) as model:
            wanted.append(embedded(model))
    assert not any(np.allclose(one, other) for one, other in zip(*wanted, strict=True))
    seen = []
    for _ in range(LOADS):
        with clipperf.load(exchanged, threads=1) as model:
            found = embedded(model)
        fits = [
            [np.allclose(part, right, atol=1e-4) for part, right in zip(found, one, strict=True)]
            for one in wanted
        ]
        assert [True, True] in fits, fits
        seen.append(fits.index([True, True]))
    assert set(seen) == {0, 1}, "it was never replaced"


def test_what_opens_by_names_is_opened_again_where_the_folder_changed(tmp_path: Path) -> None:
    folder, other = tmp_path / "served", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        (path / "manifest.json").write_text("{}")
    closed: list[int] = []
    tries: list[int] = []

    def attempt() -> tuple[int, bool]:
        tries.append(len(tries))
        if len(tries) < 3:  # there and back again, so that the same folder stands there
            for _ in range(2):
                assert files._renameat2_exchange(folder, other)
        if len(tries) == 2:
            raise ArtifactError("a file has gone")
        return tries[-1], False

    assert held.steadily(attempt, lambda: held.stamp(folder), closed.append) == 2
    assert closed == [0]
    with pytest.raises(ArtifactError, match="damaged for good"):
        held.steadily(lambda: _fail(), lambda: held.stamp(folder), closed.append)


def _fail() -> tuple[int, bool]:
    raise ArtifactError("damaged for good")


def test_errors_name_the_folder_and_not_the_handle(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(pair[0], folder)
    (folder / "image" / "model.onnx").write_bytes(
        b"\0" * (pair[0] / "image/model.onnx").stat().st_size
    )
    with pytest.raises(Exception, match=f"{folder}/image/model.onnx"):
        clipperf.load(folder, threads=1)


@pytest.mark.parametrize("handles", [True, False])
def test_without_handles_a_folder_is_opened_again_where_it_changed(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: bool
) -> None:
    """As on other systems than Linux: what was opened while it changed may be of both."""
    target, other = tmp_path / "served", tmp_path / "other"
    shutil.copytree(pair[0], target)
    shutil.copytree(pair[1], other)
    if not handles:
        monkeypatch.setattr(held, "HANDLES", tmp_path / "no such folder")
    opened: list[int] = []
    usual = parts.open_engines

    def exchanging(wanted: object) -> object:
        engines = usual(wanted)  # type: ignore[arg-type]
        if not opened:
            assert files._renameat2_exchange(target, other)
        opened.append(len(engines))
        return engines

    monkeypatch.setattr(parts, "open_engines", exchanging)
    with clipperf.load(target, threads=1) as model:
        found = embedded(model)
    assert opened == ([2] if handles else [2, 2])
    with clipperf.load(pair[0 if handles else 1], threads=1) as model:
        wanted = embedded(model)
    for part, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(part, right, atol=1e-4)
