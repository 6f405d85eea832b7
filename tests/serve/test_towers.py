"""What `load` checks before it believes an artifact's files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TIMEOUT_S

import clipperf
from clipperf.errors import ArtifactError, ClipperfError
from clipperf.inspect.artifact import inspect
from clipperf.system import files

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copied(sample_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_artifact, tmp_path / "copy"))


def rewrite(folder: Path, change: Change, name: str = "manifest.json") -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def test_small_files_are_checked_in_full(copied: Path) -> None:
    """A mean of 0 gives other embeddings and no error anywhere else."""
    rewrite(copied, lambda data: data.update(mean=[0.0, 0.0, 0.0]), "preprocess.json")
    with pytest.raises(ArtifactError, match=r"copy/preprocess\.json was altered"):
        clipperf.load(copied)
    settings = (copied / "preprocess.json").read_bytes()
    rewrite(copied, lambda data: data["files"].pop("preprocess.json"))
    with pytest.raises(ArtifactError, match=r"copy/preprocess\.json was altered"):
        clipperf.load(copied)
    assert settings == (copied / "preprocess.json").read_bytes()


@pytest.mark.parametrize("name", ["tokenizer.json", "clipperf_tokenizer.json"])
def test_tokenizers_are_checked_in_full(copied: Path, name: str) -> None:
    text = (copied / name).read_text()
    (copied / name).write_text(text.replace("right", "left").replace('"apple</w>"', '"appel</w>"'))
    with pytest.raises(ArtifactError, match=f"copy/{name} was altered"):
        clipperf.load(copied)


def moved(data: dict[str, Any], name: str) -> None:
    tower = data["towers"][0]
    tower["path"], tower["files"] = name, dict.fromkeys([name], "0" * 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: moved(data, "../other/model.onnx"), "no file inside the folder"),
        (lambda data: moved(data, "/etc/passwd"), "no file inside the folder"),
        (lambda data: moved(data, "image/../../model.onnx"), "no file inside the folder"),
        (lambda data: moved(data, "image\\..\\..\\model.onnx"), "no file inside the folder"),
        (lambda data: moved(data, "a\0b"), "no file inside the folder"),
        (lambda data: moved(data, ""), "no file inside the folder"),
        (lambda data: data["files"].update({"../x": "0" * 64}), "no file inside the folder"),
        (lambda data: data["towers"][0].update(path="text/model.onnx"), "not one of its files"),
        (lambda data: data["towers"][0].update(side="images"), "side"),
        (lambda data: data["towers"][0].update(side="text"), "two towers of one side"),
        (lambda data: data["towers"][0].update(inputs=[]), "one input and one output"),
        (lambda data: data["towers"][0]["inputs"][0].update(dtype="int3"), "takes 'int3'"),
    ],
)
def test_what_a_manifest_cannot_say_is_refused(copied: Path, change: Change, said: str) -> None:
    rewrite(copied, change)
    with pytest.raises(ArtifactError, match=f"{said}.*export the model again"):
        clipperf.load(copied)
    if "int3" not in said:
        assert any(said in problem for problem in inspect(copied).problems)


def external(folder: Path, location: Path) -> None:
    """Move the weights of the image tower to a file of another place, as ONNX can say it."""
    import onnx

    path = folder / "image" / "model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.data")
    location.parent.mkdir(exist_ok=True)
    (path.parent / "weights.data").rename(location)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"../../{location.parent.name}/{location.name}"
    path.write_bytes(model.SerializeToString())

    def change(data: dict[str, Any]) -> None:
        tower = data["towers"][0]
        tower["disk_bytes"] = path.stat().st_size
        tower["files"] = {tower["path"]: files.sha256_file(path)}

    rewrite(folder, change)


def test_external_data_of_another_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    external(copied, tmp_path / "elsewhere" / "weights.data")
    problems = inspect(copied).problems
    assert any("which is not in its folder" in problem for problem in problems), problems
    with pytest.raises(ClipperfError):
        clipperf.load(copied)


def test_verify_reads_the_towers_and_tries_them(copied: Path) -> None:
    import onnx

    with clipperf.load(copied, verify=True) as model:
        assert model.encode_texts(["a"]).shape == (1, model.embed_dim)
    path = copied / "image" / "model.onnx"
    largest = max(onnx.load(path).graph.initializer, key=lambda tensor: len(tensor.raw_data))
    path.write_bytes(path.read_bytes().replace(largest.raw_data, bytes(len(largest.raw_data))))
    clipperf.load(copied).close()  # equal in size
    with pytest.raises(ArtifactError, match=r"copy/ is damaged: image/model\.onnx was altered"):
        clipperf.load(copied, verify=True)
    rewrite(
        copied, lambda data: data["towers"][0]["files"].update(
            {"image/model.onnx": files.sha256_file(path)}
        )
    )  # fmt: skip
    said = r"the image tower of .*copy fails its self-test: the same embedding for 4 different"
    with pytest.raises(ArtifactError, match=said):
        clipperf.load(copied, verify=True)


def test_mutated_files_are_refused_or_harmless(sample_artifact: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/mutated_files.py", "--count", "150", "--seed", "1",
         "--folder", sample_artifact],
        capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^ *([a-z ]+?) +(\d+)$", done.stdout, re.MULTILINE))
    assert int(counts["refused"]) > 60, done.stdout


def test_a_short_soak_stays_flat(sample_artifact: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/soak.py", "--calls", "600", "--largest", "8", "--most", "0.1",
         "--folder", sample_artifact],
        capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    mib = dict(re.findall(r"^ *(opened|closed) +(\S+) MiB$", done.stdout, re.MULTILINE))
    assert float(mib["closed"]) < float(mib["opened"])
