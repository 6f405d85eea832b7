"""The slim environment: its Dockerfile, as far as that goes without Docker, and what runs in it.

What `RUN` says is run here, on what `COPY` names, so that the environment is the image's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import dockerfiles
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import clipperf
from clipperf.system import extras

MOST_MB = 350
"""Of a million bytes."""
OFFLINE = ("No matching distribution", "Could not find a version", "Temporary failure")
TEXTS = ["a red apple", "été &amp; a caf\N{LATIN SMALL LETTER E WITH ACUTE}", ""]
LACKS = {"torch", "torchvision", "open_clip", "onnx", "onnxscript", "nvidia", "sympy", "pip"}

EMBED = """
import sys
import numpy as np
import clipperf
with clipperf.load(sys.argv[1], verify=True) as model:
    images = model.encode_images([sys.argv[2]])
    texts = model.encode_texts({texts!r})
np.savez(sys.argv[3], images=images, texts=texts)
"""


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the image holds."""
    root = tmp_path_factory.mktemp("slim")
    build, _ = dockerfiles.stages("Dockerfile")
    for names, where in dockerfiles.copied(build):
        target = root / where.removeprefix("/")
        for name in names:
            assert dockerfiles.is_sent(name)
            target.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                leave = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, target, dirs_exist_ok=True, ignore=leave)
            else:
                shutil.copy(ROOT / name, target)
    arguments = dict(rest.split("=") for name, rest in build if name == "ARG")
    for name, rest in build:
        if name == "RUN":
            line = rest.replace("/src", f"{root}/src").replace("/opt", f"{root}/opt")
            environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, **arguments}
            done = subprocess.run(
                ["sh", "-ec", line], env=environment, capture_output=True, text=True, timeout=900
            )
            if any(sign in done.stderr for sign in OFFLINE):
                pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
            assert done.returncode == 0, done.stderr
    return root / "opt" / "clipperf"


def run(slim: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A program of the environment, with nothing of this one's."""
    environment = {"PATH": f"{slim}/bin:/usr/bin:/bin", "HOME": str(slim), **more}
    program = str(slim / "bin" / command[0])
    return subprocess.run(
        [program, *command[1:]],
        env=environment,
        cwd=slim,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_it_is_small_and_holds_nothing_heavy(slim: Path) -> None:
    (packages,) = slim.glob("lib/python3.*/site-packages")
    there = {path.name for path in packages.iterdir()}
    assert {"clipperf", "onnxruntime", "numpy"} <= there
    assert not LACKS & there
    used = sum(path.lstat().st_blocks * 512 for path in slim.rglob("*") if not path.is_symlink())
    assert used <= MOST_MB * 10**6


@pytest.mark.slow
def test_it_embeds_as_the_whole_one_does(slim: Path, sample_artifact: Path, tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    Image.effect_mandelbrot((90, 70), (-2, -1.5, 1, 1.5), 60).convert("RGB").save(image)
    script = EMBED.format(texts=TEXTS)
    given = (str(sample_artifact), str(image), str(tmp_path / "found.npz"))
    done = run(slim, "python", "-Ic", script, *given)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    with clipperf.load(sample_artifact) as model:
        np.testing.assert_allclose(found["images"], model.encode_images([image]), atol=1e-4)
        np.testing.assert_allclose(found["texts"], model.encode_texts(TEXTS), atol=1e-4)


INSTEAD = "pip uninstall -y onnxruntime && " if extras.has_gpu_build() else ""
"""The extra brings another build of it, and the two overwrite each other."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--version", 0, "clipperf "),
        ("doctor", 0, "pip install 'clipperf[export]'"),
        ("models --search ViT-H-14", 0, "ViT-H-14"),
        ("export ViT-H-14", 2, f"is not installed: {INSTEAD}pip install 'clipperf[export]'"),
        ("eval clipperf-sample", 2, "pip install 'clipperf[export]'"),
        ("profile --runtime openvino", 2, "pip install 'clipperf[openvino]'"),
    ],
)  # fmt: skip
def test_commands_work_or_name_the_extra(slim: Path, command: str, code: int, said: str) -> None:
    done = run(slim, "clipperf", *command.split(), CLIPPERF_HOME=str(slim / "home"))
    assert done.returncode == code, done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


def test_the_image_has_the_environment_and_no_rights() -> None:
    build, last = dockerfiles.stages("Dockerfile")
    assert build[0][1] == "python:3.12-slim AS build" and last[0][1] == "python:3.12-slim"
    assert [rest for name, rest in last if name == "COPY"] == [
        "--from=build /opt/clipperf /opt/clipperf"
    ]
    assert dict(last)["USER"] == "clipperf"
    assert dockerfiles.commands(build)[0] == [
        *("sh", "/src/tools/slim_env.sh", "/opt/clipperf", "$RUNTIME")
    ]


def test_the_commands_in_its_head_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    head = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "docker " in line]
    said = [line.removeprefix("#").strip() for line in head]
    assert said[0].startswith("docker build") and said[1].startswith("docker run")
    for line in said[:2]:
        assert f"\n{line}\n" in page
    words = shlex.split(said[1])
    assert (
        words[words.index("--publish") + 1].split(":")[1]
        == dict(dockerfiles.stages("Dockerfile")[-1])["EXPOSE"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_an_environment_that_cannot_be_made_whole_is_not_left(tmp_path: Path, there: bool) -> None:
    """pip fails without an index, once the environment is there."""
    if there:
        (tmp_path / "made").mkdir()
    done = subprocess.run(
        ["sh", str(ROOT / "tools" / "slim_env.sh"), "made"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "error: made was not made"
    assert "No matching distribution" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["made"] if there else [])
    assert not there or not list((tmp_path / "made").iterdir())


@pytest.mark.slow
def test_the_size_that_is_said_is_in_millions_of_bytes(tmp_path: Path) -> None:
    """`python` stands for one whose environment is two files of a known size."""
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\nhead -c 5000000 /dev/zero > "$3/zeros"\n'
        'printf "#!/bin/sh\\n" > "$3/bin/python"\nchmod +x "$3/bin/python"\n'
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", str(ROOT / "tools" / "slim_env.sh"), "made"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(fake)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("made: 5 MB\n", 0), done.stderr


@pytest.mark.parametrize(("words", "said"), [((), "usage:"), (("full",), "is not empty")])
def test_the_script_overwrites_nothing(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    script = str(ROOT / "tools" / "slim_env.sh")
    done = subprocess.run(["sh", script, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "full" / "mine").read_text()) == (2, "x")
    assert said in done.stderr
