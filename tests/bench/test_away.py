"""What is done on other machines, with one in the place of a cluster that does tasks at once.

How tasks are placed, lost and done again is shown on a real one, in `test_launchers_ray`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import store_of

from clipperf.bench import away, away_scores, prepare
from clipperf.bench.away import new_place, place_of
from clipperf.bench.cost import QUICK
from clipperf.bench.jobs import SCENARIOS, Call, Event, Job, Prepared, Scenario, row_a_cell
from clipperf.bench.launchers import ray as launcher
from clipperf.bench.launchers.ray import Remote, kind_of
from clipperf.bench.retries import ended_of
from clipperf.bench.scoring import Scorer
from clipperf.errors import (
    ArtifactError,
    ChildError,
    ClusterError,
    ExportError,
    LostError,
    StorageError,
    UsageError,
    WeightsError,
)
from clipperf.evals.datasets import Dataset
from clipperf.evals.worker import ModelRequest
from clipperf.inputs.sources import ImageSource
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import CLIP_IDS, ModelSpec, TextIds
from clipperf.nouns.result import Measurement
from clipperf.system import env, files, store
from clipperf.system.cluster import seeing
from clipperf.system.cluster.machines import Facts, Needs, Node
from clipperf.system.cluster.remote import perform
from clipperf.system.cluster.shared import Shared
from clipperf.system.cluster.tasks import Done, Task

SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
HERE = env.capture()
NODE = Node("a" * 56, "10.0.0.1", Needs(1, 0, 2**30), Facts("0", "machine", "host-1", HERE))


class AtOnce:
    """A cluster of one machine; what crosses is pickled. Tasks named in `lost` are given up."""

    def __init__(self, nodes: Iterable[Node] = (NODE,), lost: Iterable[str] = ()) -> None:
        self.nodes, self.lost = list(nodes), set(lost)

    def run(
        self,
        tasks: Iterable[Task],
        on_told: Callable[[Task, Any], None] = lambda task, told: None,
        on_done: Callable[[Done], None] = lambda done: None,
        on_lost: Callable[[Task, str], None] = lambda task, text: None,
    ) -> None:
        for task in tasks:
            if task.name in self.lost:
                on_done(Done(task, NODE, error=LostError(f"{task.name}: given up")))
                continue
            call = pickle.loads(pickle.dumps((task.function, task.args)))
            for kind, what in map(pickle.loads, map(pickle.dumps, perform(*call))):
                assert kind != "broken", what
                if kind == "told":
                    on_told(task, what)
                elif kind != "begun":
                    done = {"value": what} if kind == "done" else {"error": what}
                    on_done(Done(task, NODE, **done))

    def call(
        self,
        task: Task,
        on_told: Callable[[Task, Any], None] = lambda task, told: None,
        on_lost: Callable[[Task, str], None] = lambda task, text: None,
    ) -> Any:
        ended: list[Done] = []
        self.run([task], on_told, ended.append, on_lost)
        if ended[0].error is not None:
            raise ended[0].error
        return ended[0].value


def measure(job: Job, here: Any, earlier: Any, on_event: Any) -> None:
    """A memory row and a time row a cell, unless the first is known."""
    known = {row.cell for row in earlier if row.kind == "memory"}
    for cell in job.cells:
        if cell.request.cell not in known:
            on_event(Event("measured", "memory", replace(job.row(cell, "memory", here))))
        row = replace(job.row(cell, "time", here), run_s=(0.5,), blocks=(0,))
        on_event(Event("measured", "time", row))


@pytest.fixture
def remote(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Machines that take jobs of the scenario "twice"."""
    known = SCENARIOS.get
    own = Scenario("twice", measure, row_a_cell)
    monkeypatch.setattr(SCENARIOS, "get", lambda name: own if name == "twice" else known(name))
    monkeypatch.setattr(launcher, "overhead_fact", lambda here: "cheap")
    family = SimpleNamespace(text_ids=lambda spec: CLIP_IDS)
    monkeypatch.setattr(away, "family_of", lambda spec: family)
    return Remote(AtOnce(), Shared(str(tmp_path / "shared")))  # type: ignore[arg-type]


def job(group: str, *batches: int) -> Job:
    cells = [Cell("sim", "image", "torch", "fp32", "cpu", batch, 1) for batch in batches]
    requests = [Prepared(EngineRequest(cell, SPEC, None), 7) for cell in cells]
    return Job(group, "twice", tuple(requests), QUICK)


def measured(remote: Remote, *jobs: Job) -> tuple[list[Measurement], list[Event]]:
    events: list[Event] = []
    remote.run(jobs, events.append)
    return [e.measurement for e in events if e.measurement is not None], events


def test_rows_come_home_whole_and_memory_is_measured_once(remote: Remote, tmp_path: Path) -> None:
    rows, events = measured(remote, job("one", 1, 2), job("two", 2, 4))
    assert [(row.kind, row.cell.batch) for row in rows] == [
        *(("memory", 1), ("memory", 2), ("time", 1), ("time", 2)),
        *(("memory", 4), ("time", 2), ("time", 4)),
    ]
    assert all(row.disk_bytes == 7 and row.env_id == HERE.id for row in rows)
    facts = [(event.group, event.text) for event in events if event.kind == "fact"]
    assert facts == [
        ("one", "cheap"),
        ("one", "measured on host-1 (10.0.0.1, node aaaaaaaa)"),
        ("two", "measured on host-1 (10.0.0.1, node aaaaaaaa)"),
    ]
    assert [e.group for e in events if e.kind == "finished"] == ["one", "two"]
    assert not list((tmp_path / "shared" / "tasks").iterdir())


def test_a_job_that_is_given_up_is_rows_that_are_tried_again(remote: Remote) -> None:
    remote.cluster.lost = {"one"}  # type: ignore[attr-defined]
    rows, events = measured(remote, job("one", 1, 2), job("two", 4))
    lost = [row for row in rows if row.status == "failed"]
    assert [(row.cell.batch, row.ended, row.group) for row in lost] == [
        (1, "killed", "one"),
        (2, "killed", "one"),
    ]
    assert all(row.error == "one: given up" for row in lost)
    assert [row.cell.batch for row in rows if row.status == "ok"] == [4, 4]
    assert [e.group for e in events if e.kind == "finished"] == ["one", "two"]


def test_artifacts_that_no_machine_lives_to_make_fail_their_cells_alone(
    here: Path, remote: Remote
) -> None:
    spec = zoo.resolve("clipperf-sample")
    cells = [Cell(spec.id, "text", "onnx", "fp32", "cpu", 2, 1, tokens=77)]
    remote.cluster.lost = {"artifacts of clipperf-sample"}  # type: ignore[attr-defined]
    (error,) = remote.prepared(cells, spec, 2, print)
    assert isinstance(error, LostError) and "given up" in str(error)
    remote.cluster.lost = set()  # type: ignore[attr-defined]
    (made,) = remote.prepared(cells, spec, 2, print)
    assert isinstance(made, Prepared) and made.request.cell == cells[0]


def test_each_try_writes_under_names_of_its_own(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is taken for lost, and is as slow as it likes."""
    asked, place = job("one", 1), new_place(remote.shared)

    def names() -> set[str]:
        told: list[Any] = []
        done = away.measure(told.append, asked, {}, place, ())
        return {each[1].name for each in (*told, done) if not isinstance(each, Event)}

    first, second = names(), names()
    assert len(first) == len(second) == 2 and not first & second
    assert all(name.startswith(place.name() + "/") for name in first | second)


def test_memory_of_two_tries_is_each_of_its_machine(remote: Remote, tmp_path: Path) -> None:
    asked = job("one", 1)
    sent = launcher._Sent(asked, new_place(remote.shared))
    row = Measurement(asked.cells[0].request.cell, "memory", "ok", HERE.id)
    other = replace(HERE, id="another")
    events: list[Event] = []
    for here in (HERE, other, other):
        told = Event("measured", "memory", replace(row, env_id=here.id), "one")
        crossed = away.put(remote.shared, sent.place.inside(), "memory-1.json", [told])
        remote._bring(sent, (here, crossed), events.append)
    assert [e.measurement.env_id for e in events if e.measurement] == [HERE.id, "another"]


def test_texts_are_made_of_what_the_machine_that_measures_says(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TextIds] = []
    monkeypatch.setattr(away, "run_job", lambda job, *more: seen.append(job.text_ids))
    own = TextIds(1, 2, 3, 4)
    there = SimpleNamespace(text_ids=lambda spec: own)
    monkeypatch.setattr(away, "family_of", lambda spec: there)
    assert job("one", 1).text_ids != own
    away.measure(print, job("one", 1), {}, new_place(remote.shared), ())
    assert seen == [own]

    def missing(spec: ModelSpec) -> TextIds:
        raise WeightsError("no tokenizer here")

    there.text_ids = missing
    away.measure(print, job("one", 1), {}, new_place(remote.shared), ())
    ready = away.with_texts(job("one", 1, 2))
    assert [cell.error for cell in ready.cells] == ["no tokenizer here"] * 2


def test_rows_that_were_altered_on_the_way_are_refused(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Shared.get

    def altered(self: Shared, name: str, *more: Any) -> bytes:
        path = tmp_path / "shared" / name
        path.write_bytes(path.read_bytes().replace(b"0.5", b"0.4"))
        return get(self, name, *more)

    monkeypatch.setattr(Shared, "get", altered)
    with pytest.raises(ArtifactError, match="was altered"):
        measured(remote, job("one", 1))


def test_a_full_disk_there_ends_the_sweep_here(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(away, "run_job", full)
    with pytest.raises(StorageError, match="the disk is full"):
        measured(remote, job("one", 1))


def test_machines_of_one_kind_measure_and_others_are_named(home: Path, tmp_path: Path) -> None:
    def like(letter: str, **changes: Any) -> Node:
        facts = Facts("0", letter, f"host-{letter}", replace(HERE, **changes))
        return replace(NODE, id=letter * 56, facts=facts)

    plain, big = like("b"), like("c", id="big", cores=96)
    gpu = like("d", id="gpu", gpu="NVIDIA L4")
    assert kind_of([big, NODE, plain]) == NODE.kind, "most are of it"
    assert kind_of([NODE, plain, gpu]) == gpu.kind, "a GPU is there to be measured"
    remote = Remote(AtOnce([NODE, plain, big]), Shared(str(tmp_path / "s")))  # type: ignore[arg-type]
    assert remote.nodes == [NODE, plain] and list(remote.environments) == [HERE]
    events: list[Event] = []
    remote.run((), events.append)
    (said,) = [event.text for event in events]
    assert "left out" in said and "host-c" in said and "host-b" not in said


def test_a_place_that_is_not_the_same_there_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "shared_at", lambda url: Shared(str(tmp_path / "elsewhere")))
    with pytest.raises(ClusterError, match=r"host-1 .* does not see .*--ray-store"):
        Remote(AtOnce(), Shared(str(tmp_path / "shared")))  # type: ignore[arg-type]


# --- artifacts -----------------------------------------------------------------------------


@pytest.fixture
def here(sample_artifact: Path, home: Path) -> Path:
    """The sample's artifact in a store of its own."""
    return store_of(sample_artifact, home)


def test_an_artifact_is_made_once_and_fetched(
    here: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, shared = zoo.resolve("clipperf-sample"), Shared(str(tmp_path / "shared"))
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 2, 1)
    (made,), folders = away.make(print, [cell], spec, 4, place_of(shared), ())
    assert made.prepared is not None and folders == [made.folder]
    path = str(made.prepared.request.path)
    assert Path(path).is_relative_to(home) and away.folder_of(path) == here
    # Another machine has nothing, and exports nothing.
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "other"))
    found = away.fetched(made.prepared, {path: folders[0]}, shared)
    assert found.error is None and found.disk_bytes == made.prepared.disk_bytes
    other = tmp_path / "other" / here.relative_to(home)
    assert Path(str(found.request.path)).is_relative_to(other)
    assert found.request.key == made.prepared.request.key
    assert store.check_files(other, store.read_manifest(other), content=True) == []
    (again,), _ = away.make(print, [cell], spec, 4, place_of(shared), folders)
    assert again.folder == folders[0], "what was fetched is taken for made"


def test_a_folder_with_fewer_towers_is_replaced_and_with_more_is_kept(
    here: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, shared = zoo.resolve("clipperf-sample"), Shared(str(tmp_path / "shared"))
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 2, 1)
    _, (folder,) = away.make(print, [cell], spec, 4, place_of(shared), ())
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "other"))
    other = store_of(here, tmp_path / "other")
    whole = store.read_manifest(other)
    image = whole.tower("image")
    assert image is not None and not away.has_less(other, folder), "it has as many"
    files.write_json(other / store.MANIFEST_NAME, replace(whole, towers=(image,)))
    for name in folder.files.keys() - image.files.keys() - whole.files.keys():
        if name != store.MANIFEST_NAME:
            (other / name).unlink()
    assert away.has_less(other, folder)
    mine = other / "mine.txt"
    mine.touch()
    assert not away.has_less(other, folder), "somebody has put something there"
    mine.unlink()
    away.fetch_missing(shared, [folder])
    assert store.read_manifest(other) == whole
    assert store.check_files(other, whole, content=True) == []


def test_an_artifact_that_cannot_be_had_is_a_reason(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, shared = zoo.resolve("clipperf-sample"), Shared(str(tmp_path / "shared"))
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 2, 1)
    (made,), (folder,) = away.make(print, [cell], spec, 4, place_of(shared), ())
    assert made.prepared is not None
    shared.remove("blobs")
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "other"))
    found = away.fetched(made.prepared, {str(made.prepared.request.path): folder}, shared)
    assert found.error is not None and "there is no" in found.error
    assert found.request.path is None


def test_what_cannot_be_made_is_an_error_of_its_cell(here: Path, tmp_path: Path) -> None:
    spec, shared = zoo.resolve("clipperf-sample"), Shared(str(tmp_path / "shared"))
    cells = [
        Cell(spec.id, "text", "onnx", precision, "cpu", 2, 1, tokens=77)
        for precision in ("fp61", "fp32")
    ]
    (bad, good), _ = away.make(print, cells, spec, 4, place_of(shared), ())
    assert isinstance(bad.error, UsageError) and "fp61" in str(bad.error)
    assert good.prepared is not None


def died(cell: Cell, *more: Any) -> Any:
    """Preparing a cell whose export is killed."""
    raise ExportError("the export died: killed by SIGKILL") from ChildError("it died", code=-9)


def test_an_export_that_was_killed_there_is_known_as_such_here(
    here: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = zoo.resolve("clipperf-sample")
    cells = [Cell(spec.id, "text", "onnx", "fp32", "cpu", 2, 1, tokens=77)]
    monkeypatch.setattr(prepare, "engine_request", died)
    (error,) = remote.prepared(cells, spec, 2, print)
    assert isinstance(error, ExportError) and ended_of(error) == "killed"
    cell = prepare.unprepared(cells[0], spec, error)
    with monkeypatch.context() as well:
        well.setattr(
            prepare, "engine_request", lambda cell, spec, *m: (EngineRequest(cell, spec, None), 7)
        )
        (found,) = remote.prepared(cells, spec, 2, print)
    assert isinstance(found, Prepared), "asked again, it is tried again"
    asked = replace(job("one"), cells=(cell,))
    ((row,), _) = measured(remote, asked)
    assert (row.status, row.ended) == ("failed", "killed")
    assert row.error == "the export died: killed by SIGKILL"
    monkeypatch.setattr(prepare, "model_request", died)
    place = place_of(remote.shared)
    ((model,), _) = remote.call(Call("m", away_scores.models, (cells, spec, False, place, ())))
    assert ended_of(model.error) == "killed"


def test_weights_are_those_of_the_machine_that_has_them(
    here: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for once making has had them fetched."""
    spec = replace(zoo.resolve("clipperf-sample"), pretrained="far")
    cell = Cell(spec.id, "text", "torch", "fp32", "cpu", 2, 1, tokens=77)
    fetched: list[str] = []

    def engine_request(cell: Cell, spec: ModelSpec, *more: Any) -> tuple[EngineRequest, int]:
        fetched.append("sha256:w")
        return EngineRequest(cell, spec, None), 7

    monkeypatch.setattr(prepare, "engine_request", engine_request)
    monkeypatch.setattr(prepare, "weights_of", lambda spec: fetched[-1] if fetched else None)
    (made,) = remote.prepared([cell], spec, 2, print)
    assert isinstance(made, Prepared) and made.weights == "sha256:w"

    def model_request(cell: Cell, *more: Any) -> ModelRequest:
        fetched.append("sha256:m")
        return ModelRequest(here, (EngineRequest(cell, spec, None),))

    monkeypatch.setattr(prepare, "model_request", model_request)
    place = place_of(remote.shared)
    ((model,), _) = away_scores.models(print, [cell], spec, False, place, ())
    assert model.made[0] == ["weights sha256:m"]


def test_a_model_that_no_machine_lives_to_make_fails_alone_and_once(
    here: Path, remote: Remote
) -> None:
    spec = zoo.resolve("clipperf-sample")
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 2, 1)
    scorer = Scorer(remote)
    remote.cluster.lost = {"artifacts of clipperf-sample"}  # type: ignore[attr-defined]
    assert isinstance(scorer.models([cell], spec, False, print)[cell].error, LostError)
    remote.cluster.lost = set()  # type: ignore[attr-defined]
    assert scorer.models([cell], spec, False, print)[cell].error is not None, "it is known"
    assert scorer.models([cell], spec, False, print, again=True)[cell].error is None


def test_a_model_crosses_with_what_its_embeddings_depend_on(
    here: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, shared = zoo.resolve("clipperf-sample"), Shared(str(tmp_path / "shared"))
    cells = [Cell(spec.id, "image", name, "fp32", "cpu", 2, 1) for name in ("torch", "onnx")]
    made, folders = away_scores.models(print, cells, spec, False, place_of(shared), ())
    assert [folder.place for folder in folders] == [here.relative_to(home).as_posix()]
    assert all(model.error is None and model.made for model in made)
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "other"))
    asked = away_scores.Scoring(spec, tuple(cells), {}, 2, 0.01)
    torch, onnx = (
        away_scores.fetched(cell, model, asked, shared)
        for cell, model in zip(cells, made, strict=True)
    )
    assert isinstance(torch, ModelRequest) and torch.folder == onnx.folder
    assert torch.folder.is_relative_to(tmp_path / "other")
    assert [tower.path for tower in torch.towers] == [None, None]
    for tower in onnx.towers:
        assert Path(str(tower.path)).is_relative_to(torch.folder)
    assert away_scores.made_of(onnx, None) == made[1].made


def test_a_dataset_that_the_machine_does_not_see_is_named(tmp_path: Path) -> None:
    shared = Shared(str(tmp_path / "shared"))
    data = Dataset("photos", "0" * 64, (ImageSource("1.png", tmp_path / "1.png"),))
    crossed = away_scores.put_dataset(shared, data, new_place(shared))
    with pytest.raises(UsageError, match=r"1\.png is not on this machine"):
        away_scores.dataset_of(shared, crossed)
    (tmp_path / "1.png").touch()
    assert away_scores.dataset_of(shared, crossed) == data
