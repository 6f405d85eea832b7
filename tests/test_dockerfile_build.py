"""Both Dockerfiles, followed as far as a build can be without Docker.

What an instruction names is looked for where it comes from (git, the package lists of apt,
pyproject.toml), and commands are run where they need no base image. What `Dockerfile` runs is run
whole in `test_slim.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dockerfiles
import pytest
from conftest import ROOT
from dockerfiles import Instruction, commands
from packaging.requirements import Requirement

FILES = ("Dockerfile", "Dockerfile.cuda")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OFFLINE = ("No matching distribution", "Could not find a version", "Temporary failure")
PYTHON = re.compile(r"python3\.\d+")
ARGUMENTS = {"json": ("ENTRYPOINT", "CMD"), "path": ("WORKDIR", "VOLUME")}
SHELL_OWN = {"PATH"}
"""What every base image sets."""

STAGES = [(name, number) for name in FILES for number in range(len(dockerfiles.stages(name)))]


def stage(name: str, number: int) -> list[Instruction]:
    return dockerfiles.stages(name)[number]


def words(given: list[Instruction], instruction: str) -> Iterator[list[str]]:
    """The arguments of each such instruction of a stage."""
    return (shlex.split(rest) for name, rest in given if name == instruction)


def apt_packages(given: list[Instruction]) -> list[str]:
    """What a stage installs with apt."""
    lines = [c for c in commands(given) if c[:2] == ["apt-get", "install"]]
    return [word for line in lines for word in line[2:] if not word.startswith("-")]


def tracked(path: str) -> list[str]:
    """The files under a path that git has."""
    done = subprocess.run(["git", "ls-files", "--", path], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the sources are no git checkout")
    return done.stdout.splitlines()


# --- what is written -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_instruction_is_one_that_docker_knows_and_can_read(name: str) -> None:
    found = dockerfiles.instructions(name)
    assert found[0][0] in ("FROM", "ARG") and found[-1][0] in ("ENTRYPOINT", "CMD")
    known: set[str] = set(SHELL_OWN)
    of_file: set[str] = set()
    stages: list[str] = []
    for instruction, rest in found:
        used = set(re.findall(r"\$\{?(\w+)", rest))
        if instruction == "FROM":
            assert used <= of_file, "FROM sees the ARG lines before the first stage alone"
            assert re.fullmatch(r"\S+:\S+( AS [a-z]+)?", rest), "an image without a tag changes"
            stages.append(rest.partition(" AS ")[2])
            known = set(SHELL_OWN)
            continue
        assert used <= known, f"{instruction} {rest}: nobody has set {used - known}"
        if instruction == "ARG":
            assert re.fullmatch(r"\w+=\S+", rest), "without a default the build needs an option"
            (known if stages else of_file).add(rest.partition("=")[0])
        elif instruction == "ENV":
            assert all(re.fullmatch(r"\w+=\S+", word) for word in shlex.split(rest))
            known |= {word.partition("=")[0] for word in shlex.split(rest)}
        elif instruction == "COPY":
            sources = shlex.split(rest)[:-1]
            if sources[0].startswith("--from="):
                assert sources.pop(0).partition("=")[2] in stages[:-1]
            assert sources and not any(source.startswith("-") for source in sources)
            target = shlex.split(rest)[-1]
            assert len(sources) == 1 or target.endswith("/"), "several need a folder"
        elif instruction in ARGUMENTS["json"]:  # else a shell runs it, and takes its signals
            argv = json.loads(rest)
            assert argv and all(isinstance(word, str) for word in argv)
        elif instruction in ARGUMENTS["path"]:
            assert rest.startswith("/")
        elif instruction == "EXPOSE":
            assert 0 < int(rest) < 2**16
        elif instruction == "STOPSIGNAL":
            assert hasattr(signal, rest)
        else:
            assert instruction in ("RUN", "USER"), f"{instruction} is not known"


@pytest.mark.parametrize(("name", "number"), STAGES)
def test_a_shell_can_read_what_is_run(name: str, number: int) -> None:
    for instruction, rest in stage(name, number):
        if instruction == "RUN":
            assert subprocess.run(["sh", "-n", "-c", rest], capture_output=True).stderr == b""
            assert "&&" in rest or len(commands([(instruction, rest)])) == 1
            assert ";" not in rest, "what fails in the middle would pass"


@pytest.mark.parametrize("name", FILES)
def test_the_user_is_made_before_it_is_used(name: str) -> None:
    last = dockerfiles.stages(name)[-1]
    made = {line[-1] for line in commands(last) if line[0] == "useradd"}
    order = [(i, rest) for i, (name, rest) in enumerate(last) if name == "USER"]
    assert [user for _, user in order] == sorted(made)
    runs = [i for i, (instruction, _) in enumerate(last) if instruction == "RUN"]
    assert max(runs) < order[0][0], "as root"


def test_the_interpreter_of_the_environment_is_in_both_stages() -> None:
    """A virtual environment is links to the Python that made it."""
    build, last = dockerfiles.stages("Dockerfile.cuda")
    (made,) = [line for line in commands(build) if line[1:3] == ["-m", "venv"]]
    assert made[0] in apt_packages(build) and made[0] in apt_packages(last)
    assert f"{made[0]}-venv" in apt_packages(build)
    assert f"lib{made[0]}-dev" in apt_packages(last), "headers for what torch.compile builds"
    build, last = dockerfiles.stages("Dockerfile")
    assert build[0][1].split()[0] == last[0][1].split()[0]


# --- where it comes from -------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_in_git_and_is_all_that_is_sent(name: str) -> None:
    copied = [
        source.removeprefix("./")
        for number in range(len(dockerfiles.stages(name)))
        for sources, _ in dockerfiles.copied(stage(name, number))
        for source in sources
    ]
    assert {"pyproject.toml", "clipperf"} <= set(copied)
    for source in copied:
        files = tracked(source)
        assert files, f"{source} is not in git: a fresh checkout does not build"
        assert dockerfiles.is_sent(source)
    # What the package is built from, and nothing that git does not have of it.
    for named in (PROJECT["readme"], *PROJECT["license-files"]):
        assert any(named == source or named.startswith(f"{source}/") for source in copied)
    assert not dockerfiles.is_sent("clipperf/__pycache__")
    assert not dockerfiles.is_sent("tests") and not dockerfiles.is_sent(".git")


@pytest.mark.parametrize(("name", "number"), STAGES)
def test_apt_has_the_packages(name: str, number: int) -> None:
    """In this machine's lists, where a package of another Python stands for the base image's."""
    packages = apt_packages(stage(name, number))
    if not packages:
        assert not any("apt" in rest for what, rest in stage(name, number) if what == "RUN")
        return
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt here")

    def said(package: str) -> str:
        done = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True)
        return done.stdout

    default = PYTHON.search(said("python3"))
    if default is None:
        pytest.skip("apt has no package lists here (apt-get update)")
    for package in packages:
        here = PYTHON.sub(default[0], package)
        assert said(here).startswith(here), f"apt knows no {here}"


@pytest.mark.parametrize("name", FILES)
def test_extras_and_the_builders_requirements_exist(name: str) -> None:
    build = dockerfiles.stages(name)[0]
    named = [line[0].partition("=") for line in words(build, "ARG")]
    extras = {value for key, _, value in named if key == "RUNTIME"}
    for line in commands(build):
        if line[:2] == ["pip", "install"]:
            extras |= set(Requirement(line[-1].replace(".", "clipperf", 1)).extras)
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])
    script = (ROOT / "tools" / "slim_env.sh").read_text()
    assert set(re.findall(r"\$\{2:-(\w+)\}", script)) <= set(PROJECT["optional-dependencies"])


# --- what runs without a base image --------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Dockerfile.cuda builds in its first stage, of the project alone.

    Its lines are run but for apt's, with this Python, and pip without the packages that the project
    needs: they weigh gigabytes, and their names and versions are held against pyproject.toml.
    """
    root = tmp_path_factory.mktemp("image")
    build = stage("Dockerfile.cuda", 0)
    here = {"PATH": os.environ["PATH"], "HOME": str(root)}
    at = root
    for instruction, rest in build:
        if instruction == "WORKDIR":
            at = root / rest.removeprefix("/")
            at.mkdir(parents=True)
        elif instruction == "ENV":
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                value = value.replace("$PATH", here["PATH"]).replace("/opt/", f"{root}/opt/", 1)
                here[key] = value
        elif instruction == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                for file in tracked(source):
                    inner = Path(file).relative_to(source) if file != source else Path(source)
                    place = at / target / inner
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, place)
        elif instruction == "RUN" and "apt-get" not in rest:
            for line in commands([(instruction, rest)]):
                line = [word.replace("/opt/", f"{root}/opt/") for word in line]
                if PYTHON.fullmatch(line[0]):
                    line[0] = sys.executable
                if line[:2] == ["pip", "install"]:
                    line = [*line[:2], "--no-deps", line[-1].partition("[")[0]]
                done = subprocess.run(
                    line, cwd=at, env=here, capture_output=True, text=True, timeout=300
                )
                if any(sign in done.stderr for sign in OFFLINE):
                    pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
                assert done.returncode == 0, done.stderr
    return root / "opt" / "clipperf"


@pytest.mark.slow
def test_the_image_holds_the_project_and_no_pip(environment: Path) -> None:
    (packages,) = environment.glob("lib/python3.*/site-packages")
    missing = [
        file
        for file in tracked("clipperf")
        if not (packages / file).is_file() and not file.endswith(".md")
    ]
    assert not missing, "in git, and not in the wheel that the image installs"
    assert not (packages / "pip").exists()
    assert not (environment / "bin" / "pip").exists()


@pytest.mark.slow
def test_the_image_starts_its_command(environment: Path, tmp_path: Path) -> None:
    """ENTRYPOINT with CMD, in the last stage's ENV; this environment's packages stand for its."""
    last = stage("Dockerfile.cuda", -1)
    run = dict(last)
    here = {"HOME": str(tmp_path)}
    for line in words(last, "ENV"):
        for word in line:
            key, _, value = word.partition("=")
            value = value.replace("/cache", str(tmp_path)).replace("$PATH", "/usr/bin:/bin")
            here[key] = value.replace("/opt/clipperf", str(environment))
    argv = [*json.loads(run["ENTRYPOINT"]), *json.loads(run["CMD"])]
    program = shutil.which(argv[0], path=here["PATH"])
    assert program == str(environment / "bin" / argv[0])
    beside = [path for path in sys.path if path.endswith("site-packages")]
    (packages,) = environment.glob("lib/python3.*/site-packages")
    here["PYTHONPATH"] = os.pathsep.join((str(packages), *beside))

    def ran(*command: str) -> str:
        done = subprocess.run(
            command, env=here, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import clipperf; print(*clipperf.__path__)"
    where = ran(str(environment / "bin" / "python"), "-c", code)
    assert where.strip() == str(packages / "clipperf")
    assert "trt-rtx" in ran(program, *argv[1:])


@pytest.mark.parametrize("name", FILES)
def test_users_and_folders_can_be_made(name: str, tmp_path: Path) -> None:
    """useradd in a tree of its own, and the folder for the caches as that user's."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("making a user needs root and useradd")
    (tmp_path / "etc").mkdir()
    for file in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / file).touch()
    shutil.copy("/etc/login.defs", tmp_path / "etc")
    last = dockerfiles.stages(name)[-1]
    for line in commands(last):
        if line[0] == "useradd":
            done = subprocess.run(
                ["useradd", "--prefix", str(tmp_path), *line[1:]], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        elif line[0] == "install":  # which knows the system's users by name alone
            owner = line.index("--owner") + 1
            given = [*line[:owner], "10001", *line[owner + 1 : -1], f"{tmp_path}{line[-1]}"]
            subprocess.run(given, check=True)
    fields = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    assert (fields[0], fields[2]) == ("clipperf", "10001")
    assert (tmp_path / fields[5].strip("/")).stat().st_uid == 10001
    volume = dict(last).get("VOLUME")
    if volume is not None:
        assert (tmp_path / volume.strip("/")).stat().st_uid == 10001
    assert dict(last)["WORKDIR"] in ("/srv", fields[5])
