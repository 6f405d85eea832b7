"""When `load` tests what it opened, and what it says of a runtime that computes nonsense."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipperf
from clipperf.engines import contract
from clipperf.engines.onnxruntime import open_session
from clipperf.errors import ArtifactError
from clipperf.export.make import make
from clipperf.models import sample, zoo
from clipperf.nouns.artifact import INPUTS_FILE
from clipperf.nouns.variant import Variant
from clipperf.serve import machine, parity_inputs, selftest
from clipperf.system.store import read_manifest

Spoil = Callable[[np.ndarray], np.ndarray]


class Engine:
    """A real engine whose embeddings are spoiled on the way out; counts what it is given."""

    def __init__(self, engine: Any, spoil: Spoil) -> None:
        self._engine, self._spoil = engine, spoil
        self.given = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, array: np.ndarray) -> np.ndarray:
        self.given += len(array)
        return self._spoil(self._engine.run(array))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spoil], list[Engine]]:
    """`opened(spoil)`: engines are spoiled from now on; the list of those that come."""
    get, onnx = contract.get, contract.get("onnx")

    def use(spoil: Spoil) -> list[Engine]:
        engines: list[Engine] = []

        def open_spoiled(request: Any) -> Any:
            engines.append(Engine(onnx.open(request), spoil))
            return engines[-1]

        monkeypatch.setattr(contract, "get", lambda name: replace(get(name), open=open_spoiled))
        return engines

    return use


@pytest.fixture
def elsewhere(sample_artifact: Path, tmp_path: Path) -> Path:
    """The sample's artifact, as a machine with another processor would have left it."""
    folder = Path(shutil.copytree(sample_artifact, tmp_path / "copy"))
    data = json.loads((folder / "manifest.json").read_text())
    for tower in data["towers"]:
        tower["made_on"]["processor"] += " of another kind"
    (folder / "manifest.json").write_text(json.dumps(data))
    return folder


def as_it_is(found: np.ndarray) -> np.ndarray:
    return found


def test_it_is_tested_where_it_was_not_made(
    sample_artifact: Path, elsewhere: Path, opened: Callable[[Spoil], list[Engine]]
) -> None:
    made = read_manifest(sample_artifact).towers[0].made_on
    assert made == machine.here("onnx") and made["processor"] and made["version"]
    engines = opened(as_it_is)

    def given(folder: Path, **options: Any) -> list[int]:
        engines.clear()
        with clipperf.load(folder, **options) as model:
            assert [engine.given for engine in engines] == [engines[0].given] * 2
            assert model.encode_texts(["a cat"]).shape == (1, model.embed_dim)
            return sorted({engine.given for engine in engines})

    assert given(sample_artifact) == [0, 1]
    assert min(given(elsewhere)) >= 4
    assert given(elsewhere, self_test=False) == [0, 1]
    assert min(given(sample_artifact, self_test=True)) >= 4
    assert min(given(sample_artifact, verify=True)) >= 4
    assert given(sample_artifact, verify=True, self_test=False) == [0, 1]
    # Another version of the runtime is another machine; so is a GPU, always.
    data = json.loads((elsewhere / "manifest.json").read_text())
    for tower in data["towers"]:
        tower["made_on"] = {**made, "version": "1.0"}
    (elsewhere / "manifest.json").write_text(json.dumps(data))
    assert min(given(elsewhere)) >= 4
    assert min(given(sample_artifact, runtime="ort-cuda")) >= 4
    assert given(sample_artifact, runtime="ort-cuda", self_test=False) == [0, 1]


def unlike(found: np.ndarray) -> np.ndarray:
    return found * np.linspace(-1, 1, found.shape[1], dtype=np.float32)


def not_finite(found: np.ndarray) -> np.ndarray:
    return np.where(np.arange(found.shape[1]) == 3, np.float32("nan"), found)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (np.zeros_like, "zeros for all of 4 inputs"),
        (lambda found: np.ones_like(found), "the same embedding for 4 different inputs"),
        (not_finite, "values that are not finite, in embeddings of 4 inputs"),
        (unlike, r"minimum cosine -?0\.\d+ against PyTorch's embeddings of 4 inputs"),
        (lambda found: found[:, :7], r"embeddings of shape \(1, 7\), \[batch, 192\] were"),
        (lambda found: np.concatenate([found, found]), "8 embeddings of 4 inputs"),
        (lambda found: found * 2, r"an embedding of length .* long; 5\.0% more or less is allowed"),
        (lambda found: found * 0.94, r"an embedding of length .* long; 5\.0% more or less"),
    ],
)
def test_nonsense_is_refused_in_words(
    elsewhere: Path, opened: Callable[[Spoil], list[Engine]], spoil: Spoil, said: str
) -> None:
    opened(spoil)
    words = rf"the image tower of .*copy fails its self-test: {said}.*self_test=False"
    with pytest.raises(ArtifactError, match=words):
        clipperf.load(elsewhere)
    clipperf.load(elsewhere, self_test=False).close()


def test_a_tower_that_is_wrong_for_short_texts_alone_is_refused_in_words(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose graph has fixed a length, or masks by it. All but the last batch are cut."""
    get, onnx = contract.get, contract.get("onnx")
    widths: list[int] = []

    class WrongWhenCut(Engine):
        def run(self, array: np.ndarray) -> np.ndarray:
            found: np.ndarray = self._engine.run(array)
            if array.ndim != 2:
                return found
            widths.append(array.shape[1])
            return found if array.shape[1] == 77 else found[:, ::-1]

    def opened(request: Any) -> Any:
        return WrongWhenCut(onnx.open(request), as_it_is)

    monkeypatch.setattr(contract, "get", lambda name: replace(get(name), open=opened))
    with pytest.raises(ArtifactError, match=r"the text tower of .* fails its self-test: minimum c"):
        clipperf.load(elsewhere)
    assert widths[-1] == 77 and widths[:-1] and all(3 <= width < 77 for width in widths[:-1])


def test_unit_vectors_are_held_to_their_length(
    sample_artifact: Path, tmp_path: Path, opened: Callable[[Spoil], list[Engine]]
) -> None:
    spec = zoo.resolve("clipperf-sample")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        made = make(spec, ("text",), Variant("onnx", normalized=True), out=tmp_path / "unit")
    clipperf.load(made.folder, self_test=True).close()
    opened(lambda found: found * np.float32(1.03))
    said = r"an embedding of length 1\.03, where PyTorch's is 1 long; 2\.0% more or less"
    with pytest.raises(ArtifactError, match=said):
        clipperf.load(made.folder, self_test=True)


def test_a_folder_carries_what_it_was_judged_on(
    sample_artifact: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another clipperf may bundle another sample, or none."""
    monkeypatch.setattr(sample, "folder", lambda: Path("nowhere"))
    clipperf.load(sample_artifact, self_test=True).close()
    with zipfile.ZipFile(sample_artifact / INPUTS_FILE) as archive:
        listed = json.loads(archive.read("inputs.json"))
        assert len(listed) == parity_inputs.COUNT
        names = {entry["image"] for entry in listed}
        assert set(archive.namelist()) == {"inputs.json", *names, *sample.NOTICES}
    monkeypatch.undo()
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        texts = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
    assert {entry["text"] for entry in listed} <= {f"a drawing of {e['caption']}" for e in texts}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
"""Pillow starts another program for such a file."""


def huge() -> bytes:
    made = io.BytesIO()
    Image.new("1", (2000, 2000)).save(made, "PNG")
    return made.getvalue()


DAMAGES = {
    "cut": "holds no inputs",
    "no list": "holds no inputs",
    "fewer": "3 of 12 inputs",
    "no image": "holds no inputs",
    "EPS": "holds no inputs",
    "huge": "2000 x 2000 pixels",
    "packed": "inputs.json is packed",
    "LZMA, damaged": "holds no inputs",
    "missing": "carries no inputs to test itself with.*self_test=False",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_inputs_that_are_damaged_are_told(elsewhere: Path, damage: str) -> None:
    path = elsewhere / INPUTS_FILE
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    listed = json.loads(contents["inputs.json"])
    images = {"no image": b"no picture", "EPS": EPS, "huge": huge()}
    lists = {"no list": b"3", "fewer": json.dumps(listed[:3]).encode()}
    packing = {"packed": zipfile.ZIP_DEFLATED, "LZMA, damaged": zipfile.ZIP_LZMA}
    contents[listed[0]["image"]] = images.get(damage, contents[listed[0]["image"]])
    contents["inputs.json"] = lists.get(damage, contents["inputs.json"])
    with zipfile.ZipFile(path, "w", packing.get(damage, zipfile.ZIP_STORED)) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "LZMA, damaged":
        data = bytearray(path.read_bytes())
        data[200:260] = bytes(60)
        path.write_bytes(data)
    elif damage == "missing":
        path.unlink()
    with pytest.raises(ArtifactError, match=DAMAGES[damage]):
        clipperf.load(elsewhere)


def test_features_are_compared_where_they_are_given(
    sample_artifact: Path, tmp_path: Path, opened: Callable[[Spoil], list[Engine]]
) -> None:
    """GPU runtimes open such a folder for its embeddings."""
    spec = zoo.resolve("clipperf-sample")
    folder = make(spec, ("image",), Variant("onnx", features=True), out=tmp_path / "both").folder
    clipperf.load(folder, self_test=True).close()

    class Alone(Engine):
        def __getattr__(self, name: str) -> Any:
            if name == "run_features":
                raise AttributeError(name)
            return super().__getattr__(name)

    manifest = read_manifest(folder)
    with closing(open_session(folder / manifest.towers[0].path, 1)) as engine:
        selftest.check(Alone(engine, as_it_is), folder, manifest.towers[0])
        with pytest.raises(ArtifactError, match="the same embedding for 4 different inputs"):
            selftest.check(Alone(engine, np.ones_like), folder, manifest.towers[0])


def test_what_is_known_of_a_tower_is_said_with_its_failure(
    elsewhere: Path, opened: Callable[[Spoil], list[Engine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(np.zeros_like)
    get = contract.get
    said = "its sums can saturate"
    monkeypatch.setattr(contract, "get", lambda name: replace(get(name), warning=lambda t: said))
    with pytest.raises(ArtifactError, match=rf"fails its self-test.*What is known: .*{said}"):
        clipperf.load(elsewhere)


def test_who_writes_the_inputs_writes_the_same(tmp_path: Path, sample_artifact: Path) -> None:
    parity_inputs.write_inputs(tmp_path)
    assert (tmp_path / INPUTS_FILE).read_bytes() == (sample_artifact / INPUTS_FILE).read_bytes()
