"""What Triton hands over: one call for all of it, and an answer of its own for each request."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_nvml import in_this_process, installer
from PIL import Image

import clipperf
from clipperf.engines import contract
from clipperf.errors import ArtifactError, EngineError, UsageError
from clipperf.serve.triton import TritonPythonModel, embedded
from clipperf.system import gpus


@pytest.fixture(scope="module")
def model(sample_artifact: Path) -> Any:
    with clipperf.load(sample_artifact) as found:
        yield found


@pytest.fixture
def calls(model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the model embedded."""
    seen: list[int] = []
    encode = model.encode_texts
    monkeypatch.setattr(model, "encode_texts", lambda x: (seen.append(len(x)), encode(x))[1])
    return seen


def test_all_requests_are_one_call(model, calls: list[int]) -> None:
    found = embedded(model, "text", [[b"a cat"], [b"a dog", "東京".encode()], []])
    assert calls == [3]
    expected = model.encode_texts(["a cat", "a dog", "東京"])
    assert np.array_equal(found[0], expected[:1])
    assert np.array_equal(found[1], expected[1:])
    assert found[2].shape == (0, 192)


def test_who_is_at_fault_is_told_and_the_others_are_served(model, calls: list[int]) -> None:
    found = embedded(model, "text", [[b"a cat"], [b"\xff"], [b"a" * (1 << 21)], [b"a dog"]])
    assert calls == [3, 1, 1, 1]
    assert [type(each) for each in found] == [np.ndarray, UsageError, UsageError, np.ndarray]
    assert "no UTF-8" in str(found[1])
    assert "too long" in str(found[2])
    np.testing.assert_allclose(found[0], model.encode_texts(["a cat"]), atol=1e-4)


@pytest.mark.filterwarnings("ignore::clipperf.errors.UnreadableWarning")
def test_images_that_cannot_be_read_are_named(model, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    red = (tmp_path / "red.png").read_bytes()
    found = embedded(model, "image", [[red], [red, b"nonsense"], [red]])
    assert isinstance(found[1], UsageError)
    assert "image 1 (bytes): not an image" in str(found[1])
    expected = model.encode_images([tmp_path / "red.png"])
    for each in (found[0], found[2]):
        np.testing.assert_allclose(each, expected, atol=1e-4)


def test_what_is_not_finite_is_no_answer() -> None:
    found = np.array([[1, 2], [np.nan, 1], [3, 4]], np.float32)
    words = ["a", "b", "c"]

    def encode(texts: list[str]) -> np.ndarray:
        rows = found[[words.index(text) for text in texts]]
        if not np.isfinite(rows).all():
            raise EngineError("values that are not finite")  # as a loaded model does
        return rows

    fake = SimpleNamespace(encode_texts=encode)
    answers = embedded(fake, "text", [[b"a"], [b"b"], [b"c"]])
    assert np.array_equal(answers[0], found[:1]) and np.array_equal(answers[2], found[2:])
    assert isinstance(answers[1], EngineError) and "not finite" in str(answers[1])


def test_a_failure_of_any_kind_is_the_requests_own() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if "huge" in texts:
            raise MemoryError("no 4 GB")
        return np.ones((len(texts), 2), np.float32)

    fake = SimpleNamespace(encode_texts=encode)
    good, bad = embedded(fake, "text", [[b"a"], [b"huge"]])
    assert np.array_equal(good, np.ones((1, 2)))
    assert isinstance(bad, EngineError) and str(bad) == "MemoryError: no 4 GB"


def test_a_model_takes_threads_and_streams_from_its_configuration(
    sample_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").symlink_to(sample_artifact)
    given: dict[str, Any] = {}
    opened = SimpleNamespace(close=lambda: given.update(closed=True))

    def load(folder: Path, **options: Any) -> Any:
        given.update(options, folder=folder)
        return opened

    monkeypatch.setattr("clipperf.serve.load.load", load)
    parameters = {"threads": {"string_value": "2"}, "other": {"string_value": "x"}}
    args = {
        "model_config": json.dumps({"parameters": parameters}),
        "model_repository": str(tmp_path),
    }
    served = TritonPythonModel()
    served.initialize(args)
    served.finalize()
    assert given == {"threads": 2, "verify": True, "folder": tmp_path / "text", "closed": True}


@pytest.mark.parametrize(
    ("kind", "number", "shown", "expected"),
    [
        ("GPU", "0", None, "GPU-early-1"),
        ("GPU", "1", None, "GPU-late-1"),
        ("GPU", "0", "GPU-late-1,GPU-early-1", "GPU-late-1"),
        ("GPU", "1", "GPU-late-1,GPU-early-1", "GPU-early-1"),
        ("CPU", "0", None, None),
    ],
)
def test_each_instance_has_the_gpu_that_triton_gave_it(
    kind: str,
    number: str,
    shown: str | None,
    expected: str | None,
    sample_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All is real but the driver that counts GPUs, and that the tower computes on none."""
    for name in (gpus.VISIBLE, gpus.ORDER, gpus.PINNED):
        monkeypatch.setenv(name, "")  # whatever is set here is undone after the test
        monkeypatch.delenv(name)
    if shown is not None:
        monkeypatch.setenv(gpus.VISIBLE, shown)
    cards = [("GPU-late-1", 9), ("GPU-early-1", 2)]
    script = [{"uuid": uuid, "title": uuid, "bus": bus} for uuid, bus in cards]
    in_this_process(installer(tmp_path, monkeypatch)(gpus=script), monkeypatch)
    get = contract.get
    devices = ("cuda",) if kind == "GPU" else ("cpu",)
    monkeypatch.setattr(
        contract, "get", lambda name: dataclasses.replace(get(name), devices=devices)
    )
    (tmp_path / "text").symlink_to(sample_artifact)
    served = TritonPythonModel()
    served.initialize(
        {
            "model_config": "{}",
            "model_repository": str(tmp_path),
            "model_instance_kind": kind,
            "model_instance_device_id": number,
        }
    )
    (found,) = embedded(served.model, "text", [[b"a cat"]])
    served.finalize()
    assert found.shape == (1, 192)
    assert os.environ.get(gpus.VISIBLE) == expected
    assert os.environ.get(gpus.ORDER) == (None if expected is None else gpus.BY_BUS)


def test_a_folder_without_a_tower_is_named(tmp_path: Path) -> None:
    args = {"model_config": "{}", "model_repository": str(tmp_path)}
    with pytest.raises(ArtifactError, match=r"neither image nor text.*--layout triton"):
        TritonPythonModel().initialize(args)


def test_only_input_that_is_wrong_is_the_callers_fault(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's own module is there in its processes alone: this one keeps what it is told."""

    class TritonError:
        INVALID_ARG, INTERNAL = 3, 1

        def __init__(self, message: str, code: int) -> None:
            self.message, self.code = message, code

    module = SimpleNamespace(
        TritonError=TritonError,
        Tensor=lambda name, array: (name, array),
        InferenceResponse=lambda tensors, error=None: (tensors, error),
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    served = TritonPythonModel()
    served.side, served.model = "text", model
    requests = [np.array([[b"a cat"]]), np.array([[b"\xff"]])]
    (tensors, none), (empty, wrong) = served.execute(requests)
    assert (tensors[0][0], none, empty) == ("text_embeds", None, [])
    assert (wrong.code, "no UTF-8" in wrong.message) == (TritonError.INVALID_ARG, True)

    def fails(texts: list[str]) -> np.ndarray:
        raise EngineError("the runtime fell over")

    monkeypatch.setattr(model, "encode_texts", fails)
    ((_, error),) = served.execute(requests[:1])
    assert (error.code, error.message) == (TritonError.INTERNAL, "the runtime fell over")
