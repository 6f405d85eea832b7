"""Features before the projection: PyTorch's, each runtime's, and what is probed with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import open_clip
import pytest
import torch
from conftest import TINY, Cli
from PIL import Image
from published_layouts import picture
from safetensors.torch import save_file

import clipperf
from clipperf.engines import contract
from clipperf.errors import ArtifactError, ExportError, UnsupportedError, UsageError
from clipperf.export.folder import Exported
from clipperf.export.make import make
from clipperf.inputs.preprocess import preprocess
from clipperf.models import features, sample, zoo
from clipperf.models.family import family_of
from clipperf.models.towers import ImageTower
from clipperf.nouns.artifact import FEATURES_REFERENCE
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import Variant
from clipperf.serve import selftest
from clipperf.serve.features import features_of
from clipperf.system import store

WIDTH, DIM = 48, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT whose features are wider than its embeddings, as open_clip keeps models."""
    folder = tmp_path_factory.mktemp("vit") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    vision = {**TINY["vision_cfg"], "width": WIDTH}  # type: ignore[dict-item]
    config = {**TINY, "embed_dim": DIM, "vision_cfg": vision}
    state = open_clip.CLIP(**config).state_dict()  # type: ignore[arg-type]
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {**sample.config()["preprocess_cfg"], "size": 32}
    made = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(made))
    return folder


@pytest.fixture(scope="module")
def store_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features-home")


@pytest.fixture
def shared(store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPPERF_HOME", str(store_home))
    return store_home


def exported(checkpoint: Path, variant: Variant) -> Exported:
    return make(zoo.resolve(str(checkpoint)), ("image",), variant)


def photos(n: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)) for _ in range(n)]


def expected(checkpoint: Path, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By open_clip's own modules: features, the projection, and embeddings."""
    spec = zoo.resolve(str(checkpoint))
    model = family_of(spec).build(spec, "image", False).module.model
    found: list[torch.Tensor] = []
    norm = model.visual.ln_post
    norm.register_forward_hook(lambda module, given, out: found.append(out))
    with torch.inference_mode():
        embeds = model.encode_image(torch.from_numpy(pixels))
    row = found[0] if found[0].ndim == 2 else found[0][:, 0]
    return row.numpy(), model.visual.proj.numpy(), embeds.numpy()


@pytest.mark.parametrize(
    ("runtime", "precision", "tolerance"),
    [
        ("onnx", "fp32", 1e-5),
        ("onnx", "int8", 0.01),
        ("openvino", "fp32", 1e-5),
        pytest.param("openvino", "int8", 0.02, marks=pytest.mark.slow),
    ],
)
def test_features_are_pytorchs(
    runtime: str, precision: str, tolerance: float, checkpoint: Path, shared: Path
) -> None:
    done = exported(checkpoint, Variant(runtime, precision, features=True))
    image = done.manifest.tower("image")
    assert image is not None and image.features == WIDTH
    assert [(o.name, o.shape) for o in image.outputs] == [
        ("image_embeds", ("batch", DIM)),
        ("image_features", ("batch", WIDTH)),
    ]
    assert FEATURES_REFERENCE in done.manifest.files and "features" in done.folder.name
    if (runtime, precision) == ("onnx", "int8"):
        graph = onnx.load(done.folder / image.path).graph
        assert "Conv" not in {node.op_type for node in graph.node}, "patches are a product"
    with clipperf.load(done.folder) as model:
        embeds, found = model.encode_features(photos(), batch_size=2)
        plain = model.encode_images(photos(), batch_size=2)
        assert model.pixels is not None
        pixels = preprocess(photos(), model.pixels)
        none, of_none = model.encode_features([])
    assert none.shape == (0, DIM) and of_none.shape == (0, WIDTH)
    assert np.array_equal(embeds, plain) and found.dtype == np.float32
    rows, projection, theirs = expected(checkpoint, pixels)
    assert found.shape == rows.shape == (5, WIDTH)
    assert _least(found, rows) > 1 - tolerance and _least(embeds, theirs) > 1 - tolerance
    assert _least(found @ projection, embeds) > 1 - tolerance


def _least(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_pytorch_gives_both_and_keeps_its_projection(checkpoint: Path, shared: Path) -> None:
    spec = zoo.resolve(str(checkpoint))
    cell = Cell(spec.id, "image", "torch", "fp32", "cpu", 3, 1)
    engine = contract.get("torch").open(EngineRequest(cell, spec, None))
    pixels = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    embeds, found = features_of(engine, pixels)
    rows, projection, theirs = expected(checkpoint, pixels)
    assert found == pytest.approx(rows, abs=1e-5) and embeds == pytest.approx(theirs, abs=1e-5)
    assert embeds == pytest.approx(found @ projection, abs=1e-5)
    assert engine.run(pixels) == pytest.approx(embeds, abs=1e-6)


def test_unit_vectors_and_bytes_have_features_too(checkpoint: Path, shared: Path) -> None:
    variant = Variant("onnx", "fp16", "uint8", normalized=True, features=True)
    done = exported(checkpoint, variant)
    assert done.folder.name == "onnx-fp16-normalized-features-uint8"
    with clipperf.load(done.folder) as model:
        embeds, found = model.encode_features(photos())
        pixels = preprocess(photos(), model.pixels)
    assert np.linalg.norm(embeds, axis=1) == pytest.approx(1, abs=2e-3)
    assert _least(found, expected(checkpoint, pixels)[0]) > 0.9999
    assert np.linalg.norm(found, axis=1) == pytest.approx(
        np.linalg.norm(expected(checkpoint, pixels)[0], axis=1), rel=1e-2
    )


def test_the_gate_looks_at_features(
    checkpoint: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from clipperf.export import gate
    from clipperf.export.job import Job, like

    done = exported(checkpoint, Variant("onnx", features=True))
    tower = done.manifest.tower("image")
    assert tower is not None and tower.parity is not None and tower.parity.passed
    spec, variant = done.manifest.spec, Variant("onnx", features=True)
    where = (str(done.folder), str(done.folder / tower.path), ())
    job = Job("onnx", spec, "image", variant, *where, threads=1, min_cosine=0.99999)

    class Wrong:
        def run(self, array: np.ndarray) -> np.ndarray:
            return self.run_features(array)[0]

        def run_features(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with gate.closing(gate.opened(job, job.target)) as engine:
                embeds, found = features_of(engine, array)
            return embeds, found + np.float32(0.5) * np.roll(found, 1, axis=1)

        def close(self) -> None:
            pass

    assert gate.by_runtime(job, like(tower)).passed
    found = gate.compared(Wrong(), job, like(tower))
    assert not found.passed and found.inputs.endswith("features")
    with pytest.raises(ArtifactError, match=r"the image tower .* fails its self-test"):
        selftest.check(Wrong(), done.folder, tower)
    clipperf.load(done.folder, verify=True).close()


def test_a_resnet_has_its_embeddings_for_features(
    sample_artifact: Path, shared: Path, cli: Cli
) -> None:
    done = make(zoo.resolve("clipperf-sample"), ("image",), Variant("onnx", features=True))
    tower = done.manifest.tower("image")
    assert tower is not None and len(tower.outputs) == 1 and tower.features == 192
    assert tower.findings["features"] == "the embeddings: no projection after them is known"
    with clipperf.load(done.folder) as model:
        embeds, found = model.encode_features(photos())
    assert np.array_equal(embeds, found)
    with (
        clipperf.load(sample_artifact) as plain,
        pytest.raises(UsageError, match="exported without its features: clipperf export MODEL"),
    ):
        plain.encode_features(photos())


def test_what_gives_no_features(checkpoint: Path, shared: Path, cli: Cli) -> None:
    with pytest.raises(UsageError, match="towers for trt-rtx give embeddings alone: --features is"):
        exported(checkpoint, Variant("trt-rtx", "fp16", features=True))

    class Plain:
        def run(self, array: np.ndarray) -> np.ndarray:
            return array

        def close(self) -> None:
            pass

    with pytest.raises(UnsupportedError, match="gives embeddings alone"):
        features_of(Plain(), np.zeros((1, 2), np.float32))
    done = cli("eval", checkpoint, "--features", "--runtime", "torch-compile", home=shared)
    assert done.returncode == 2 and "torch-compile gives embeddings alone" in done.stderr


def test_a_graph_that_ends_otherwise_is_refused() -> None:
    import onnx_ir as ir

    from clipperf.graph.features import give_features

    given = ir.val("x", ir.DataType.FLOAT, ir.Shape([2, 4]))
    node = ir.node("Relu", [given])
    node.outputs[0].name = "y"
    graph = ir.Graph([given], [node.outputs[0]], nodes=[node], opset_imports={"": 20})
    with pytest.raises(ExportError, match="does not end with a projection of 4 features"):
        give_features(ir.Model(graph, ir_version=10), 4)


def test_timms_linear_head_is_a_projection() -> None:
    visual = torch.nn.Module()
    visual.head = torch.nn.Sequential()
    visual.head.add_module("proj", torch.nn.Linear(6, 4))
    visual.forward = lambda pixels: visual.head(pixels.mean((2, 3)).repeat(1, 2))
    model = torch.nn.Module()
    model.visual = visual
    model.encode_image = lambda pixels, normalize: visual.forward(pixels)
    tower = ImageTower(model, normalize=True)
    pixels = torch.rand(2, 3, 5, 5)
    assert features.has_projection(model)
    with torch.inference_mode():
        embeds, found = features.both(tower, pixels)
        assert torch.allclose(found, pixels.mean((2, 3)).repeat(1, 2))
        assert torch.allclose(embeds, tower(pixels), atol=1e-6)
    visual.head.proj = torch.nn.Identity()
    assert not features.has_projection(model)


def test_probes_of_features_in_every_runtime(
    checkpoint: Path, shared: Path, cli: Cli, tmp_path: Path
) -> None:
    for split in ("test", "train"):
        for i in range(12):
            path = tmp_path / "data" / split / ("dark", "bright")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(200 * (i % 2) + 3 * i + (split == "train"), "png"))
    target = tmp_path / "eval.json"
    command = (
        *("eval", checkpoint, "--dataset", tmp_path / "data", "--task", "linear-probe,few-shot"),
        *("--features", "--runtime", "onnx,openvino", "--json", target, "-q"),
    )
    done = cli(*command, check=True, home=shared)
    scores = store.read_result(target).scores
    tops = [s for s in scores if s.metric == "linear probe top-1"]
    assert [s.cell.runtime for s in tops] == ["torch", "onnx", "openvino"]
    assert all(s.value == 1 for s in tops)
    assert "1-shot top-1" in done.stdout and "no projection" not in done.stdout
    again = cli(*command, check=True, home=shared)
    assert [s.value for s in store.read_result(target).scores] == [s.value for s in scores]
    assert "images: " not in again.stderr
