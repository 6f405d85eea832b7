"""What a base install lacks: every import of it is some extra's, and is told so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from clipperf.system import extras

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TENSORRT = {"tensorrt", "tensorrt_rtx", "cuda", "pycuda", "onnxruntime_ep_nv_tensorrt_rtx"}
"""What `engines.tensorrt` and the GPU providers import, and have words of their own for."""
TRITON = {"triton_python_backend_utils"}
"""Where Triton starts Python, it brings this."""


def names(requirements: list[str]) -> set[str]:
    return {Requirement(text).name.lower().replace("_", "-") for text in requirements}


def imported(path: Path) -> set[str]:
    """The first names of the modules that a file imports, TYPE_CHECKING left out."""
    found: set[str] = set()
    trees: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while trees:
        node = trees.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        trees += ast.iter_child_nodes(node)
    return found


def test_every_import_is_of_the_base_or_of_an_extra() -> None:
    brought_by = packages_distributions()
    base = names(PROJECT["dependencies"])
    unknown = set()
    for path in sorted((ROOT / "clipperf").rglob("*.py")):
        for module in imported(path) - sys.stdlib_module_names - {"clipperf"}:
            distributions = {name.lower().replace("_", "-") for name in brought_by.get(module, ())}
            if module in TENSORRT | TRITON | extras.EXTRAS.keys() or distributions & base:
                continue
            unknown.add(f"{path.relative_to(ROOT)}: {module}")
    assert not unknown


def test_an_extra_brings_what_it_is_said_to() -> None:
    brought_by = packages_distributions()
    given = PROJECT["optional-dependencies"]
    for module, extra in extras.EXTRAS.items():
        distributions = brought_by.get(module)
        if distributions is None:  # not installed here
            continue
        wanted = {name.lower().replace("_", "-").removesuffix("-gpu") for name in distributions}
        assert wanted & names(given[extra]), f"{extra} does not bring {module}"


def test_the_build_for_cpus_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What brings ONNX Runtime's build for GPUs must not lie over the one for CPUs."""
    versions = {extras.CPU_BUILD: "1.32"}
    monkeypatch.setattr(extras, "has_gpu_build", lambda: True)
    monkeypatch.setattr("clipperf.system.env.version_of", versions.get)
    said = "pip uninstall -y onnxruntime && pip install 'clipperf[export]'"
    assert (extras.bring("torch"), extras.install("openvino")) == (
        said,
        "pip install 'clipperf[openvino]'",
    )
    versions[extras.GPU_BUILD] = "1.31"
    assert extras.bring("torch") == "pip install 'clipperf[export]'"


@pytest.mark.parametrize(
    ("system", "machine", "brought"),
    [
        ("linux", "x86_64", extras.GPU_BUILD),
        ("win32", "AMD64", extras.GPU_BUILD),
        ("linux", "aarch64", extras.CPU_BUILD),
        ("darwin", "arm64", extras.CPU_BUILD),
        ("darwin", "x86_64", extras.CPU_BUILD),
    ],
)
def test_nothing_is_taken_away_where_the_extra_brings_the_same_build(
    system: str, machine: str, brought: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the project's own requirements say which platform gets which."""
    given = [Requirement(text) for text in PROJECT["optional-dependencies"]["export"]]
    where = {"sys_platform": system, "platform_machine": machine}
    builds = [each.name for each in given if each.name in (extras.GPU_BUILD, extras.CPU_BUILD)
              and each.marker is not None and each.marker.evaluate(where)]  # fmt: skip
    assert builds == [brought]
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("clipperf.system.env.version_of", {extras.CPU_BUILD: "1.32"}.get)
    said = "pip install 'clipperf[export]'"
    first = "pip uninstall -y onnxruntime && " if brought == extras.GPU_BUILD else ""
    assert extras.bring("torch") == f"{first}{said}"


def test_a_missing_module_is_told_with_the_command_that_brings_it() -> None:
    error = extras.told(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    assert str(error) == (
        "this needs torch, which is not installed: pip install 'clipperf[export]'"
    )
    assert extras.told(ModuleNotFoundError("No module named 'x'", name="x")) is None
    assert extras.told(ImportError("cannot import name 'y' from 'torch'", name="torch")) is None
    assert extras.told(ValueError("torch")) is None


WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (("export", "clipperf-sample"), "torch"),
        (("inspect", "model.onnx"), "onnx"),
    ],
)
def test_commands_name_the_extra(tmp_path: Path, command: tuple[str, ...], module: str) -> None:
    """In the command's own process and in its children."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(hidden={"torch", "onnx"}))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    done = subprocess.run(
        [sys.executable, "-m", "clipperf", *command],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}", "CLIPPERF_HOME": "home"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    said = f"error: this needs {module}, which is not installed: pip install 'clipperf[export]'"
    assert re.fullmatch(rf"(.*\n)*{re.escape(said)}\n", done.stderr), done.stderr
