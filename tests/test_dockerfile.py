"""Dockerfile.cuda, read as Docker reads it, against what pyproject.toml allows."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import dockerfiles
import pytest
from dockerfiles import commands
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
FILE = "Dockerfile.cuda"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def stages() -> list[list[dockerfiles.Instruction]]:
    return dockerfiles.stages(FILE)


def installed() -> list[str]:
    """What pip installs, as it is written."""
    words = [w for w in commands(stages()[0]) if w[:2] == ["pip", "install"]]
    return [word for command in words for word in command[2:] if not word.startswith("-")]


def extras() -> list[str]:
    """The extras that the project itself is installed with."""
    (own,) = [word for word in installed() if word.startswith(".")]
    return own.partition("[")[2].rstrip("]").split(",")


def allowed() -> dict[str, SpecifierSet]:
    """What the dependencies and the image's extras allow, by package."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras():
        lines += PROJECT["optional-dependencies"][extra]
    wanted = [Requirement(line) for line in lines]
    linux = {"sys_platform": "linux", "platform_machine": "x86_64"}
    return {r.name: r.specifier for r in wanted if r.marker is None or r.marker.evaluate(linux)}


def test_the_image_has_the_extra_and_pins_what_pyproject_allows() -> None:
    assert "trt" in extras()
    pins = [Requirement(word) for word in installed() if not word.startswith(".")]
    assert {"tensorrt-cu13", "torch", "onnxruntime-gpu"} <= {pin.name for pin in pins}
    for pin in pins:
        ((operator, version),) = [(s.operator, s.version) for s in pin.specifier]
        assert operator == "==", pin
        assert pin.name in allowed(), f"{pin.name} is no dependency of the image's extras"
        assert allowed()[pin.name].contains(version), f"{pin} against {allowed()[pin.name]}"


def test_cuda_is_the_one_that_the_packages_are_built_for() -> None:
    (cuda,) = [rest for name, rest in dockerfiles.instructions(FILE) if name == "ARG"]
    major = cuda.removeprefix("CUDA=").split(".")[0]
    built_for = {m[1] for line in allowed() if (m := re.search(r"-cu(\d+)$", line))}
    assert built_for == {major}
    assert {stage[0][1].split()[0] for stage in stages()} == {
        "nvidia/cuda:${CUDA}-base-ubuntu24.04"
    }


def test_python_is_one_that_the_package_supports() -> None:
    named = {
        m for _, rest in dockerfiles.instructions(FILE) for m in re.findall(r"python(3\.\d+)", rest)
    }
    assert len(named) == 1
    assert SpecifierSet(PROJECT["requires-python"]).contains(named.pop())


def test_only_the_environment_reaches_the_last_stage() -> None:
    build, last = stages()
    assert [name for name, _ in build].count("COPY") == 2
    assert [rest for name, rest in last if name == "COPY"] == [
        "--from=build /opt/clipperf /opt/clipperf"
    ]
    assert not [c for c in commands(last) if c[0] == "pip"]
    for stage in (build, last):  # package lists are removed in the layer that fetched them
        (fetch,) = [rest for name, rest in stage if name == "RUN" and "apt-get update" in rest]
        assert "rm -rf /var/lib/apt/lists/*" in fetch
        assert "--no-install-recommends" in fetch


def test_it_runs_clipperf_without_rights_and_keeps_its_cache() -> None:
    last = dict(stages()[-1])
    assert json.loads(last["ENTRYPOINT"]) == ["clipperf"]
    assert "clipperf" in PROJECT["scripts"]
    assert last["USER"] == "clipperf"
    assert last["VOLUME"] == "/cache"
    assert "CLIPPERF_HOME=/cache/" in last["ENV"]
    assert ["install", "--directory", "--owner", "clipperf", "/cache"] in commands(stages()[-1])
    names = [name for name, _ in stages()[-1]]
    assert names.index("USER") < names.index("ENTRYPOINT")


@pytest.mark.parametrize("path", ["pyproject.toml", "README.md", "LICENSE", "clipperf"])
def test_what_it_copies_is_not_ignored(path: str) -> None:
    taken = [name for names, _ in dockerfiles.copied(stages()[0]) for name in names]
    assert path in {name.removeprefix("./") for name in taken}
    assert (ROOT / path).exists()
    assert dockerfiles.is_sent(path)


def test_the_image_that_runs_has_both_compilers_of_torch_compile() -> None:
    """g++ for kernels of the CPU, gcc for Triton's; each with the headers that it takes."""
    (last,) = stages()[-1:]
    words = {word for command in commands(last) if "apt-get" in command for word in command}
    assert {"gcc", "g++", "libc6-dev", "libpython3.12-dev"} <= words
