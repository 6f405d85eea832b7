"""What OpenVINO compiled is kept, taken again bit for bit, and never when it does not belong."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import leftovers, snapshot

from clipperf.errors import EngineError, StorageError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest

pytest.importorskip("openvino", reason="needs the extra openvino")

import openvino

from clipperf.engines import openvino as engines
from clipperf.engines import openvino_cache
from clipperf.engines.openvino_shapes import SHAPES

SPEC = zoo.resolve("clipperf-sample")
TOKENS = np.array([[49406, 320, 1125, 49407]])


@pytest.fixture(scope="module")
def model(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's text tower as an IR."""
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    openvino.save_model(openvino.convert_model(sample_artifact / "text" / "model.onnx"), path)
    return path


@pytest.fixture
def request_(model: Path, tmp_path: Path) -> Iterator[EngineRequest]:
    copy = Path(shutil.copytree(model.parent, tmp_path / "artifact")) / model.name
    cell = Cell(SPEC.id, "text", "openvino", "fp32", "cpu", 1, 1)
    yield EngineRequest(cell, SPEC, str(copy), False, "key", str(tmp_path / "cache"))


def opened(request: EngineRequest) -> tuple[bool, np.ndarray]:
    """Whether a tower came from the cache, and what it gives."""
    engine = engines.open(request)
    found = engine._compiled.get_property("LOADED_FROM_CACHE")
    return found, engine.run(TOKENS)


def folder_of(request: EngineRequest) -> Path:
    folder = openvino_cache.cache_folder(request, SHAPES)
    assert folder is not None
    return folder


def test_the_second_load_takes_what_the_first_kept(request_: EngineRequest) -> None:
    plain = engines.open(dataclasses.replace(request_, cache_folder=None)).run(TOKENS)
    first, embedded = opened(request_)
    kept = snapshot(folder_of(request_))
    second, again = opened(request_)
    assert (first, second) == (False, True)
    np.testing.assert_array_equal(embedded, plain)
    np.testing.assert_array_equal(again, plain)
    assert snapshot(folder_of(request_)) == kept
    assert not leftovers(folder_of(request_).parent)
    # The weights stay in the artifact alone.
    weights = Path(str(request_.path)).with_suffix(".bin").stat().st_size
    assert sum(len(content) for _, content in kept.values()) < weights / 10


def test_other_weights_threads_and_places_have_folders_of_their_own(
    request_: EngineRequest, tmp_path: Path
) -> None:
    folders = [folder_of(request_)]
    folders.append(folder_of(dataclasses.replace(request_, key="another checkpoint")))
    cell = dataclasses.replace(request_.cell, threads=2)
    folders.append(folder_of(dataclasses.replace(request_, cell=cell)))
    elsewhere = shutil.copytree(Path(str(request_.path)).parent, tmp_path / "b") / "model.xml"
    folders.append(folder_of(dataclasses.replace(request_, path=str(elsewhere))))
    assert len(set(folders)) == 4
    assert openvino_cache.cache_folder(dataclasses.replace(request_, key=""), SHAPES) is None


def test_weights_that_change_under_the_same_name_are_seen(request_: EngineRequest) -> None:
    _, before = opened(request_)
    weights = Path(str(request_.path)).with_suffix(".bin")
    values = np.fromfile(weights, np.uint8)
    last = values[-(10**5) :].view(np.float32)
    last *= 2
    values.tofile(weights)
    from_cache, after = opened(request_)
    assert not from_cache
    assert not (before == after).all()
    plain = engines.open(dataclasses.replace(request_, cache_folder=None)).run(TOKENS)
    np.testing.assert_array_equal(after, plain)


@pytest.mark.parametrize("damage", ["cut", "flip", "no checksums", "empty"])
def test_damage_is_noticed_and_mended(request_: EngineRequest, damage: str) -> None:
    _, expected = opened(request_)
    folder = folder_of(request_)
    blob = next(path for path in folder.iterdir() if path.suffix == ".blob")
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "no checksums":
        (folder / openvino_cache.CHECKSUMS).unlink()
    else:
        cut = {"cut": len(content) // 2, "empty": 0}.get(damage)
        blob.write_bytes(content[:cut])
    from_cache, found = opened(request_)
    assert not from_cache
    np.testing.assert_array_equal(found, expected)
    assert opened(request_)[0]


def test_without_a_place_to_keep_it_a_tower_opens_as_well(
    request_: EngineRequest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    from_cache, found = opened(dataclasses.replace(request_, cache_folder=str(tmp_path / "file")))
    assert not from_cache
    np.testing.assert_array_equal(found, opened(request_)[1])


def test_an_interrupted_load_leaves_nothing_to_load(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino_cache, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engines.open(request_)
    assert not folder_of(request_).exists()
    assert not leftovers(folder_of(request_).parent)


def test_a_file_that_vanishes_while_it_is_looked_at_is_missed_by_opening_alone(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(str(request_.path)).with_suffix(".bin").unlink()
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # a moment ago it was
    assert openvino_cache.cache_folder(request_, SHAPES) is not None
    with pytest.raises(EngineError):
        engines.open(request_)


def test_what_cannot_be_kept_is_compiled_once(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    usual = engines.open_compiled

    def counted(*arguments: object, **options: object) -> engines.OpenVinoEngine:
        compiled.append(arguments)
        return usual(*arguments, **options)  # type: ignore[arg-type]

    def full(*arguments: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(engines, "open_compiled", counted)
    monkeypatch.setattr(openvino_cache, "write_json", full)
    _, found = opened(request_)
    assert len(compiled) == 1 and np.isfinite(found).all()
