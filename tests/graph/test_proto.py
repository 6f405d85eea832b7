"""Weights beside a graph, in files that have several names: onnx's own loaders refuse those."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import helper, numpy_helper

import clipperf
from clipperf.errors import ArtifactError
from clipperf.graph import others, proto, widen
from clipperf.system.store import read_manifest

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def written(folder: Path, values: np.ndarray = VALUES) -> Path:
    """A product with a matrix beside it, whose file has two names."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    given = helper.make_tensor_value_info("pixels", kind, ["batch", 3])
    result = helper.make_tensor_value_info("embeds", kind, ["batch", 4])
    node = helper.make_node("MatMul", ["pixels", "matrix"], ["embeds"])
    weights = [numpy_helper.from_array(values, "matrix")]
    graph = helper.make_graph([node], "product", [given], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    os.link(folder / "model.onnx.data", folder / "another name")
    with pytest.raises(Exception, match="multiple hard links"):
        onnx.load(path)
    return path


def matrix(model: onnx.ModelProto) -> np.ndarray:
    (tensor,) = model.graph.initializer
    return numpy_helper.to_array(tensor)


def test_they_are_read_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    np.testing.assert_array_equal(matrix(proto.load(path)), VALUES)
    model = onnx.load(path, load_external_data=False)
    (tensor,) = model.graph.initializer
    np.testing.assert_array_equal(proto.values(tensor, tmp_path), VALUES)
    assert proto.files_beside(model) == {"model.onnx.data"}
    assert not proto.files_beside(proto.load(path))


def test_they_are_widened(tmp_path: Path) -> None:
    path = written(tmp_path, VALUES.astype(ml_dtypes.bfloat16))
    widen.widen(path, tmp_path / "wide.onnx")
    found = matrix(onnx.load(tmp_path / "wide.onnx"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize("apart", [False, True])
def test_others_read_what_is_written_for_them(
    tmp_path: Path, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    if apart:
        monkeypatch.setattr(others, "MOST_BYTES", 0)
    target = tmp_path / "their.onnx"
    assert others.rewritten(path, target, ("image_embeds",)) == apart
    np.testing.assert_array_equal(matrix(onnx.load(target)), VALUES)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data does not hold 48 bytes from 0 on"):
        proto.load(path)
    model = onnx.load(path, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "location").value = "../x"
    with pytest.raises(ArtifactError, match=r"weights lie in '\.\./x', outside"):
        proto.take_in(model, tmp_path)


ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 192,
        "heads": 3,
        "layers": 1,
    },
}
"""Its table of tokens has 38 MB, and so a file of its own."""


@pytest.mark.slow
def test_a_tower_with_weights_beside_it_goes_everywhere(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "big.json").write_text(json.dumps(ARCHITECTURE))

    def export(*more: Any) -> None:
        cli("export", tmp_path / "big.json", "--pretrained", "random", *more, check=True)

    export("--layout", "triton", "--out", tmp_path / "repository")
    folder = tmp_path / "repository" / "clip_text" / "text"
    (tower,) = read_manifest(folder).towers
    assert len(tower.files) == 2
    assert all((folder / name).stat().st_nlink == 1 for name in tower.files if "data" in name)
    vectors = clipperf.load(folder, self_test=True).encode_texts(["a cat"])

    # As a copy by links leaves it, which many tools make.
    store = next(Path(os.environ["CLIPPERF_HOME"]).glob("artifacts/*/*/onnx-fp32"))
    shutil.copytree(store, tmp_path / "linked", copy_function=os.link)
    export("--layout", "transformers", "--out", tmp_path / "js")
    export("--precision", "int8", "--out", tmp_path / "int8")
    export("--runtime", "openvino", "--precision", "int8w", "--out", tmp_path / "int8w")
    for name in ("int8", "int8w"):
        found = clipperf.load(tmp_path / name).encode_texts(["a cat"])
        cosine = (found * vectors).sum() / np.linalg.norm(found) / np.linalg.norm(vectors)
        assert cosine > 0.95
