"""What Dockerfile.cuda installs, resolved together by pip for the image's Python and platform."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import dockerfiles
import pytest
from conftest import ROOT
from dockerfiles import commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = (3, 12)
GLIBC = 39
"""Of Ubuntu 24.04: wheels for this version or an earlier one are taken."""

ON_NVIDIAS_INDEX = {"tensorrt-cu13": "tensorrt-cu13-bindings"}
"""What is a source package on the usual index, which fetches its libraries from NVIDIA's when it is
built; and the part of it that is on the usual one, in the same version."""


def image() -> list[str]:
    """What pip installs into the image, as the Dockerfile has it."""
    build = dockerfiles.stages("Dockerfile.cuda")[0]
    lines = [line for line in commands(build) if line[:2] == ["pip", "install"]]
    return [word for line in lines for word in line[2:] if not word.startswith("-")]


def requirements() -> list[Requirement]:
    """The same, with what the project itself asks for in place of it."""
    found: list[Requirement] = []
    for word in image():
        if not word.startswith("."):
            found.append(Requirement(word))
            continue
        lines = list(PROJECT["dependencies"])
        for extra in Requirement(word.replace(".", "clipperf", 1)).extras:
            lines += PROJECT["optional-dependencies"][extra]
        found += map(Requirement, lines)
    version = ".".join(map(str, PYTHON))
    there = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": version}
    return [each for each in found if each.marker is None or each.marker.evaluate(there)]


def pin(name: str) -> str:
    """The exact version that the Dockerfile names."""
    ((version,),) = [[s.version for s in Requirement(w).specifier] for w in image() if name in w]
    return version


def test_the_image_s_lines_are_read_whole() -> None:
    named = {each.name for each in requirements()}
    assert {"torch", "tensorrt-cu13", "cuda-bindings", "transformers", "numpy", "typer"} <= named
    assert f"python3.{PYTHON[1]}" in (ROOT / "Dockerfile.cuda").read_text()
    assert "ubuntu24.04" in (ROOT / "Dockerfile.cuda").read_text()
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+", pin("tensorrt-cu13"))


@pytest.mark.slow
def test_pip_resolves_what_the_image_installs(tmp_path: Path) -> None:
    """All of it in one resolution, but for what is on NVIDIA's own index, of which its bindings."""
    if sysconfig.get_platform() != "linux-x86_64":
        pytest.skip("pip evaluates markers for the machine that it runs on")
    asked = [str(each) for each in requirements() if each.name not in ON_NVIDIAS_INDEX]
    for name, part in ON_NVIDIAS_INDEX.items():
        asked.append(f"{part}=={pin(name)}")
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
    tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
            "--only-binary=:all:", "--target", str(tmp_path / "there"), "--report", str(report),
            "--python-version", ".".join(map(str, PYTHON)), "--implementation", "cp",
            *(word for tag in tags for word in ("--platform", tag)), *asked,
        ],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(report.read_text())["install"]
    found = {canonicalize_name(each["metadata"]["name"]): each for each in told}
    for word in image():
        if word.startswith("."):
            continue
        each = Requirement(word)
        name = ON_NVIDIAS_INDEX.get(each.name, each.name)
        assert found[canonicalize_name(name)]["metadata"]["version"] == pin(each.name)
    for each in requirements():  # what was left out is not there, all else as pyproject allows
        if each.name not in ON_NVIDIAS_INDEX:
            assert each.specifier.contains(
                found[canonicalize_name(each.name)]["metadata"]["version"]
            )
    wheels = [each["download_info"]["url"].rpartition("/")[2] for each in told]
    mine = [name for name in wheels if re.search(r"-cp3\d+-cp3\d+-", name)]
    assert mine and all("-cp312-cp312-" in name for name in mine), mine


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_NVIDIAS_INDEX)
def test_what_is_on_nvidias_index_alone(name: str) -> None:
    """Its source package is on the usual one; what it fetches can be seen where NVIDIA's is."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", name],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr[-1000:]
    assert pin(name) in re.findall(r"[\w.]+", listed.stdout), f"{name} {pin(name)} is on no index"
    pytest.skip(f"{name}=={pin(name)}: its libraries are on NVIDIA's own index alone")
