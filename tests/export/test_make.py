"""The one way to an artifact: every exporter's towers, and those of one from outside."""

from __future__ import annotations

import ast
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, Cli, Install, assert_usable

from clipperf.commands import export
from clipperf.engines import contract
from clipperf.errors import UsageError
from clipperf.export.exporter import (
    EXPORTERS,
    Exporter,
    chosen,
    exporter_of,
    find,
    job_from_json,
    key_of,
)
from clipperf.export.job import Job
from clipperf.models import sample, zoo
from clipperf.nouns.artifact import Artifact, Manifest, Quantization
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Variant
from clipperf.serialize import from_json, to_json
from clipperf.system import store

SPEC = zoo.resolve(sample.NAME)
OWN = [
    (exporter, runtime, precision)
    for exporter in map(EXPORTERS.get, EXPORTERS.own())
    for runtime, precisions in exporter.makes.items()
    for precision in precisions
]

TOY = """
import shutil
from dataclasses import dataclass, replace

from clipperf.engines.contract import Availability, Runtime
from clipperf.engines.onnxruntime import open as open_onnx
from clipperf.export.exporter import Choices, Exporter
from clipperf.export.job import like
from clipperf.nouns.variant import Variant
from clipperf.system.files import digest_of

@dataclass(frozen=True)
class Settings:
    colour: str = "red"

def make(job, tell):
    source, graph = job.source()
    tell(f"copying in {job.variant.settings.colour}")
    shutil.copy(source, job.target)
    return like(graph)

EXPORTER = Exporter(
    name="toy",
    makes={"toy": ("fp32", "fp16")},
    file="model.toy",
    key=lambda spec, side, variant, below: digest_of("toy", below.key, variant.settings.colour),
    job=make,
    complete=lambda spec, variant: replace(variant, settings=variant.settings or Settings()),
    needs=lambda spec, sides, variant: [(Variant("onnx", variant.precision), sides)],
    gate_in_child=True,
    choices=Choices(Settings, lambda variant: {"colour": variant.settings.colour}),
)
RUNTIME = Runtime(
    "toy", "toy", ("fp32",), ("cpu",), lambda device: Availability(True, "toy 1"), open_onnx
)
"""
POINTS = {
    "clipperf.exporter": {"toy": "toy_exporter:EXPORTER"},
    "clipperf.runtime": {"toy": "toy_exporter:RUNTIME"},
}


def test_an_exporter_from_outside_makes_what_is_profiled(
    install: Install, cli: Cli, tiny: ModelSpec, checkpoints: Path, home: Path, tmp_path: Path
) -> None:
    install("toy_exporter", TOY, POINTS, str(checkpoints))
    image = (sample.NAME, "--tower", "image", "--runtime", "toy")
    done = cli("export", *image, check=True)
    assert "exported image" in done.stdout and "image/model.toy" in done.stdout
    assert "parity ok" in done.stdout and "image tower: copying in red" in done.stderr
    (folder,) = [path for path, found in store.find_artifacts() if found.runtime == "toy"]
    assert_usable(folder)
    assert folder.name == "toy-fp32"
    assert store.read_manifest(folder).towers[0].options == {"colour": "red"}
    assert "up to date" in cli("export", *image, check=True).stdout
    out = tmp_path / "result.json"
    cli("profile", *image, "--quick", "--batch", 1, "--json", out, check=True)
    rows = json.loads(out.read_text())["measurements"]
    assert ("toy", "ok") in {(row["cell"]["runtime"], row["status"]) for row in rows}
    said = cli("inspect", folder, check=True).stdout
    assert re.search(r"runs here +yes", said) and "image: size" in said
    refused = cli("export", *image, "--batch", "1:2:4")
    assert "--batch is for TensorRT engines: add --runtime trt or trt-rtx" in refused.stderr
    refused = cli("export", *image, "--precision", "int8")
    assert "no precision 'int8' for toy; choose from fp32, fp16" in refused.stderr
    refused = cli("export", sample.NAME, "--runtime", "tort")
    assert "export to onnx, openvino, trt, trt-rtx, toy or best" in refused.stderr


# --- clipperf's own ------------------------------------------------------------------------


def test_the_file_of_an_exporter_bears_its_name() -> None:
    assert EXPORTERS.own() == ["onnx", "openvino", "quantized", "tensorrt"]
    assert all(EXPORTERS.get(name).name == name for name in EXPORTERS.own())


def test_nothing_is_made_by_two() -> None:
    made = [(runtime, precision) for _, runtime, precision in OWN]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(("exporter", "runtime", "precision"), OWN)
def test_every_variant_comes_from_the_weights_in_the_end(
    exporter: Exporter, runtime: str, precision: str
) -> None:
    variant = Variant(runtime, precision)
    assert exporter_of(variant) is exporter
    turns = 0
    while needed := exporter_of(variant).needs(SPEC, ("text",), variant):
        assert all("text" in sides for _, sides in needed)
        variant, turns = needed[0][0], turns + 1
    assert find(variant.runtime, variant.precision) is EXPORTERS.get("onnx")
    assert turns == {"onnx": 0, "quantized": 1, "openvino": 1}.get(
        exporter.name, 2 if precision in ("int8", "fp8") else 1
    )
    assert key_of(SPEC, "one", "text", variant) != key_of(SPEC, "two", "text", variant)


def test_what_runtimes_load_is_made_by_somebody() -> None:
    for name in contract.RUNTIMES.own():
        runtime = contract.get(name)
        for precision in runtime.precisions if runtime.artifact else ():
            row = Variant(name, precision).row
            assert find(runtime.artifact, precision) or find(runtime.artifact, row.graph)


def test_a_runtime_that_nothing_is_made_for_is_told_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        exporter_of(Variant("tort"))
    assert str(caught.value) == "--runtime tort: export to onnx, openvino, trt, trt-rtx or best"


@pytest.mark.parametrize(
    ("runtime", "precision", "options", "said"),
    [
        ("onnx", "fp32", {"--margin": 1.0}, "--margin is for --precision int8 of onnx or openvino"),
        ("openvino", "int8w", {"--calibrate": "x"}, "--calibrate is for --precision int8 of onnx"),
        ("trt", "int8", {"--calibrate": "x"}, "--calibrate is for --precision int8 of onnx"),
        ("onnx", "int8", {"--batch": (1, 2, 3)}, "--batch is for TensorRT engines: add --runtime"),
        ("openvino", "fp16", {}, "no precision 'fp16' for openvino; choose from fp32, bf16, int8w"),
    ],
)
def test_options_of_another_exporter_are_refused(
    runtime: str, precision: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(Variant(runtime, precision), options)
    assert said in str(caught.value)
    if options:
        assert chosen(Variant(runtime, precision), options, strict=False)
        assert chosen(Variant(runtime, precision), dict.fromkeys(options))


def test_samples_fix_the_scales_of_onnx_alone() -> None:
    made = {
        runtime: chosen(Variant(runtime, "int8"), {"--calibrate": "sample"}).precision
        for runtime in ("onnx", "openvino")
    }
    assert made == {"onnx": "int8-static", "openvino": "int8"}


@pytest.mark.parametrize(("exporter", "runtime", "precision"), OWN)
def test_a_job_crosses_to_another_process_as_it_is(
    exporter: Exporter, runtime: str, precision: str
) -> None:
    variant = chosen(Variant(runtime, precision, "uint8", True), {})
    job = Job(exporter.name, SPEC, "image", variant, "f", "f/m", ("a", "b"), 2, 0.5)
    assert job_from_json(json.loads(json.dumps(to_json(job)))) == (exporter, job)


def test_what_a_build_found_out_is_kept_and_read_out(sample_artifact: Path) -> None:
    manifest = store.read_manifest(sample_artifact)
    cost = Quantization(15, ("a", "b"), "fp16", 24, 0.994, 0.25)
    tower = replace(manifest.towers[0], first_token=7, weight_bits=8, quantization=cost)
    told = json.loads(json.dumps(to_json(replace(manifest, towers=(tower,)))))
    (read,) = from_json(Manifest, told).towers
    assert read == tower
    assert read.findings == {
        "first token": "taken to be 7, not read",
        "layers": "15",
        "kept in fp16": "a, b",
        "samples": "24",
        "min cosine": "0.99400",
        "points lost": "0.25",
        "weight bits": "8",
    }
    noise = replace(tower, first_token=None, weight_bits=None)
    noise = replace(noise, quantization=replace(cost, kept=(), points_lost=None))
    assert list(noise.findings) == ["layers", "kept in fp16", "samples", "min cosine"]
    assert noise.findings["kept in fp16"] == "none"
    assert not replace(noise, quantization=None).findings


# --- no second way -------------------------------------------------------------------------


def test_the_command_parses_and_calls() -> None:
    (function,) = [
        node
        for node in ast.parse(inspect.getsource(export)).body
        if isinstance(node, ast.FunctionDef) and node.name == "command"
    ]
    assert function.end_lineno is not None
    assert function.end_lineno - function.body[0].lineno < 60


def test_towers_are_described_in_one_place_and_its_callers_name_no_exporter() -> None:
    describing, importing = set(), set()
    for path in (ROOT / "clipperf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == Artifact.__name__:
                describing.add(path.name)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "clipperf.export.exporters"
            ):
                importing.add(path.name)
    assert (describing, importing) == ({"make.py"}, set())
