"""`clipperf.load` as a deployment uses it: no torch, the same embeddings as open_clip."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import clipperf
from clipperf.engines import contract, ort_providers
from clipperf.errors import (
    ArtifactError,
    EngineError,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from clipperf.export.plan_options import EngineSettings
from clipperf.models import sample
from clipperf.nouns.artifact import LAYOUT_RECORD
from clipperf.nouns.cell import EngineRequest
from clipperf.serve import towers
from clipperf.serve.held import held
from clipperf.system import files, store

N = 20
TOO_LONG = "a small drawing of a red apple " * 40

# What a deployment has not installed.
BLOCKED = (
    *("torch", "torchvision", "timm", "open_clip", "onnx", "onnxscript", "transformers"),
    *("jinja2", "filelock", "psutil", "typer", "rich", "safetensors", "pynvml"),
    "cykooz_resizer",
)

DEPLOYMENT = f"""
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())

import numpy as np
from PIL import Image
import clipperf

job = json.loads(sys.argv[1])
with clipperf.load(job["artifact"], threads=2) as model:
    np.savez(
        job["out"],
        paths=model.encode_images(job["images"]),
        opened=model.encode_images([Image.open(p) for p in job["images"]]),
        texts=model.encode_texts(job["texts"]),
    )
assert not {{name.partition(".")[0] for name in sys.modules}} & set({BLOCKED!r})
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    """Real images as files, and their captions, with short, long and odd texts among them."""
    folder = tmp_path_factory.mktemp("images")
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        rows = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
        rows = rows[:: len(rows) // N][:N]
        images = []
        for i, row in enumerate(rows):
            images.append(folder / f"{i}{Path(row['image']).suffix}")
            images[-1].write_bytes(archive.read(row["image"]))
    texts = [row["caption"] for row in rows]
    texts[:4] = ["", "x", TOO_LONG, "Café 東京 🗼"]
    return images, texts


def seal(folder: Path) -> None:
    """Make the manifest say what its small files are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digests = {name: files.sha256_file(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": digests}))


@pytest.fixture(scope="module")
def model(sample_artifact: Path) -> Any:
    with clipperf.load(sample_artifact, threads=2) as model:
        yield model


def open_clip_embeddings(images: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What open_clip itself makes of the sample's weights, images and texts."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import load_file

    config = sample.config()
    reference = open_clip.CLIP(**config["model_cfg"]).eval()
    state = {name: value.float() for name, value in load_file(sample.weights_path()).items()}
    reference.load_state_dict(state, strict=True)
    transform = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    context = config["model_cfg"]["text_cfg"]["context_length"]
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path)) for path in images])
        tokens = open_clip.get_tokenizer("ViT-B-32")(texts, context_length=context)
        return reference.encode_image(pixels).numpy(), reference.encode_text(tokens).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_without_torch_the_embeddings_equal_open_clips(
    sample_artifact: Path, inputs: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    images, texts = inputs
    job = {
        "artifact": str(sample_artifact),
        "out": str(tmp_path / "out.npz"),
        "images": [str(path) for path in images],
        "texts": texts,
    }
    done = subprocess.run(
        [sys.executable, "-c", DEPLOYMENT, json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    ours = np.load(tmp_path / "out.npz")
    image_reference, text_reference = open_clip_embeddings(images, texts)
    assert ours["paths"].dtype == ours["texts"].dtype == np.float32
    assert ours["paths"].shape == image_reference.shape
    assert cosines(ours["paths"], image_reference).min() > 0.99999
    assert cosines(ours["texts"], text_reference).min() > 0.99999
    np.testing.assert_array_equal(ours["paths"], ours["opened"])
    # Not all alike: equality above would say little.
    assert cosines(ours["paths"][:-1], ours["paths"][1:]).min() < 0.999
    assert cosines(ours["texts"][:-1], ours["texts"][1:]).min() < 0.999


def test_batches_of_any_size_give_the_same(
    model: Any, inputs: tuple[list[Path], list[str]]
) -> None:
    images, texts = inputs
    whole_images = model.encode_images(images, batch_size=N)
    whole_texts = model.encode_texts(texts, batch_size=N)
    for size in (1, 7, 100):
        split = model.encode_images(images, batch_size=size)
        np.testing.assert_allclose(split, whole_images, atol=1e-4)
        split = model.encode_texts(texts, batch_size=size)
        np.testing.assert_allclose(split, whole_texts, atol=1e-4)


def test_normalize_gives_unit_vectors_of_the_same_direction(
    model: Any, inputs: tuple[list[Path], list[str]]
) -> None:
    raw = model.encode_images(inputs[0][:3])
    unit = model.encode_images(inputs[0][:3], normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert cosines(raw, unit).min() > 0.999999
    assert abs(np.linalg.norm(raw, axis=1) - 1).max() > 1e-3


def test_empty_lists_give_empty_arrays(model: Any) -> None:
    for empty in (model.encode_images([]), model.encode_texts([])):
        assert empty.shape == (0, model.embed_dim)
        assert empty.dtype == np.float32


def test_wrong_inputs_are_named(model: Any, tmp_path: Path) -> None:
    not_an_image = tmp_path / "notes.png"
    not_an_image.write_text("no pixels here")
    truncated = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(truncated, "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(truncated.getvalue()[:900])
    for wrong, said in (
        ([tmp_path / "none.png"], "none.png"),
        ([not_an_image], "notes.png"),
        ([cut], "cut.png"),
        ([42], "int"),
        ("image.png", "brackets"),
    ):
        with pytest.raises(UsageError, match=said):
            model.encode_images(wrong)
    for texts, said in (("a text", "brackets"), ([7], "str"), ([None], "str")):
        with pytest.raises(UsageError, match=said):
            model.encode_texts(texts)
    for size in (0, -1):
        with pytest.raises(UsageError, match="batch_size"):
            model.encode_texts(["a", "b"], batch_size=size)


def test_one_tower_alone_says_what_is_missing(sample_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "image-only"
    shutil.copytree(sample_artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["towers"] = [t for t in manifest["towers"] if t["side"] == "image"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(folder / "text")
    for name in ("tokenizer.json", "clipperf_tokenizer.json"):
        (folder / name).unlink()
    with clipperf.load(folder, threads=1) as model:
        assert model.encode_images([Image.new("RGB", (80, 60), "red")]).shape[0] == 1
        with pytest.raises(ArtifactError, match=r"no text tower.*--tower text"):
            model.encode_texts(["a"])


def test_a_model_says_what_it_is(sample_artifact: Path, sample_in: Any, tmp_path: Path) -> None:
    model = clipperf.load(sample_artifact)
    said = f"clipperf-sample, {model.embed_dim} wide: image and text in onnx fp32, not normalized"
    assert repr(model) == f"<ClipModel {said}>"
    model.close()
    assert repr(model) == f"<ClipModel {said} (closed)>"
    alone = tmp_path / "text"
    shutil.copytree(sample_in("int8"), alone)
    data = json.loads((alone / "manifest.json").read_text())
    data["towers"] = [tower for tower in data["towers"] if tower["side"] == "text"]
    data["towers"][0]["normalized"] = True
    (alone / "manifest.json").write_text(json.dumps(data))
    with clipperf.load(alone) as model:
        assert repr(model).endswith(" wide: text in onnx int8, normalized>")


def test_a_closed_model_refuses_to_run(sample_artifact: Path) -> None:
    with clipperf.load(sample_artifact, threads=1) as model:
        assert model.encode_texts(["a"]).shape == (1, model.embed_dim)
    with pytest.raises((ArtifactError, EngineError, UsageError), match="closed"):
        model.encode_texts(["a"])
    model.close()


def test_few_inputs_keep_every_stream_busy(
    sample_artifact: Path, model: Any, inputs: tuple[list[Path], list[str]]
) -> None:
    images, texts = inputs[0][:5], inputs[1][4:9]
    with clipperf.load(sample_artifact, threads=2, streams=2) as shared:
        given = []
        for side, found, alone in (
            ("image", shared.encode_images, model.encode_images),
            ("text", shared.encode_texts, model.encode_texts),
        ):
            engine = shared._engines[side]
            assert engine.streams == 2
            run = engine.run
            engine.run = lambda batch, run=run: given.append(len(batch)) or run(batch)
            values = images if side == "image" else texts
            np.testing.assert_allclose(found(values), alone(values), atol=1e-5)
            assert max(given) == 3 and sum(given) == 5, side  # in batches of 32: one of five
            given.clear()
            found(values, batch_size=2)
            assert max(given) == 2
            given.clear()
        shared.encode_texts(texts * 9)  # the same five
        assert max(given) == 3


@pytest.mark.parametrize("streams", [1, 2])
def test_several_threads_may_call_one_model_with_any_shapes(
    sample_artifact: Path, inputs: tuple[list[Path], list[str]], streams: int
) -> None:
    """Each gets what it asked for: images and texts, few and many, short and long, all at once."""
    images, texts = inputs
    long = " and ".join(texts[:6])
    asked: list[tuple[str, list[Any], int]] = []
    for size in (1, 2, 5, 8):
        asked.append(("encode_images", images[:size], 3))
        asked.append(("encode_texts", texts[-size:], 4))
        asked.append(("encode_texts", [*texts[:size], long], 32))
    with clipperf.load(sample_artifact, threads=2, streams=streams) as model:

        def answer(call: tuple[str, list[Any], int]) -> np.ndarray:
            name, values, batch_size = call
            found: np.ndarray = getattr(model, name)(values, batch_size=batch_size)
            return found

        alone = [answer(call) for call in asked]
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(asked)), 6))
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda place: answer(asked[place]), order))
    for place, found in zip(order, together, strict=True):
        np.testing.assert_allclose(found, alone[place], atol=1e-4, err_msg=str(asked[place]))
    # Rows of different inputs are far apart beside that.
    assert all(np.ptp(each, axis=0).max() > 0.1 for each in alone if len(each) > 1)


def test_streams_that_cannot_be_are_refused(sample_artifact: Path) -> None:
    for wrong in (0, -1, 1.5):
        with pytest.raises(UsageError, match=r"streams is .*whole number from 1"):
            clipperf.load(sample_artifact, streams=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"streams is 3.*threads is 2"):
        clipperf.load(sample_artifact, threads=2, streams=3)
    with pytest.raises(UsageError, match="ort-cuda runs one batch at a time; leave streams out"):
        clipperf.load(sample_artifact, runtime="ort-cuda", streams=2, threads=2)


def test_a_runtime_that_cannot_run_here_says_what_is_missing(sample_artifact: Path) -> None:
    found = contract.get("ort-cuda").availability("cuda")
    if found.usable:
        pytest.skip("it can run here")
    with pytest.raises((EngineError, MissingDependencyError)) as caught:
        clipperf.load(sample_artifact, runtime="ort-cuda")
    words = str(caught.value)
    assert f"ort-cuda cannot run here: {found.detail}. To use it: {found.fix}" in words
    assert len(words.splitlines()) == 1


def test_a_package_that_is_missing_is_named(sample_artifact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sample_artifact, tmp_path / "of-openvino"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "runtime": "openvino"}))
    code = f"""
import sys
sys.modules["openvino"] = None
import clipperf
clipperf.load({str(folder)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("clipperf.errors.MissingDependencyError: "), done.stderr
    assert "openvino cannot run here" in last and "clipperf[openvino]" in last


def test_what_a_runtime_never_does_is_not_put_down_to_the_machine(
    sample_artifact: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sample_artifact, tmp_path / "of-int8"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "int8"}))
    with pytest.raises(UnsupportedError, match=r"ort-cuda runs .*, not int8"):
        clipperf.load(folder, runtime="ort-cuda")


def test_damaged_artifacts_are_refused(sample_artifact: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(sample_artifact, tmp_path / name))

    with pytest.raises(ArtifactError, match="clipperf export MODEL --out"):
        clipperf.load(tmp_path)
    deleted = copy("deleted")
    (deleted / "text" / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        clipperf.load(deleted)
    truncated = copy("truncated")
    model = truncated / "image" / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"the image tower of .* is damaged"):
        clipperf.load(truncated)
    settings = copy("settings")
    (settings / "preprocess.json").write_text("{}")
    with pytest.raises(ArtifactError, match="preprocess"):
        clipperf.load(settings)
    broken = ("", "{", "[]", "{}", "[" * 100_000, "9" * 5000, '{"schema_version": 99}')
    for i, text in enumerate(broken):
        edited = copy(f"edited-{i}")
        (edited / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match="export the model again"):
            clipperf.load(edited)
    fields = copy("fields")
    manifest = json.loads((fields / "manifest.json").read_text())
    del manifest["towers"][0]["path"]
    (fields / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="export the model again"):
        clipperf.load(fields)
    manifest["towers"][0] |= {"path": "image/model.onnx", "disk_bytes": "many"}
    (fields / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"towers\.disk_bytes.*export the model again"):
        clipperf.load(fields)


def test_the_way_to_preprocess_is_chosen_by_name(
    sample_artifact: Path, model: Any, inputs: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("cykooz_resizer", reason="pip install 'clipperf[fast]'")
    assert model.pixels.method == "exact"
    large = []
    for i, path in enumerate(inputs[0][:8]):
        large.append(tmp_path / f"{i}.jpg")
        with Image.open(path) as image:
            image.convert("RGB").resize((640, 480)).save(large[-1], quality=90)
    exact = model.encode_images(large)
    for method, least in (("fast", 0.9999), ("draft", 0.999)):
        with clipperf.load(sample_artifact, threads=2, preprocess=method) as other:
            assert other.pixels.method == method
            found = other.encode_images(large)
        assert cosines(exact, found).min() > least
        assert not np.array_equal(exact, found)  # it did take another way


def test_an_artifact_may_name_its_way(sample_artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("cykooz_resizer", reason="pip install 'clipperf[fast]'")
    folder = Path(shutil.copytree(sample_artifact, tmp_path / "fast"))
    settings = json.loads((folder / "preprocess.json").read_text())
    (folder / "preprocess.json").write_text(json.dumps({**settings, "method": "fast"}))
    seal(folder)
    with clipperf.load(folder, threads=1) as fast:
        assert fast.pixels is not None and fast.pixels.method == "fast"
    with clipperf.load(folder, threads=1, preprocess="exact") as exact:
        assert exact.pixels is not None and exact.pixels.method == "exact"


def test_a_way_that_is_not_there_is_refused_at_once(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="exact, fast, draft"):
        clipperf.load(sample_artifact, preprocess="quick")
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[fast\]"):
        clipperf.load(sample_artifact, preprocess="fast")


def test_an_artifact_opens_in_runtimes_that_load_it_and_in_no_other(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clipperf.load(sample_artifact, runtime="onnx") as model:
        assert model.encode_texts(["a cat"]).shape == (1, model.embed_dim)
    with pytest.raises(UsageError, match=r"trt-rtx does not load onnx .*--runtime trt-rtx"):
        clipperf.load(sample_artifact, runtime="trt-rtx")
    with pytest.raises(UsageError, match="onnx runs on cpu, not on 'cuda'"):
        clipperf.load(sample_artifact, device="cuda")
    opened: list[EngineRequest] = []
    get = contract.get

    def fake_open(request: EngineRequest) -> Any:
        opened.append(request)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(contract, "get", lambda name: replace(get(name), open=fake_open))
    clipperf.load(sample_artifact, runtime="ort-cuda", self_test=False)
    assert {(r.cell.runtime, r.cell.device, r.cell.precision) for r in opened} == {
        ("ort-cuda", "cuda", "fp32")
    }
    assert all(r.key and r.cache_folder for r in opened)
    # What an engine's profile is tuned for: the usual batch, as that of TensorRT's own engines.
    for runtime in ("ort-trt", "ort-trt-rtx"):
        opened.clear()
        clipperf.load(sample_artifact, runtime=runtime, self_test=False)
        shapes = {r.cell.side: ort_providers.profile(r) for r in opened}
        assert shapes["image"] == {
            kind: f"pixel_values:{batch}x3x64x64"
            for kind, batch in zip(("min", "opt", "max"), EngineSettings().batch, strict=True)
        }
        assert shapes["text"]["opt"] == "input_ids:8x77"


@pytest.mark.parametrize(("batch", "tuned", "largest"), [(2, 1, 64), (40, 64, 64), (200, 512, 512)])
def test_a_tunings_batch_chooses_the_profile_of_its_engine(
    sample_artifact: Path, batch: int, tuned: int, largest: int
) -> None:
    choice = towers.Choice(sample_artifact, "image", "ort-trt", batch=batch)
    with held(sample_artifact) as folder:
        ((request, _),) = towers.requests(choice, store.read_manifest(sample_artifact), folder)
    options = ort_providers.tensorrt_options(request, None)
    found = {kind: options[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")}
    sizes = {"min": 1, "opt": tuned, "max": largest}
    assert found == {kind: f"pixel_values:{n}x3x64x64" for kind, n in sizes.items()}


def test_a_tower_that_fails_to_open_closes_the_other(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    get = contract.get

    def fake_open(request: EngineRequest) -> Any:
        if request.cell.side == "text":
            raise EngineError("no text today")
        return SimpleNamespace(close=lambda: closed.append(request.cell.side))

    monkeypatch.setattr(contract, "get", lambda name: replace(get(name), open=fake_open))
    with pytest.raises(EngineError, match="no text today"):
        clipperf.load(sample_artifact)
    assert closed == ["image"]


def test_values_that_are_not_finite_are_never_handed_over(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage of a table of tokens shows only in the texts that read it."""
    with clipperf.load(sample_artifact) as model:
        engine = model._engines["text"]
        real = engine.run

        def spoiled(array: np.ndarray) -> np.ndarray:
            found = real(array).copy()
            found[array.shape[1] > 8 :, 3] = np.nan
            return found

        monkeypatch.setattr(engine, "run", spoiled)
        with pytest.raises(EngineError, match=r"not finite.*verify=True"):
            model.encode_texts(["a cat", "a dog"])


def test_images_that_cannot_be_prepared_for_want_of_threads_fail_in_words(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = [np.zeros((20, 20, 3), np.uint8)] * 3
    with clipperf.load(sample_artifact) as model:
        whole = model.encode_images(pixels, workers=0)

        def full(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(EngineError, match=r"out of memory: no thread.*workers=0"):
                model.encode_images(pixels, workers=2)
            assert (model.encode_images(pixels, workers=0) == whole).all()
        np.testing.assert_allclose(model.encode_images(pixels, workers=2), whole, atol=1e-5)


def test_what_is_no_artifact_is_told_from_what_is_damaged(
    sample_artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / LAYOUT_RECORD).write_text("{}")
    with pytest.raises(ArtifactError, match="layout for another program"):
        clipperf.load(tmp_path / "layout")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ArtifactError, match="give the folder that clipperf export wrote"):
        clipperf.load(tmp_path / "photo.png")
    with pytest.raises(UsageError, match=r"torch runs weights.*leave out runtime"):
        clipperf.load(sample_artifact, runtime="torch")
