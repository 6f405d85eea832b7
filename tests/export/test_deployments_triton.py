"""A model repository in a real Triton: HTTP and gRPC, dynamic batches, floods, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import other_tools
import pytest
from report_data import ENVIRONMENT

import clipperf
from clipperf.drift import drift_of
from clipperf.export.deployment import DEPLOYMENTS, Made, lay_out
from clipperf.export.deployments.triton import batches, config, needs, tuned_cell
from clipperf.export.folder import Exported
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import sample, zoo
from clipperf.nouns.artifact import TensorSpec
from clipperf.nouns.cell import Cell
from clipperf.nouns.tuning import TunedTower, Tuning
from clipperf.nouns.variant import SIDES, Side, Variant
from clipperf.system import env, store
from clipperf.system.files import write_json

REQUESTS = 1000

CLIENT = """
import json, queue, sys
import numpy as np
import tritonclient.grpc as grpc
given = json.load(sys.stdin)
client = grpc.InferenceServerClient(given["url"])
done = queue.Queue()

def tensor(values):
    rows = np.array(values, dtype=np.object_).reshape(-1, 1)
    asked = grpc.InferInput(given["input"], rows.shape, "BYTES")
    asked.set_data_from_numpy(rows)
    return [asked]

def data(value):
    if given["input"] == "text":
        return value.encode()
    with open(value, "rb") as file:
        return file.read()

found = [None] * len(given["requests"])
for place, values in enumerate(given["requests"]):
    client.async_infer(
        given["model"], tensor([data(each) for each in values]),
        lambda result, error, place=place: done.put((place, result, error)),
    )
for _ in found:
    place, result, error = done.get(timeout=300)
    if error is None:
        found[place] = result.as_numpy(given["output"]).tolist()
    else:
        found[place] = error.message()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def repository(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        spec = zoo.resolve("clipperf-sample")
        lay_out("triton", spec, ("image", "text"), [Variant("onnx")], out)
    return out


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[other_tools.Server]:
    models = ("clip_image", "clip_text")
    with other_tools.triton(repository, models, repository.parent / "triton.log") as found:
        yield found


@pytest.fixture(scope="module")
def own(sample_artifact: Path) -> Iterator[Any]:
    with clipperf.load(sample_artifact) as model:
        yield model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".png")][::100][:12]
        for number, name in enumerate(names):
            (folder / f"{number:02}.png").write_bytes(archive.read(name))
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        lines = archive.read("captions.jsonl").decode().splitlines()
    return [json.loads(line)["caption"] for line in lines]


def over_grpc(server: other_tools.Server, side: Side, requests: list[list[str]]) -> list[Any]:
    given = {
        "url": server.grpc,
        "model": f"clip_{side}",
        "input": side,
        "output": f"{side}_embeds",
        "requests": requests,
    }
    found: list[Any] = other_tools.python_with(other_tools.triton_client(), CLIENT, given)
    return found


def infer(server: other_tools.Server, model: str, name: str, data: list[Any], **more: Any) -> Any:
    tensor = {"name": name, "shape": [len(data), 1], "datatype": "BYTES", "data": data, **more}
    return server.ask(f"models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())


def raw(server: other_tools.Server, data: bytes) -> Any:
    """One image as the body of a request, its vector as JSON or an error."""
    outputs = {"binary_data_output": False}
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [1, 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data) + 4},
                }
            ],
            "parameters": outputs,
        }
    ).encode()
    body = head + len(data).to_bytes(4, "little") + data
    return server.ask(
        "models/clip_image/infer", body, Inference_Header_Content_Length=str(len(head))
    )


def assert_close(found: Any, expected: np.ndarray) -> None:
    """Within the rounding of two versions of ONNX Runtime, of values up to 20."""
    drift = drift_of(np.array(found, np.float32).reshape(expected.shape), expected)
    assert drift.finite
    assert drift.max_abs_diff < 1e-4, drift


def counts(server: other_tools.Server, model: str) -> dict[str, int]:
    """What Triton has counted of a model: inputs, and calls of its `execute`."""
    (found,) = server.ask(f"models/{model}/stats")["model_stats"]
    return {name: int(found[name]) for name in ("inference_count", "execution_count")}


@pytest.mark.slow
def test_both_towers_answer_over_http_and_grpc(server, own, images, texts) -> None:
    said = infer(server, "clip_text", "text", texts[:5])["outputs"][0]
    assert (said["datatype"], said["shape"]) == ("FP32", [5, 192])
    assert_close(said["data"], own.encode_texts(texts[:5]))
    assert_close(over_grpc(server, "text", [texts[:5]])[0], own.encode_texts(texts[:5]))
    expected = own.encode_images(images)
    for path, vector in zip(images[:3], expected, strict=False):
        assert_close(raw(server, Path(path).read_bytes())["outputs"][0]["data"], vector[None])
    assert_close(over_grpc(server, "image", [images])[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_thousand_requests_at_once_are_batched(server, own, images, texts, side: Side) -> None:
    inputs = images if side == "image" else texts[:100]
    requests = [[inputs[place % len(inputs)]] for place in range(REQUESTS)]
    before = counts(server, f"clip_{side}")
    found = over_grpc(server, side, requests)
    after = counts(server, f"clip_{side}")
    encode = own.encode_images if side == "image" else own.encode_texts
    expected = encode(inputs)[np.arange(REQUESTS) % len(inputs)]
    assert_close(found, expected)
    assert after["inference_count"] - before["inference_count"] == REQUESTS
    # At most 32 at once; some of the first wait for nobody.
    assert after["execution_count"] - before["execution_count"] < REQUESTS / 8


@pytest.mark.slow
def test_bad_input_is_refused_and_the_rest_served(server, own, images, texts, tmp_path) -> None:
    assert "not an image" in raw(server, b"nonsense")["error"]
    assert "not an image" in raw(server, b"")["error"]
    cut = Path(images[0]).read_bytes()[:60]
    assert "image 0" in raw(server, cut)["error"]
    assert "too long" in infer(server, "clip_text", "text", ["a" * (1 << 21)])["error"]
    assert "unexpected inference input" in infer(server, "clip_text", "words", ["a"])["error"]
    assert "batch-size must be <= 32" in infer(server, "clip_text", "text", ["a"] * 33)["error"]
    numbers = infer(server, "clip_text", "text", [1], datatype="FP32")["error"]
    assert "data-type" in numbers or "datatype" in numbers
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"nonsense")
    requests = [[images[0]], [str(damaged)], [images[1], images[2]]] * 20
    found = over_grpc(server, "image", requests)
    expected = own.encode_images(images[:3])
    for place, answer in enumerate(found):
        if place % 3 == 1:
            assert "image 0 (bytes): not an image" in answer
        else:
            assert_close(answer, expected[:1] if place % 3 == 0 else expected[1:])
    assert_close(infer(server, "clip_text", "text", texts[:1])["outputs"][0]["data"],
                 own.encode_texts(texts[:1]))  # fmt: skip


@pytest.mark.slow
def test_triton_reads_what_is_said_of_the_engines(server, repository) -> None:
    """The server of these tests lacks that backend, and looks for it once the rest is in order."""
    for side in ("image", "text"):
        said = server.ask(f"repository/models/clip_{side}_tower/load", b"")["error"]
        assert "unable to find backend library for backend 'onnxruntime'" in said


Tensor = tuple[str, str, list[int]]

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
"""What Triton calls ONNX Runtime's types."""


def configured(said: str, kind: str) -> list[Tensor]:
    """Name, type and dims, the batch left out, of each tensor of a `config.pbtxt`."""
    pattern = rf'^{kind} \[ {{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }} \]$'
    rows = re.findall(pattern, said, re.MULTILINE)
    return [(name, type_, [int(d) for d in dims.split(",")]) for name, type_, dims in rows]


def as_configured(value: Any) -> Tensor:
    """The same of a graph's input or output, as Triton counts: -1 where any size will do."""
    batch, *dims = value.shape
    assert isinstance(batch, str)
    return value.name, TYPES[value.type], [d if isinstance(d, int) else -1 for d in dims]


@pytest.mark.slow
def test_the_engines_give_the_same_vectors(repository, sample_artifact, own, images, texts) -> None:
    """What Triton's own backend does: inputs and outputs by the names and types of config.pbtxt."""
    tokens = Tokenizer.from_folder(sample_artifact)(texts[:5])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    given = {"image": ("pixel_values", pixels), "text": ("input_ids", tokens)}
    expected = {"image": own.encode_pixels(pixels), "text": own.encode_texts(texts[:5])}
    for side, (name, array) in given.items():
        path = repository / f"clip_{side}_tower" / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        said = (path.parent.parent / "config.pbtxt").read_text()
        assert configured(said, "input") == [as_configured(each) for each in session.get_inputs()]
        assert configured(said, "output") == [as_configured(each) for each in session.get_outputs()]
        assert configured(said, "input")[0][0] == name
        assert_close(session.run([f"{side}_embeds"], {name: array})[0], expected[side])


@pytest.mark.slow
def test_eight_bit_engines_suit_any_processor(sample_artifact: Path, tmp_path: Path) -> None:
    """Seven bits of weights, as sums of eight saturate without VNNI; a service looks for itself."""
    spec, out = zoo.resolve("clipperf-sample"), tmp_path / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        patch.setattr(env, "cpu_flags", lambda: frozenset({"avx2", "avx512f", "avx512_vnni"}))
        lay_out("triton", spec, ("image",), [Variant("onnx", "int8")], out)
    largest = {}
    for name in ("clip_image/image/image", "clip_image_tower/1"):
        graph = onnx.load(out / name / "model.onnx").graph
        held = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
        found = [onnx.numpy_helper.to_array(tensor).astype(int) for tensor in held]
        largest[name] = max(int(abs(values).max()) for values in found if values.size)
    assert largest == {"clip_image/image/image": 127, "clip_image_tower/1": 63}


@pytest.mark.parametrize(
    ("precision", "portable"), [("fp32", ["text"]), ("fp16", ["text"]), ("int8", ["image", "text"])]
)
def test_which_engines_are_others_than_the_services(precision: str, portable: list[Side]) -> None:
    first, *others = needs(Variant("onnx", precision), SIDES)
    assert first == (Variant("onnx", precision), SIDES)
    assert [side for variant, (side,) in others if variant.portable] == portable
    engines = [(variant.portable, sides) for variant, sides in needs(Variant("trt", "int8"), SIDES)]
    assert engines == [(False, SIDES), (True, ("text",))]


def test_configurations_say_how_requests_are_batched() -> None:
    pixels = TensorSpec("pixel_values", "float32", ("batch", 3, 224, 224))
    vectors = TensorSpec("image_embeds", "float32", ("batch", 512))
    said = config("tensorrt", (pixels,), (vectors,), (8, 64, 64), {"threads": "2"})
    assert said.splitlines() == [
        'backend: "tensorrt"',
        "max_batch_size: 64",
        'input [ { name: "pixel_values" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]',
        'output [ { name: "image_embeds" data_type: TYPE_FP32 dims: [ 512 ] } ]',
        "dynamic_batching { preferred_batch_size: [ 8, 64 ] max_queue_delay_microseconds: 2000 }",
        'parameters { key: "threads" value: { string_value: "2" } }',
    ]


def test_a_plan_goes_to_tritons_own_backend(sample_artifact: Path, tmp_path: Path) -> None:
    """What an export for TensorRT would leave, on any machine."""
    folder = tmp_path / "exported"
    shutil.copytree(sample_artifact, folder)
    (folder / "image" / "model.onnx").rename(folder / "image" / "model.plan")
    manifest = store.read_manifest(folder)
    tower = manifest.tower("image")
    plan = dataclasses.replace(
        tower,
        runtime="trt",
        path="image/model.plan",
        files={"image/model.plan": tower.files["image/model.onnx"]},
        options={"batch": "1:8:64"},
    )
    manifest = dataclasses.replace(manifest, runtime="trt", towers=(plan,))
    write_json(folder / store.MANIFEST_NAME, manifest)
    variant = Variant("trt", "fp32")
    exported = Exported(folder, manifest, ())
    out = tmp_path / "out"
    DEPLOYMENTS.get("triton").write(
        Made(manifest.spec, ("image",), {variant: exported}, [None]), [variant], out
    )
    written = out / "clip_image_tower" / "1" / "model.plan"
    assert written.read_bytes() == (folder / "image" / "model.plan").read_bytes()
    said = (out / "clip_image_tower" / "config.pbtxt").read_text()
    assert said.startswith('backend: "tensorrt"\nmax_batch_size: 64\n')
    assert "preferred_batch_size: [ 8, 64 ]" in said
    assert "instance_group" not in (out / "clip_image" / "config.pbtxt").read_text()
    assert store.read_manifest(out / "clip_image" / "image").tower("image") == plan


def test_batches_come_from_the_engine_else_from_the_tuning(sample_artifact, home: Path) -> None:
    spec, manifest = zoo.resolve("clipperf-sample"), store.read_manifest(sample_artifact)
    tower = manifest.tower("text")
    engine = dataclasses.replace(tower, options={"batch": "1:8:64"})
    assert batches(engine, None) == (8, 64, 64)
    assert batches(dataclasses.replace(tower, options={"batch": "1:8:8"}), None) == (8, 8)
    assert batches(tower, None) == (32,)

    assert tuned_cell(spec, Variant("onnx"), "text") is None
    cell = Cell(spec.id, "text", "onnx", "fp32", "cpu", batch=16, threads=2, streams=2)
    best = TunedTower(cell, "a", tower.key, 1.0, None, 0.1, None)
    tuning = Tuning(
        store.SCHEMA_VERSION, "tuning", "c", "2026", ENVIRONMENT, spec, None, 0.5, 1, 1, (best,), ()
    )
    write_json(store.tuning_path(spec, ("image", "text")), tuning)
    assert tuned_cell(spec, Variant("onnx"), "text") == cell
    assert tuned_cell(spec, Variant("onnx"), "image") is None
    assert tuned_cell(spec, Variant("onnx", "int8"), "text") is None
    assert tuned_cell(spec, Variant("trt"), "text") is None
    assert batches(tower, cell) == (16, 32)
    assert batches(tower, dataclasses.replace(cell, batch=64)) == (64, 64)
    # One at a time is best, and several may come at once all the same.
    assert batches(tower, dataclasses.replace(cell, batch=1)) == (1, 32)

    # What was tuned for a GPU says nothing of the processor that the model is served on.
    on_gpu = dataclasses.replace(cell, runtime="ort-cuda", device="cuda")
    best = dataclasses.replace(best, cell=on_gpu)
    write_json(
        store.tuning_path(spec, ("image", "text")), dataclasses.replace(tuning, towers=(best,))
    )
    assert tuned_cell(spec, Variant("onnx"), "text") is None


def test_a_service_on_the_processor_is_one_instance(sample_artifact: Path, tmp_path: Path) -> None:
    manifest, variant = store.read_manifest(sample_artifact), Variant("onnx")
    exports = {variant: Exported(sample_artifact, manifest, ())}
    made = Made(manifest.spec, ("image",), exports, [None])
    DEPLOYMENTS.get("triton").write(made, [variant], tmp_path)
    group = "instance_group [ { kind: KIND_CPU count: 1 } ]"
    assert group in (tmp_path / "clip_image" / "config.pbtxt").read_text()
    assert "instance_group" not in (tmp_path / "clip_image_tower" / "config.pbtxt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_server_is_measured_where_it_runs(server, sample_artifact, tmp_path, side: Side) -> None:
    """LoadGen over HTTP, vectors held against the artifact, batches by Triton's own account."""
    out = tmp_path / "served.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "clipperf", "profile", "clipperf-sample", "--quick"),
            *("--endpoint", server.http, "--tower", side, "--scenario", "server"),
            *("--slo-ms", "500", "--connections", "16", "--json", out),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "CLIPPERF_HOME": str(sample_artifact.parents[3])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(out.read_text())["measurements"]
    endpoint, run = row["endpoint"], row["serving"]
    assert (endpoint["protocol"], endpoint["model"]) == ("kserve", f"clip_{side}")
    assert endpoint["encoding"] == "binary" and endpoint["server"].startswith("triton ")
    assert endpoint["max_batch"] == 32 and endpoint["least_cosine"] > 0.999
    best = run["trials"][run["best"]]
    assert best["valid"] and best["latency_s"]["99"] <= 0.5
    assert best["batches"] == [[1, best["queries"]]]
    assert sum(size * count for size, count in best["server_batches"]) == best["queries"]
    assert max(size for size, _ in best["server_batches"]) > 1, "Triton put some together"
