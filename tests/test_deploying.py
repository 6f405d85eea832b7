"""docs/deploying.md: every command and piece of code on it runs, on ports that are free here.

Not run, but held against what is: Docker's commands (`test_slim.py`), the installation of
transformers.js and the start of Triton, which `other_tools` does.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import other_tools
import pytest

from clipperf.models import sample
from clipperf.system.files import sha256_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
WIDTH = 192
"""That of the sample's embeddings."""

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def blocks(section: str, language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return found


@pytest.fixture(scope="module")
def folder(layouts_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run; what they lay out is in the store already."""
    folder = tmp_path_factory.mktemp("deploying")
    shutil.copytree(layouts_store, folder / "store")
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".png"))
        (folder / "photo.png").write_bytes(archive.read(name))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator:
    """`run(command)`: a line of the page; what goes on behind it ends with the module."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "CLIPPERF_HOME": str(folder / "store"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }

    def line(command: str, **more: str) -> str:
        words = shlex.split(command)
        env = {**environment, **more}
        if words[-1] == "&":
            started.append(
                subprocess.Popen(words[:-1], cwd=folder, env=env, start_new_session=True)
            )
            return ""
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield line
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def commands(section: str) -> list[str]:
    return [line for block in blocks(section, "sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def laid_out(run) -> None:
    """The folders that sections but the first are about."""
    for section in ("A browser", "fastembed"):
        for command in commands(section):
            if command.startswith("clipperf "):
                run(command)


@needs_curl
def test_the_python_service_answers(run, folder: Path) -> None:
    (code,) = blocks("A Python service", "python")
    name = code.split(":")[0].removeprefix("# ")
    port = str(other_tools.free_port())
    (folder / name).write_text(code.replace("8000", port))
    answers = [run(command.replace("8000", port)) for command in commands("A Python service")]
    image, texts = (json.loads(answer) for answer in answers[-2:])
    assert (len(image), len(image[0]), len(texts), len(texts[0])) == (1, WIDTH, 1, WIDTH)
    assert abs(sum(value**2 for value in image[0]) - 1) < 1e-4
    assert_told(run, port)
    bad = run(f"curl --silent --data nonsense http://127.0.0.1:{port}/image")
    assert "Error code: 400" in bad and "image 0 (bytes): not an image" in bad


def code_of(run, port: str, path: str, data: str) -> str:
    words = ["curl", "--silent", "--output", "answer.html", "--write-out", "%{http_code}"]
    return run(shlex.join([*words, "--data", data, f"http://127.0.0.1:{port}/{path}"]))


def assert_told(run, port: str) -> None:
    """Whose fault it is: the sender's, and after all of it the service answers."""
    for path, data, code in (
        ("image", "nonsense", "400"),
        ("image", "", "400"),
        ("texts", "nonsense", "400"),
        ("texts", '"a cat"', "400"),
        ("texts", "[1]", "400"),
        ("texts", "[" * 100_000, "400"),
        ("", "[]", "404"),
        ("text", '["a cat"]', "404"),
        ("texts", '["東京"]', "200"),
    ):
        assert code_of(run, port, path, data) == code, (path, data[:20])
    for length, code in (("abc", "400"), ("-1", "400"), ("99999999999", "413")):
        with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as client:
            client.sendall(f"POST /image HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            assert f" {code} " in client.recv(4096).decode().splitlines()[0]


def failing_from(size: int, folder: Path) -> None:
    """Give the text tower of a folder a graph that runs batches below a size alone."""
    path = folder / "text" / "model.onnx"
    model = onnx.load(path)
    graph = model.graph
    given, found = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["own" if name == found else name for name in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(size, np.float32), "ones"))
    graph.node.extend(
        [
            onnx.helper.make_node("Shape", [given], ["rows"], end=1),
            onnx.helper.make_node("Gather", ["ones", "rows"], ["one"]),
            onnx.helper.make_node("Mul", ["own", "one"], [found]),
        ]
    )
    path.unlink()  # it may be a link to one in the store
    onnx.save(model, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for tower in manifest["towers"]:
        if tower["side"] == "text":
            tower["files"] = {"text/model.onnx": sha256_file(path)}
            tower["disk_bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


@needs_curl
def test_a_fault_of_the_services_own_is_told_as_one(run, folder: Path) -> None:
    """Its runtime fails on nine texts at once, which the self-test at its start does not try."""
    run(commands("A Python service")[0])
    failing_from(9, Path(shutil.copytree(folder / "sample-clip", folder / "failing-clip")))
    (code,) = blocks("A Python service", "python")
    port = str(other_tools.free_port())
    text = code.replace("8000", port).replace("sample-clip", "failing-clip")
    (folder / "failing_service.py").write_text(text)
    run("python failing_service.py &")
    ask = "curl --fail --silent --retry 20 --retry-connrefused --data '[\"a cat\"]'"
    run(f"{ask} http://127.0.0.1:{port}/texts")
    many = json.dumps([f"a drawing of {letter}" for letter in "abcdefghi"])
    assert code_of(run, port, "texts", many) == "503"
    assert "onnxruntime: " in (folder / "answer.html").read_text()
    assert code_of(run, port, "texts", '["a cat"]') == "200"


@needs_curl
def test_the_slim_environment_runs_the_service(run, folder: Path) -> None:
    """The commands but Docker's, which `test_slim.py` holds against the Dockerfile."""
    run(commands("A Python service")[0])
    make, use, *docker = commands("A container")
    assert [line.split()[:2] for line in docker] == [["docker", "build"], ["docker", "run"]]
    said = run(make.replace("tools/", f"{ROOT}/tools/"), PYTHONPATH="")
    assert int(re.fullmatch(r"slim: (\d+) MB\n", said)[1]) <= 350
    assert run(use, PYTHONPATH="").strip() == f"(1, {WIDTH})"
    (code,) = blocks("A Python service", "python")
    port = str(other_tools.free_port())
    (folder / "slim_service.py").write_text(code.replace("8000", port))
    run("slim/bin/python slim_service.py &", PYTHONPATH="")
    ask = "curl --fail --silent --retry 20 --retry-connrefused --data '[\"a cat\"]'"
    (vector,) = json.loads(run(f"{ask} http://127.0.0.1:{port}/texts"))
    assert len(vector) == WIDTH and abs(sum(value**2 for value in vector) - 1) < 1e-4


def test_the_page_of_a_browser_runs(run, laid_out, folder: Path) -> None:
    packages = other_tools.transformers_js()
    (install,) = (c for c in commands("A browser") if not c.startswith("clipperf "))
    assert install.split()[:2] == ["npm", "install"]
    assert other_tools.TRANSFORMERS_JS[0].startswith(f"{install.split()[2]}@")
    (folder / "node_modules").symlink_to(packages / "node_modules", target_is_directory=True)
    (code,) = blocks("A browser", "js")
    (folder / "page.mjs").write_text(code)
    said = run("node page.mjs")
    rows = re.findall(r"^(a drawing of a \w+) (-?\d\.\d+)$", said, re.MULTILINE)
    assert [text for text, _ in rows] == ["a drawing of a cat", "a drawing of a car"]
    for dtype in ("fp32", "fp16"):
        (folder / "page.mjs").write_text(code.replace('"q8"', f'"{dtype}"'))
        others = re.findall(r"(-?\d\.\d+)$", run("node page.mjs"), re.MULTILINE)
        assert [float(x) for x in others] == pytest.approx([float(x) for _, x in rows], abs=0.01)


def test_versions_on_the_page_are_those_that_were_tried() -> None:
    tried = [*other_tools.TRANSFORMERS_JS, *other_tools.OPTIMUM[:1], other_tools.FASTEMBED[0]]
    for package in tried:
        name, version = re.split("==|@(?=[0-9])", package)
        said = name.rpartition("/")[2].replace("transformers", "transformers.js")
        assert f"{said} {version}" in PAGE


@pytest.mark.parametrize(
    ("section", "tool", "said"),
    [
        ("optimum", other_tools.optimum, f"torch.Size([1, {WIDTH}])"),
        ("fastembed", other_tools.fastembed, f"{WIDTH} {WIDTH}"),
    ],
)
def test_python_of_other_tools_runs(run, laid_out, section: str, tool, said: str) -> None:
    paths = os.pathsep.join((str(tool()), str(ROOT)))
    (code,) = blocks(section, "python")
    assert run(shlex.join([sys.executable, "-c", code]), PYTHONPATH=paths).strip() == said


@needs_curl
def test_triton_answers_what_the_page_asks(run, folder: Path) -> None:
    """The server is started as the page says, on free ports."""
    export, install, serve, *asked = commands("Triton")
    run(export)
    assert install.startswith(other_tools.PACKAGES_COMMAND) and install.endswith(" .")
    other_tools.triton_site()  # skips where packages cannot be installed
    run(f"{install.removesuffix('.')}{ROOT}", PYTHONPATH="")
    imported, program, where, *options = shlex.split(serve)
    models = [option.partition("=")[2] for option in options[1:]]
    assert imported == "CLIPPERF_PACKAGES=$PWD/packages"
    assert (program, where) == ("tritonserver", "--model-repository=repository")
    assert options == [
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
    ]
    packages = str(other_tools.triton_client())
    log, site = folder / "triton.log", folder / "packages"
    with other_tools.triton(folder / "repository", models, log, site) as server:
        text, image = (run(line.replace("http://127.0.0.1:8000", server.http)) for line in asked)
        assert json.loads(text)["outputs"][0]["shape"] == [1, WIDTH]
        assert image == ""
        answer = (folder / "answer.bin").read_bytes()
        assert len(np.frombuffer(answer[-4 * WIDTH :], "<f4")) == WIDTH
        assert json.loads(answer[: -4 * WIDTH])["outputs"][0]["name"] == "image_embeds"
        (measure,) = commands("Measuring what is deployed")
        # One test of a rate: what a busy machine makes of it is LoadGen's to say.
        measure = measure.replace("--slo-ms 100", "--slo-ms 1000 --rate 30 --json served.json")
        told = run(
            f"{measure.replace('http://127.0.0.1:8000', server.http)} --quiet", COLUMNS="300"
        )
        (row,) = json.loads((folder / "served.json").read_text())["measurements"]
        (trial,) = row["serving"]["trials"]
        assert (trial["offered_per_s"], row["endpoint"]["model"]) == (30, "clip_text")
        assert trial["queries"] >= 30 and row["endpoint"]["least_cosine"] > 0.999
        assert "clip_text (texts)" in told
        assert ("INVALID" in told, " VALID" in told) == (not trial["valid"], trial["valid"])
        (code,) = blocks("Triton", "python")
        code = code.replace("127.0.0.1:8001", server.grpc)
        said = run(shlex.join([sys.executable, "-c", code]), PYTHONPATH=packages)
        assert said.strip() == f"(1, {WIDTH})"


def test_links_point_at_sections_and_files() -> None:
    titles = {title.lower().replace(" ", "-") for title in SECTIONS}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target.removeprefix("#") in titles or (ROOT / "docs" / target).exists(), target
