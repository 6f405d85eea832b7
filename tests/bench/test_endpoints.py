"""Running servers under LoadGen: real ones in processes of their own, whose faults are known."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_server
import numpy as np
import other_tools
import pytest
from conftest import Cli, Install

from clipperf.bench import endpoint_worker
from clipperf.bench.cost import QUICK
from clipperf.bench.endpoint_inputs import COUNT, WORDS, offered, texts
from clipperf.bench.endpoints import Target, jobs_of, known
from clipperf.bench.jobs import Event, Job, run_job
from clipperf.commands import serving_options
from clipperf.commands.endpoint_options import endpoint_target
from clipperf.errors import RefusedError, UsageError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import zoo
from clipperf.nouns.cell import CLOSED_LOOP, Cell, EngineRequest
from clipperf.nouns.endpoint import REMOTE, Endpoint
from clipperf.nouns.model import CLIP_IDS, OWN_SIZES, ModelSpec
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import OFFLINE, SERVER, SINGLE_STREAM, Serving
from clipperf.system import env as environment

SHORT = Serving(slo_s=0.25, max_delay_s=0.0, min_s=0.5, min_queries=50, percentile=0.9,
                rel_width=0.5)  # fmt: skip
ANSWER_S = 0.02


@pytest.fixture(scope="module")
def running(sample_artifact: Path) -> Iterator[str]:
    with model_server.serving(sample_artifact) as url:
        yield url


@pytest.fixture
def url(running: str) -> str:
    """The server, as new; `model_server.control` gives it other options."""
    model_server.control(running)
    return running


def target(url: str, scenario: str = SINGLE_STREAM, **more: Any) -> Target:
    values: dict[str, Any] = {
        "sides": ("text",), "batches": (1,), "connections": 1, "model": "clipperf-sample",
        "serving": dataclasses.replace(SHORT, slo_s=SHORT.slo_s if scenario == SERVER else None),
    }  # fmt: skip
    return Target(url=url, scenario=scenario, **(values | more))


def jobs(wanted: Target) -> list[Job]:
    return jobs_of(wanted, known(wanted), QUICK, lambda event: None)


def measured(
    wanted: Target, on_event: Callable[[Event], None] = lambda event: None
) -> list[Measurement]:
    rows = []
    for job in jobs(wanted):
        rows += run_job(job, environment.capture(), [], on_event)
    return rows


def failing(url: str, **fault: Any) -> Callable[[Event], None]:
    """A server that fails once inputs are offered, and not while its speed is looked at."""

    def begin(event: Event) -> None:
        if event.kind == "started" and event.text.endswith("inputs/s"):
            model_server.control(url, **fault)

    return begin


# --- what is sent --------------------------------------------------------------------------


def test_texts_have_as_many_tokens_as_are_asked_for(sample_artifact: Path) -> None:
    tokenizer = Tokenizer.from_folder(sample_artifact)
    for tokens in (3, 8, 77):
        made = texts(5, tokens)
        ends = (tokenizer(made) == tokenizer.eot_id).argmax(axis=1)
        assert (ends == tokens - 1).all(), "the end is the last of them"
    assert len(set(texts(32, 77))) == 32 and texts(2, 8) == texts(2, 8)
    assert len(set(WORDS)) == len(WORDS)


def test_what_is_sent_is_what_the_model_takes(tmp_path: Path) -> None:
    spec = ModelSpec("m", "sample", "m", "bundled", 64, 77, 192)

    def sent(takes: Any, side: Any, batch: int = 1, paths: tuple[str, ...] = ()) -> np.ndarray:
        cell = Cell("m", side, "kserve", "", REMOTE, batch, 1, tokens=8 if side == "text" else None)
        endpoint = Endpoint("http://h", "kserve", "m", takes, side)
        return offered(EngineRequest(cell, spec, None, endpoint=endpoint), CLIP_IDS, paths)

    files = sent("image files", "image")
    assert len(files) == COUNT and all(data.startswith(b"\xff\xd8") for data in files)
    assert len(sent("texts", "text", 40)) == 40 and isinstance(sent("texts", "text")[0], str)
    pixels, tokens = sent("pixels", "image", 40), sent("tokens", "text")
    assert (pixels.shape, pixels.dtype) == ((40, 3, 64, 64), np.float32)
    assert (tokens.shape, tokens.dtype) == ((COUNT, 8), np.int64)
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.jpg"))
        Path(paths[-1]).write_bytes(bytes([number]))
    assert sent("image files", "image", paths=tuple(paths))[:4].tolist() == [
        b"\0", b"\1", b"\2", b"\0",
    ]  # fmt: skip


# --- what is planned -----------------------------------------------------------------------


def test_names_that_are_known_here_and_those_that_are_the_servers(url: str) -> None:
    def named(model: str, **more: Any) -> ModelSpec | None:
        return known(target(url, model=model, **more))

    assert named("clipperf-sample") == zoo.resolve("clipperf-sample")
    assert named("ViT-B-32", pretrained="random") == zoo.resolve("ViT-B-32", "random")
    assert named("clip_text") is None and named("BAAI/bge-small-en") is None and named("") is None
    with pytest.raises(UsageError, match="nope"):
        named("ViT-B-32", pretrained="nope")

    (job,) = jobs(target(url, model="clip_text"))
    cell = job.cells[0].request.cell
    assert (cell.model_id, cell.runtime, cell.precision, cell.device) == (
        *("clip_text", "kserve", "", "remote"),
    )  # fmt: skip
    assert cell.setup == "kserve" and cell.is_remote and cell.tokens == 77
    (job,) = jobs(target(url, model="nowhere"))
    assert "no model nowhere is served there; served are: clip_image" in str(job.cells[0].error)
    found = jobs(target(url, sides=("image", "text"), batches=(1, 4), tokens=(8, 77)))
    cells = [job.cells[0].request.cell for job in found]
    assert [(c.side, c.batch, c.tokens) for c in cells] == [
        *(("image", 1, None), ("image", 4, None)),
        *(("text", 1, 8), ("text", 4, 8), ("text", 1, 77), ("text", 4, 77)),
    ]


def test_a_tower_that_is_not_there_is_a_failed_row(url: str) -> None:
    model_server.control(url, models=["clip_text"])
    found = jobs(target(url, sides=("image", "text"), batches=(1, 4), tokens=(8,)))
    cells = {(c.request.cell.side, c.request.cell.batch): c.error for j in found for c in j.cells}
    assert [key for key, error in cells.items() if error is None] == [("text", 1), ("text", 4)]
    for batch in (1, 4):
        assert "none is an image tower; served are: clip_text" in str(cells["image", batch])
    model_server.control(url)
    both = target(url, sides=("image",), served_as=("clip_image", "clip_text"))
    assert "clip_text is no image tower" in str(jobs(both)[0].cells[0].error)


def test_a_number_of_inputs_that_is_fixed(url: str) -> None:
    def errors(size: int) -> list[str | None]:
        inputs = {"clip_text": ["INPUT_TEXT", "BYTES", [size, 1]]}
        model_server.control(url, inputs=inputs)
        return [job.cells[0].error for job in jobs(target(url, OFFLINE, batches=(1, 8)))]

    assert errors(-1) == [None, None]
    one, eight = errors(8)
    assert "takes 8 inputs in a request, never fewer" in str(one) and one == eight
    one, eight = errors(1)
    assert one is None and "takes one input in a request: give --batch 1" in str(eight)


def test_what_the_servers_words_speak_against(url: str) -> None:
    (job,) = jobs(target(url, OFFLINE, batches=(9,)))
    assert "takes up to 8 inputs in a request: give --batch 8" in str(job.cells[0].error)
    (job,) = jobs(target(url, model="ViT-B-32", pretrained="random"))
    assert "gives vectors of 192 numbers, and ViT-B-32::random:0 gives 512" in str(
        job.cells[0].error
    )
    (job,) = jobs(
        target(url, model="ViT-B-32", pretrained="random", sides=("image",),
               served_as=("clip_image_tower",))
    )  # fmt: skip
    assert "takes 64 px, and ViT-B-32::random:0 takes 224" in str(job.cells[0].error)


def test_nobody_answers_is_a_row_of_each_tower() -> None:
    url = f"http://127.0.0.1:{other_tools.free_port()}"
    rows = measured(target(url, SERVER, sides=("image", "text")))
    assert [row.cell.side for row in rows] == ["image", "text"]
    for row in rows:
        assert row.status == "failed" and "nobody answers" in str(row.error)
        assert row.endpoint is not None and row.endpoint.url == url and row.kind == "serving"


# --- what is measured ----------------------------------------------------------------------


def test_a_server_of_known_cost(url: str) -> None:
    """Two connections and 20 ms an answer: at most 100 a second."""
    model_server.control(url, fault="slow", seconds=ANSWER_S)
    (row,) = measured(target(url, SERVER, connections=2))
    assert row.status == "ok", row.error
    run = row.serving
    assert run is not None and run.counts is not None and run.counts.valid
    assert 5 < run.counts.per_s <= 2 / ANSWER_S
    assert run.counts.least_s >= ANSWER_S
    above = [each for each in run.trials if each.rate_per_s > run.counts.rate_per_s]
    assert above and not any(each.valid for each in above)
    assert run.counts.most_at_once == 2 and run.counts.batches == ((1, run.counts.queries),)
    assert run.counts.server_batches == run.counts.batches
    assert (row.rss_peak_bytes, row.vram_peak_bytes, row.disk_bytes, row.load_s) == (None,) * 4
    assert row.provider == "tests 1.0" and row.first_run_s is not None


def test_offline_sends_batches(url: str) -> None:
    (row,) = measured(target(url, OFFLINE, batches=(4,), connections=2))
    assert row.serving is not None and row.serving.counts is not None, row.error
    counts = row.serving.counts
    assert dict(counts.server_batches)[4] >= counts.queries // 4


def test_a_server_that_has_too_much_to_do_is_not_valid(url: str) -> None:
    (row,) = measured(target(url), failing(url, fault="503", after=20, every=10))
    assert row.status == "ok" and row.serving is not None and row.serving.best is None
    trial = row.serving.trials[-1]
    assert trial.refused > 0 and not trial.valid
    assert trial.reasons[-1].startswith(f"{trial.refused} were refused: clip_text at {url}")


def test_a_server_that_is_busy_before_the_tests_is_measured(url: str) -> None:
    """Every other request is refused until inputs are offered: the first answer, the look at it."""
    model_server.control(url, fault="503", every=2)
    (row,) = measured(target(url), failing(url))
    assert row.status == "ok", row.error
    assert row.serving is not None and row.serving.trials
    assert [trial.refused for trial in row.serving.trials] == [0] * len(row.serving.trials)


def test_fewer_connections_where_a_server_refuses_so_many() -> None:
    """It takes two at once; eight and four are refused."""
    lock, now = threading.Lock(), [0]

    class Two:
        def run(self, array: np.ndarray) -> np.ndarray:
            with lock:
                now[0] += 1
                refused = now[0] > 2
            try:
                if refused:
                    raise RefusedError("busy")
                time.sleep(0.05)
            finally:
                with lock:
                    now[0] -= 1
            return array

        def close(self) -> None:
            pass

    session = endpoint_worker.Session()
    session.engine, session.inputs = Two(), np.zeros((4, 3), np.float32)
    spec = ModelSpec("m", "sample", "m", "bundled", 64, 77, 192)
    session.request = EngineRequest(Cell("m", "text", "openai", "", REMOTE, 1, 1), spec, None)
    block = {"streams": 8, "warmup": 1, "calls": 3, "min_s": 0.0, "max_s": 9.0, "sleep_s": 0.0}
    found = session.block(block, lambda said: None)
    assert found["streams"] == 2 and len(found["samples"]) == 2 * 3


@pytest.mark.parametrize(
    ("fault", "words"), [("500", "HTTP 500: the GPU is on fire"), ("nan", "not finite")]
)
def test_a_fault_while_inputs_are_offered_is_a_failed_row(url: str, fault: str, words: str) -> None:
    long = dataclasses.replace(SHORT, min_s=200.0, slo_s=None)
    (row,) = measured(target(url, serving=long), failing(url, fault=fault, after=60))
    assert row.status == "failed" and words in str(row.error)
    assert str(row.error).startswith("while inputs were offered")


def test_vectors_are_held_against_the_artifact(url: str, sample_artifact: Path) -> None:
    (job,) = jobs(target(url))
    good, _ = compared(job, sample_artifact)
    assert good.status == "ok" and good.endpoint is not None
    assert good.endpoint.least_cosine is not None and good.endpoint.least_cosine > 0.9999
    model_server.control(url, fault="other")
    bad, _ = compared(job, sample_artifact)
    assert bad.status == "failed" and "its vectors are not those of clipperf-sample" in str(
        bad.error
    )
    assert bad.endpoint is not None and (bad.endpoint.least_cosine or 1) < 0.9


def compared(job: Job, folder: Path) -> tuple[Measurement, list[str]]:
    """A server's row, and why its vectors were not held against an artifact in a folder."""
    cell = dataclasses.replace(job.cells[0], compared=str(folder))
    told: list[Event] = []
    (row,) = run_job(
        dataclasses.replace(job, cells=(cell,)), environment.capture(), [], told.append
    )
    return row, [e.text for e in told if e.kind == "note" and "vectors not compared" in e.text]


def test_an_artifact_that_cannot_be_opened_is_no_fault_of_the_server(
    url: str, tmp_path: Path
) -> None:
    (job,) = jobs(target(url))
    row, notes = compared(job, tmp_path)
    assert row.status == "ok" and len(notes) == 1


@pytest.mark.parametrize(("mean", "std", "fits"), [(0.5, 0.5, True), (100.0, 1.0, False)])
def test_an_artifact_that_takes_other_pixels_is_no_fault_of_the_server(
    url: str, sample_artifact: Path, tmp_path: Path, mean: float, std: float, fits: bool
) -> None:
    """SigLIP's pixels lie from -1 to 1, where half of what is offered does not."""
    folder = tmp_path / "other"
    shutil.copytree(sample_artifact, folder)
    prepared, manifest = folder / "preprocess.json", folder / "manifest.json"
    said = json.loads(prepared.read_text()) | {"mean": [mean] * 3, "std": [std] * 3}
    prepared.write_text(json.dumps(said))
    whole = json.loads(manifest.read_text()) | {"preprocess": said}
    whole["files"]["preprocess.json"] = hashlib.sha256(prepared.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(whole))
    model_server.control(url, models=["clip_image_tower"])
    (job,) = jobs(target(url, sides=("image",)))
    row, notes = compared(job, folder)
    assert row.status == "ok" and row.endpoint is not None, row.error
    if fits:
        assert row.endpoint.least_cosine is not None and row.endpoint.least_cosine > 0.9999
        assert not notes
    else:
        assert row.endpoint.least_cosine is None and "encode_pixels was given" in notes[0]


OWN = """
import numpy as np
from clipperf.engines.endpoint import Found, Protocol
from clipperf.nouns.endpoint import Endpoint

class Engine:
    provider = "mine 1"
    def __init__(self, http, request):
        self.width = request.endpoint.width
    def run(self, array):
        return np.ones((len(array), self.width), np.float32)
    def close(self):
        pass

def models(http, wanted, server):
    found = Endpoint(http.url, "mine", "m", "texts", "text", width=192, server=server)
    return Found((found,))

PROTOCOL = Protocol("mine", lambda http: "mine 1", models, Engine)
"""


@pytest.mark.usefixtures("home")  # whose store holds nothing to compare with
def test_a_protocol_of_an_installed_package(install: Install, url: str) -> None:
    install("mine", OWN, {"clipperf.protocol": {"mine": "mine:PROTOCOL"}})
    row, image = measured(target(url, sides=("text", "image"), protocol="mine"))
    assert image.status == "failed" and "no model there is an image tower" in str(image.error)
    assert row.status == "ok" and row.cell.runtime == "mine", row.error
    assert row.provider == "mine 1" and row.serving is not None and row.serving.best is not None


# --- the command ---------------------------------------------------------------------------


def test_the_command_and_its_report(
    cli: Cli, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.control(url, token="s3cret")
    monkeypatch.setenv("CLIPPERF_ENDPOINT_TOKEN", "s3cret")
    out = tmp_path / "served.json"
    done = cli(
        "profile", "clipperf-sample", "--endpoint", f"{url}/v2/", "--tower", "text", "--scenario",
        "offline", "--batch", "4", "--tokens", "8", "--quick", "--json", str(out),
    )  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert "VALID" in said and "clip_text (texts)" in said and "kserve" in said
    assert "s3cret" not in said + out.read_text()
    (row,) = json.loads(out.read_text())["measurements"]
    assert row["endpoint"]["url"] == url and row["endpoint"]["model"] == "clip_text"
    assert (row["rss_peak_bytes"], row["vram_peak_bytes"]) == (None, None)
    told = cli("report", str(out), "--format", "json", check=True)
    (record,) = json.loads(told.stdout)["records"]
    assert record["server_url"] == url and record["inputs_per_s"] > 0 and record["tokens"] == 8


def test_the_command_where_nobody_answers(cli: Cli, tmp_path: Path) -> None:
    out, port = tmp_path / "served.json", other_tools.free_port()
    done = cli(
        "profile", "clipperf-sample", "--endpoint", f"http://127.0.0.1:{port}", "--scenario",
        "single-stream", "--tower", "text", "--json", str(out),
    )  # fmt: skip
    assert done.returncode == 1 and "nobody answers" in " ".join(done.stdout.split())
    (row,) = json.loads(out.read_text())["measurements"]
    assert row["status"] == "failed" and row["cell"]["runtime"] == "endpoint"


def asked(scenario: str = SINGLE_STREAM, **more: Any) -> Target:
    values: dict[str, Any] = {
        "url": "http://h", "models": ["m"], "pretrained": None, "sizes": OWN_SIZES,
        "scenario": scenario, "batches": (1,), "serving": SHORT, "tower": "both", "tokens": None,
        "from_files": None, "skip_unreadable": False, "protocol": None, "served_as": None,
        "connections": None, "ours": {},
    }  # fmt: skip
    return endpoint_target(**(values | more))


def test_wishes_for_a_server() -> None:
    assert asked(SERVER).connections == 64 and asked(OFFLINE).connections == 4
    assert asked().connections == 1
    assert asked(OFFLINE, connections=7, served_as="a,b", tokens="8,77") == Target(
        *("http://h", ("image", "text"), (1,), OFFLINE, SHORT, 7),
        model="m", served_as=("a", "b"), tokens=(8, 77),
    )  # fmt: skip
    name, batches, serving = serving_options.offered(
        SERVER, None, 50, None, None, quick=False, remote=True
    )
    assert (name, batches) == (SERVER, (1,)) and serving is not None
    assert (serving.slo_s, serving.max_delay_s) == (0.05, 0.0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"serving": None, "scenario": CLOSED_LOOP}, "--scenario closed: add --scenario server"),
        ({"ours": {"--runtime": "onnx"}}, "--runtime is for engines in this process"),
        ({"models": ["a", "b"]}, "name one MODEL"),
        ({"models": None, "pretrained": "random"}, "need a MODEL"),
        ({"connections": 2}, "no --connections"),
        ({"connections": 0, "scenario": OFFLINE}, "from 1 to 1024"),
        ({"url": "http://a:b@h"}, "leave them out"),
        ({"tower": "text", "from_files": "."}, "leave out --tower text"),
    ],
)
def test_bad_wishes_name_the_fix(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asked(**more)


@pytest.mark.parametrize("option", ["batch", "max_batch", "max_delay_ms"])
def test_a_server_makes_its_own_batches(option: str) -> None:
    values: dict[str, Any] = {"batch": None, "max_batch": None, "max_delay_ms": None}
    values |= {option: 4.0 if option.endswith("ms") else "4"}
    with pytest.raises(UsageError, match="the server makes its own batches: leave out --"):
        serving_options.offered(SERVER, slo_ms=50, quick=False, remote=True, **values)


@pytest.mark.parametrize("option", ["--protocol", "--served-as"])
def test_options_for_a_server_alone(cli: Cli, option: str) -> None:
    done = cli("profile", "clipperf-sample", option, "x")
    assert done.returncode == 2 and f"{option} is for a server: add --endpoint" in done.stderr


def test_a_servers_account_is_read_once_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_worker, "BETWEEN_S", 0.0)
    readings = iter([{1: 3}, {1: 3, 4: 1}, {1: 3, 4: 2}, {1: 3, 4: 2}, {1: 9}])
    assert endpoint_worker.settled(lambda: next(readings)) == {1: 3, 4: 2}
    assert endpoint_worker.settled(lambda: None) is None
    counts = iter(range(1000))
    assert endpoint_worker.settled(lambda: {1: next(counts)}) == {1: endpoint_worker.READINGS}
