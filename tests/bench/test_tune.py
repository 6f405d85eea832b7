"""`clipperf tune`: the search on candidates of exactly known cost, and what `load` makes of it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_data
from conftest import Cli, store_of
from PIL import Image
from report_data import timed

import clipperf
from clipperf.bench import cost, search, tune
from clipperf.bench.search import OVER_BUDGET, SCOUT, Search, Space, splits, trial_of
from clipperf.engines import contract
from clipperf.errors import (
    ArtifactError,
    ClipperfError,
    EngineError,
    MeasurementError,
    MissingDependencyError,
    ParityError,
    StorageError,
    TuningWarning,
    UsageError,
    WeightsError,
)
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Measurement
from clipperf.nouns.tuning import Trial, Tuning
from clipperf.nouns.variant import SIDES
from clipperf.report.records import merge
from clipperf.report.tuning import tuning_table
from clipperf.serialize import from_json
from clipperf.serve import streams as _streams
from clipperf.system import env as environment
from clipperf.system import store

SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
BASE = Cell("sim", "image", "simulated", "fp32", "cpu", 4, 2)
FAST = dataclasses.replace(SCOUT, min_s=0.0, max_s=1.0, block_s=0.0, sleep_s=0.0)
TEXTS = ["a red apple", "two dogs", "a", "a very long caption about many small things", "a cat"]


def cell(precision: str, **changes: int) -> Cell:
    return dataclasses.replace(BASE, precision=precision, **changes)


def search_of(
    tmp_path: Path,
    run_s: Callable[[Cell], float],
    *,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    batches: tuple[int, ...] = (1, 4),
    budget_s: float = 60.0,
    request_of: Callable[[Cell], tuple[EngineRequest, int]] | None = None,
    script: dict[str, Any] | None = None,
    **changes: Any,
) -> Search:
    """A search over simulated engines of two threads; `run_s` says what a batch takes."""

    class Scripted(Search):
        def _opened_by(self, cell: Cell) -> EngineRequest:
            request = super()._opened_by(cell)
            path = Path(f"{request.path}-{cell.threads}-{cell.streams}-{cell.batch}")
            path.write_text(json.dumps({"run_s": run_s(cell), **(script or {})}))
            return dataclasses.replace(request, path=str(path))

    def request(cell: Cell) -> tuple[EngineRequest, int]:
        if cell.precision == "bf16":
            raise ParityError("bf16 drifted")
        return EngineRequest(cell, SPEC, str(tmp_path / cell.precision)), 0

    firsts = tuple(cell(p, batch=batches[len(batches) // 2]) for p in precisions)
    space = Space(firsts, splits(2), batches, frozenset({"simulated"}))
    settings = {"scout": FAST, "final": dataclasses.replace(FAST, min_runs=12)}
    return Scripted(
        space, request_of or request, environment.capture(), budget_s, **{**settings, **changes}
    )


def batch_s(candidate: Cell) -> float:
    """10 ms a batch and 20 ms an item, int8 10; two streams slow each other down by a quarter."""
    item_s = {"fp32": 20e-3, "int8": 10e-3, "fp16": 200e-3}[candidate.precision]
    return (10e-3 + item_s * candidate.batch) * (1.25 if candidate.streams == 2 else 1)


# --- the search ----------------------------------------------------------------------------


def test_ways_to_split_the_cores() -> None:
    assert splits(1) == ((1, 1),)
    assert splits(2) == ((2, 1), (2, 2), (1, 1))
    assert splits(8) == ((8, 1), (8, 2), (8, 4), (8, 8), (4, 1))
    assert splits(6) == ((6, 1), (6, 2), (6, 4), (6, 6), (3, 1))


@pytest.mark.timing
def test_the_fastest_candidate_is_chosen(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s, precisions=("fp32", "fp16", "int8"))
    best, request = found.run()
    # int8, batch 4: 50 ms, 62.5 ms in two streams, which gives 8 / 62.5 ms = 128 a second.
    assert best.cell == cell("int8", batch=4, streams=2)
    assert request.cell == best.cell
    assert best.items_per_s == pytest.approx(128, rel=0.1)
    assert best.batch_s is not None and best.batch_s >= 62.5e-3  # the slowest of a dozen runs
    assert not best.verdict
    # 202 ms an item is less than half of what int8 does in round 1.
    assert "50%" in found.trials[cell("fp16", batch=4)].verdict
    assert cell("fp16", batch=1) not in found.trials
    others = {c for p in ("fp32", "int8") for c in found.space.candidates(cell(p))} - {best.cell}
    assert len(others) == 2 * 3 * 2 - 1
    for other in others:
        trial = found.trials[other]
        assert trial.verdict and trial.items_per_s
        assert trial.items_per_s <= 1.01 * other.batch * other.streams / batch_s(other)


@pytest.mark.timing
def test_the_bound_rules_out_what_takes_longer(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s, max_batch_s=45e-3, batches=(1, 4, 64))
    best, _ = found.run()
    # Batch 4 takes 50 ms at least. Batch 1: int8 20 ms, 25 ms in two streams: 80 a second.
    assert best.cell == cell("int8", batch=1, streams=2)
    assert "bound" in found.trials[cell("int8", batch=4)].verdict
    larger = found.trials[cell("int8", batch=64)]
    assert "a smaller batch" in larger.verdict and larger.items_per_s is None


@pytest.mark.timing
def test_a_bound_that_nothing_keeps_names_the_quickest(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s, max_batch_s=1e-3)
    with pytest.raises(MeasurementError, match=r"int8, batch 1.*--max-batch-ms"):
        found.run()


def test_of_candidates_alike_the_one_with_the_quickest_batch(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s)
    fastest, alike, slower, unsure = (cell("fp32", batch=b) for b in (32, 8, 4, 1))
    found.trials = {
        fastest: Trial(fastest, "", 100.0, (95.0, 105.0), batch_s=0.4),
        alike: Trial(alike, "", 94.0, (90.0, 96.0), batch_s=0.1),
        slower: Trial(slower, "", 93.0, (91.0, 94.0), batch_s=0.05),
        unsure: Trial(unsure, "", 92.0, None, batch_s=0.01),
    }
    assert found._chosen([fastest, alike, slower, unsure]) == alike
    assert found._chosen([fastest, slower, unsure]) == fastest


def test_what_cannot_be_made_or_run_is_a_trial_with_its_reason(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s, precisions=("bf16", "int8"))

    def fail(candidate: Cell) -> float:
        return "no number" if candidate.streams == 2 else 1e-3  # type: ignore[return-value]

    broken = search_of(tmp_path, fail, precisions=("fp32",), batches=(1,))
    assert found.run()[0].cell.precision == "int8"
    assert found.trials[cell("bf16", batch=4)].verdict == "bf16 drifted"
    assert broken.run()[0].cell.streams == 1
    trial = broken.trials[cell("fp32", batch=1, streams=2)]
    assert "TypeError" in trial.verdict and trial.items_per_s is None
    nothing = search_of(tmp_path, batch_s, precisions=("bf16",))
    with pytest.raises(MeasurementError, match="bf16 drifted"):
        nothing.run()


@pytest.mark.parametrize("max_batch_s", [None, 10.0])
def test_candidates_that_die_late_are_told_with_their_reasons(
    max_batch_s: float | None, tmp_path: Path
) -> None:
    """Rounds 1 and 2 take a dozen runs of each candidate, the last one more."""
    found = search_of(
        tmp_path,
        lambda candidate: 2e-3,
        precisions=("fp32",),
        batches=(1,),
        max_batch_s=max_batch_s,
        script={"fail_at": "run:25", "how": "signal", "exit_code": 9},
        final=dataclasses.replace(FAST, min_runs=60, max_s=30.0),
    )
    with pytest.raises(MeasurementError, match=r"no candidate works: sim image .*SIGKILL"):
        found.run()
    assert all("SIGKILL" in trial.verdict for trial in found.trials.values())


def test_where_the_best_die_late_others_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def item_s(candidate: Cell) -> float:
        return {"fp32": 15e-3, "int8": 10e-3}[candidate.precision] * candidate.streams

    found = search_of(tmp_path, item_s, batches=(1,))
    rounds: list[set[str]] = []

    def time_pass(requests: Any, settings: Any, env: Any, round_: str, ids: Any) -> Any:
        cells = [request.cell for request in requests]
        dies = round_ == "the best in turns" and not rounds
        if round_ == "the best in turns":
            rounds.append({cell.precision for cell in cells})
        row = {"status": "failed", "error": "SIGKILL"} if dies else {"status": "ok"}
        return [
            Measurement(c, "time", **row, env_id="e", run_s=() if dies else (item_s(c),) * 9)
            for c in cells
        ]

    monkeypatch.setattr(search, "time_pass", time_pass)
    best, _ = found.run()
    assert rounds == [{"int8"}, {"fp32"}]
    assert best.cell.precision == "fp32"
    killed = [trial for cell, trial in found.trials.items() if cell.precision == "int8"]
    assert {trial.verdict for trial in killed} == {"SIGKILL"}


def test_a_spent_budget_still_gives_an_answer(tmp_path: Path) -> None:
    found = search_of(tmp_path, batch_s, precisions=("int8", "fp32"), budget_s=0.0)
    best, _ = found.run()
    assert best.cell == cell("int8", batch=4)
    assert found.trials[cell("fp32", batch=4)].verdict == OVER_BUDGET
    assert found.trials[cell("int8", batch=1, streams=2)].verdict == OVER_BUDGET


def test_groups_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search_of(tmp_path, batch_s)
    cells = [cell("fp32", batch=b) for b in range(1, 10)]
    found.requests["simulated", "fp32"] = (EngineRequest(BASE, SPEC, None), 200 * 2**20)
    # Each may need 400 + 3 * 200 = 1000 MiB, of 70 % of what is free.
    for free_mib, sizes in ((None, [4, 4, 1]), (3000, [2, 2, 2, 2, 1]), (100, [1] * 9)):
        free = None if free_mib is None else free_mib * 2**20
        monkeypatch.setattr(search.meters, "available_ram_bytes", lambda free=free: free)
        assert [len(party) for party in found._parties(cells)] == sizes


def test_a_trial_from_raw_samples() -> None:
    row = Measurement(cell("fp32", batch=4, streams=2), "time", "ok", "e")
    few = trial_of(dataclasses.replace(row, run_s=(0.2, 0.1, 0.1, 0.1, 0.1, 0.4), load_s=1.5))
    assert few.items_per_s == pytest.approx(8 / 0.1)
    assert (few.batch_s, few.samples, few.load_s) == (0.4, 6, 1.5)
    many = trial_of(dataclasses.replace(row, run_s=tuple(i / 1000 for i in range(1, 102))))
    assert many.batch_s == pytest.approx(0.091)  # the 91st of 101
    failed = trial_of(dataclasses.replace(row, status="failed", error="out of memory"))
    assert failed == Trial(row.cell, "out of memory")


# --- streams -------------------------------------------------------------------------------


@pytest.mark.timing
def test_a_block_of_two_streams_runs_both_at_once() -> None:
    inside: list[int] = []
    lock, running = threading.Lock(), 0

    def run(array: np.ndarray) -> np.ndarray:
        nonlocal running
        with lock:
            running += 1
            inside.append(running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return array

    samples, seconds = cost.timed(
        lambda: cost.time_block(run, np.zeros(1), warmup=1, calls=5, min_s=0.0, streams=2)
    )
    assert len(samples) == 10 and min(samples) >= 0.02
    assert max(inside) == 2 and seconds < 12 * 0.02 * 0.8


def test_a_stream_that_fails_ends_the_block_with_its_reason() -> None:
    calls: list[int] = []

    def run(array: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise EngineError("told to fail")
        return array

    with pytest.raises(EngineError, match="told to fail"):
        cost.time_block(run, np.zeros(1), warmup=2, calls=5, min_s=0.0, streams=2)


def test_rates_count_every_stream() -> None:
    (row,) = merge([report_data.result([timed(cell("fp32", batch=4, streams=2), [0.1] * 8)])])
    assert row.items_per_s == pytest.approx(4 * 2 / 0.1)
    assert row.items_interval == pytest.approx((80, 80))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_streams_give_the_same_embeddings(runtime: str, sample_artifact: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((2, 3, 64, 64), np.float32) for _ in range(9)]
    spec = zoo.resolve("clipperf-sample")
    found = []
    for streams in (1, 2):
        request = EngineRequest(
            Cell(spec.id, "image", runtime, "fp32", "cpu", 2, 2, streams=streams),
            spec,
            str(sample_artifact / "image" / "model.onnx"),
        )
        engine = contract.get(runtime).open(request)
        assert engine.streams == streams
        found.append(np.concatenate(_streams.run_all(engine, iter(batches))))
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.run(batches[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_failure_in_one_stream_is_raised_and_nothing_more_is_taken() -> None:
    class Broken:
        streams = 2

        def run(self, array: np.ndarray) -> np.ndarray:
            if array[0] == 3:
                raise EngineError("batch 3")
            return array

        def close(self) -> None: ...

    taken: list[int] = []

    def batches() -> Any:
        for i in range(100):
            taken.append(i)
            yield np.full(1, i)

    with pytest.raises(EngineError, match="batch 3"):
        _streams.run_all(Broken(), batches())
    assert len(taken) <= 3 + 2 * 2 + 1


# --- the file, and load --------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample tuned for real, in a store that has it exported."""
    path = tmp_path_factory.mktemp("tuned") / "sample.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
        wishes = tune.Wishes(
            zoo.resolve("clipperf-sample"), runtimes=("onnx",), precisions=("fp32",),
            batches=(1, 4), budget_s=20.0,
        )  # fmt: skip
        found = tune.tune(wishes, path, command="clipperf tune")
    assert [tower.cell.side for tower in found.towers] == ["image", "text"]
    for tower in found.towers:
        assert tower.rss_peak_bytes and tower.rss_peak_bytes > 20 * 2**20
        assert (path.parent / tower.artifact).resolve() == sample_artifact.resolve()
    assert {t.cell.tokens for t in found.trials} == {None, 16}
    return path


def test_load_opens_what_was_tuned(tuned: Path, sample_artifact: Path) -> None:
    images = [Image.new("RGB", (70, 80), colour) for colour in ("red", "green", "blue")]
    with clipperf.load(tuned) as ours, clipperf.load(sample_artifact) as theirs:
        cells = [tower["cell"] for tower in json.loads(tuned.read_text())["towers"]]
        for one in cells:
            engine, batch = ours._engine(one["side"], None)
            assert (engine.streams, batch) == (one["streams"], one["batch"])  # type: ignore[attr-defined]
            assert ours._engine(one["side"], 7)[1] == 7
        np.testing.assert_allclose(
            ours.encode_images(images), theirs.encode_images(images), atol=1e-5
        )
        np.testing.assert_allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-5)


def test_a_tuned_model_says_what_each_tower_runs_in(tuned: Path) -> None:
    with clipperf.load(tuned) as model:
        cells = {t["cell"]["side"]: t["cell"] for t in json.loads(tuned.read_text())["towers"]}
        for side, cell in cells.items():
            assert side in repr(model)
            assert f"in {cell['runtime']} {cell['precision']}, not normalized" in repr(model)


def test_load_in_streams_gives_the_same(tuned: Path, tmp_path: Path, sample_artifact: Path) -> None:
    data = json.loads(tuned.read_text())
    for tower in data["towers"]:
        tower["cell"].update(threads=2, streams=2, batch=2)
        tower["artifact"] = str(sample_artifact)
    path = tmp_path / "streams.json"
    path.write_text(json.dumps(data))
    images = [Image.new("RGB", (70, 80), (40 * i, 0, 99)) for i in range(6)]
    with clipperf.load(path) as ours, clipperf.load(sample_artifact) as theirs:
        np.testing.assert_allclose(
            ours.encode_images(images), theirs.encode_images(images), atol=1e-5
        )
        np.testing.assert_allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-5)


def test_load_warns_on_another_machine(tuned: Path, tmp_path: Path, recwarn: Any) -> None:
    clipperf.load(tuned).close()
    assert not [w for w in recwarn if issubclass(w.category, TuningWarning)]
    data = json.loads(tuned.read_text())
    data["environment"]["cores"] = 999
    path = tuned.with_name("elsewhere.json")
    path.write_text(json.dumps(data))
    with pytest.warns(TuningWarning, match="999 cores"):
        clipperf.load(path).close()


@pytest.mark.parametrize(
    ("device", "here", "said"),
    [
        ("cuda", ("Fast", 80 << 30, "590.1"), None),
        ("cuda", ("Fast", (80 << 30) + (200 << 20), "590.1"), None),
        ("cuda", ("Fast", 40 << 30, "580.1"), "on Fast with 80 GiB, this .* Fast with 40 GiB:"),
        ("cuda", ("Slow", 80 << 30, "580.1"), "on Fast with 80 GiB, this .* Slow with 80 GiB:"),
        ("cuda", (None, None, None), None),
        ("cuda", ImportError("No module named 'pynvml'"), None),
        ("cuda", EngineError("NVML does not tell which GPUs there are"), None),
        ("cpu", ("Slow", 80 << 30, "580.1"), None),
    ],
)
def test_what_was_tuned_for_a_gpu_is_held_against_the_one_here(
    device: str,
    here: tuple[str | None, int | None, str | None] | Exception,
    said: str | None,
    tuned: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Its driver may be another: a later one runs what was tuned.

    A container without the driver's utilities or NVML's package may have it all the same.
    """
    from clipperf.serve import tuned as reader

    def state() -> tuple[str | None, int | None, str | None]:
        if isinstance(here, Exception):
            raise here
        return here

    data = json.loads(tuned.read_text())
    for tower in data["towers"]:
        tower["cell"]["device"] = device
    data["environment"] |= {"gpu": "Fast", "vram_bytes": 80 << 30, "driver": "580.1"}
    path = tuned.with_name("of-a-gpu.json")
    path.write_text(json.dumps(data))
    monkeypatch.setattr(reader, "gpu_state", state)
    reader.read(path)
    found = [w.message for w in recwarn if issubclass(w.category, TuningWarning)]
    assert len(found) == (said is not None)
    assert said is None or re.search(said, str(found[0]))
    data["environment"] |= {"gpu": None, "vram_bytes": None}
    path.write_text(json.dumps(data))
    recwarn.clear()
    reader.read(path)
    assert not [w for w in recwarn if issubclass(w.category, TuningWarning)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "profile"}, "no tuning file"),
        ({"schema_version": 99}, "schema version 99"),
        ({"towers": [{}]}, "damaged"),
        ({"towers": []}, "damaged"),
        ({"environment": None}, "damaged"),
    ],
)
def test_load_refuses_other_files(tuned: Path, change: dict[str, Any], said: str) -> None:
    path = tuned.with_name("other.json")
    path.write_text(json.dumps({**json.loads(tuned.read_text()), **change}))
    with pytest.raises(ArtifactError, match=said):
        clipperf.load(path)
    path.write_text("not json")
    with pytest.raises(ArtifactError, match="damaged"):
        clipperf.load(path)


@pytest.mark.parametrize("change", [{"threads": 0}, {"streams": 500}, {"batch": -3}])
def test_load_refuses_impossible_settings(tuned: Path, change: dict[str, int]) -> None:
    data = json.loads(tuned.read_text())
    data["towers"][0]["cell"].update(change)
    path = tuned.with_name("impossible.json")
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="damaged"):
        clipperf.load(path)


def test_a_tuning_without_its_artifacts_says_what_to_do(tuned: Path, tmp_path: Path) -> None:
    moved = tmp_path / "far" / "away" / "tuned.json"
    moved.parent.mkdir(parents=True)
    moved.write_text(tuned.read_text())
    with pytest.raises(ArtifactError, match=r"which is not there.*--bundle"):
        clipperf.load(moved)
    with pytest.raises(ArtifactError, match="no such file"):
        clipperf.load(tmp_path / "missing.json")
    with pytest.raises(ArtifactError, match="is a tuning"):
        store.read_result(tuned)


def test_a_bundle_holds_all_that_is_needed(
    tuned: Path, sample_artifact: Path, tmp_path: Path
) -> None:
    tuning = from_json(Tuning, json.loads(tuned.read_text()))
    first, moved = tmp_path / "bundle", tmp_path / "elsewhere"
    tune.check_bundle(first)
    tune.write_bundle(tuning, tuned, first)
    tune.check_bundle(first)
    mine = {"labels.json": "[]", "image/notes.txt": "mine", "image/manifest.json.bak": "old"}
    for name, text in mine.items():
        (first / name).write_text(text)
    tune.write_bundle(tuning, tuned, first)  # again, in its place
    for name, text in mine.items():
        assert (first / name).read_text() == text
        (first / name).unlink()
    assert [p.name for p in tmp_path.glob(".*")] == []
    shutil.copytree(first, moved)
    shutil.rmtree(first)
    assert sorted(p.name for p in moved.iterdir()) == ["image", "text", "tuning.json"]
    for side in ("image", "text"):
        manifest = store.read_manifest(moved / side)
        assert [tower.side for tower in manifest.towers] == [side]
        assert not store.check_files(moved / side, manifest, content=True)
    with clipperf.load(moved) as ours, clipperf.load(sample_artifact) as theirs:
        np.testing.assert_allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-5)
        images = [Image.new("RGB", (70, 80), "red")]
        np.testing.assert_allclose(
            ours.encode_images(images), theirs.encode_images(images), atol=1e-5
        )
    other = tmp_path / "other"
    other.mkdir()
    tune.check_bundle(other)
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        tune.check_bundle(other)


def test_the_table_of_a_tuning(tuned: Path) -> None:
    tuning = from_json(Tuning, json.loads(tuned.read_text()))
    found = tuning_table(tuning)
    assert len(found.texts) == len(tuning.trials)
    note = found.names.index("Note")
    assert [row[note] for row in found.texts].count("chosen") == 2
    assert [line.split(":")[0] for line in found.findings] == ["image", "text"]
    assert "Texts have 16 tokens." in found.caveats
    images = dataclasses.replace(
        tuning, trials=tuple(t for t in tuning.trials if t.cell.side == "image")
    )
    assert not any("tokens" in line for line in tuning_table(images).caveats)


def test_a_tuning_of_one_tower_does_not_replace_that_of_both(home: Path) -> None:
    spec = zoo.resolve("clipperf-sample")
    names = {store.tuning_path(spec, sides).name for sides in (SIDES, ("image",), ("text",))}
    assert names == {f"clipperf-sample{end}.json" for end in ("", "-image", "-text")}


def test_load_notices_an_artifact_exported_anew(tuned: Path) -> None:
    data = json.loads(tuned.read_text())
    data["towers"][0]["key"] = "another"
    path = tuned.with_name("older.json")
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"exported anew.*clipperf tune"):
        clipperf.load(path)
    with pytest.raises(UsageError, match="a tuning"):
        clipperf.load(tuned, threads=1)


# --- what it is asked ----------------------------------------------------------------------


def wishes(**changes: Any) -> tune.Wishes:
    return tune.Wishes(zoo.resolve("clipperf-sample"), **changes)


def test_the_space_that_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipperf.engines.processor.kind", lambda: None)
    cores = environment.available_cores()
    found = tune.space(wishes(batches=(8, 1)), "text", {"onnx": "cpu", "openvino": "cpu"})
    assert found.batches == (1, 8)
    assert [(c.runtime, c.precision) for c in found.firsts] == [
        ("openvino", "bf16"), ("openvino", "int8w"), ("onnx", "fp32"), ("openvino", "fp32"),
        ("openvino", "int8-bf16"), ("onnx", "int8"), ("openvino", "int8"), ("onnx", "int8-static"),
    ]  # fmt: skip
    assert {(c.threads, c.streams, c.tokens, c.batch) for c in found.firsts} == {(cores, 1, 16, 8)}
    assert not found.baselines
    beside = {"torch": "cpu", "torch-compile": "cpu", "onnx": "cpu"}
    found = tune.space(wishes(precisions=("bf16", "int8"), streams=(2,)), "text", beside)
    assert [(c.runtime, c.precision, c.streams) for c in found.firsts] == [("onnx", "int8", 2)]
    assert [(c.runtime, c.precision, c.streams) for c in found.baselines] == [
        ("torch", "fp32", 1), ("torch", "bf16", 1),
        ("torch-compile", "fp32", 1), ("torch-compile", "bf16", 1),
    ]  # fmt: skip
    gpu = tune.space(wishes(batches=(8,)), "image", {"trt": "cuda"})
    assert [list(gpu.candidates(c)) for c in gpu.firsts] == [[c] for c in gpu.firsts]
    assert [c.precision for c in gpu.firsts][:2] == ["fp16", "tf32"]
    chosen = wishes(threads=(1, 4), streams=(2, 4), precisions=("fp32",))
    found = tune.space(chosen, "image", {"onnx": "cpu"})
    assert found.splits == ((4, 2), (4, 4))
    assert [(c.threads, c.streams) for c in found.firsts] == [(4, 2)]


def test_wishes_that_nothing_can_meet_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--streams 4.*--threads is 2"):
        tune.space(wishes(threads=(1, 2), streams=(4,)), "image", {"onnx": "cpu"})
    with pytest.raises(UsageError, match=r"--streams 4.*--threads is 2"):
        tune.space(wishes(threads=(2,), streams=(1, 4)), "image", {"onnx": "cpu"})
    with pytest.raises(UsageError, match="--streams 2: trt runs one batch at a time"):
        tune.space(wishes(threads=(2,), streams=(2,)), "image", {"trt": "cuda"})
    for runtimes in (("onnx",), None):
        with pytest.raises(UsageError, match=r"no precision 'tf32' in onnx.*fp32"):
            tune.usable_devices(runtimes, ("tf32",), "cpu")
    with pytest.raises(UsageError, match="no artifact"):
        tune.usable_devices(("torch",), None, None)
    beside = tune.usable_devices(("torch", "onnx"), ("int8",), None)
    assert beside == {"torch": "cpu", "onnx": "cpu"}
    with pytest.raises(UsageError, match=r"no precision 'bf16' in onnx"):
        tune.usable_devices(("torch", "onnx"), ("bf16",), None)
    with pytest.raises(MissingDependencyError, match="doctor"):
        tune.usable_devices(None, None, "abacus")
    assert tune.usable_devices(("onnx",), None, None) == {"onnx": "cpu"}


def test_a_baseline_is_measured_and_never_chosen(tmp_path: Path) -> None:
    faster = {"fp32": 0.002, "int8": 0.02}
    found = search_of(tmp_path, lambda cell: faster[cell.precision], precisions=("int8",))
    baseline = cell("fp32", batch=4)
    found.space = dataclasses.replace(found.space, baselines=(baseline, cell("bf16", batch=4)))
    best, _ = found.run()
    assert best.cell.precision == "int8"
    known = found.trials[baseline]
    assert known.verdict == search.BASELINE and known.items_per_s is not None
    assert known.items_per_s > best.items_per_s  # type: ignore[operator]
    assert found.trials[cell("bf16", batch=4)].verdict == "bf16 drifted"
    assert not [c for c in found.trials if c.precision == "fp32" and c != baseline]


def test_a_baseline_that_compiles_for_long_is_ended_in_time(tmp_path: Path) -> None:
    """It would take an hour to load; two seconds are left, then half of one for the next."""
    script = {"load_s": 3600}
    found = search_of(tmp_path, lambda cell: 0.01, precisions=("int8",), script=script)
    stages: list[str] = []
    found.on_stage = stages.append
    late, none = cell("fp32", batch=4), cell("fp16", batch=4)
    found.space = dataclasses.replace(found.space, baselines=(late, none))
    assert found._baselines(iter([2.0, 0.0, 0.5]).__next__) == [late, none]
    assert found.trials[late].verdict == search.OVER_IN_STEP
    assert found.trials[none].verdict == OVER_BUDGET
    assert "a baseline, loading or compiling for at most 2" in " ".join(stages)


def test_weights_that_cannot_be_had_end_the_search_at_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    stages: list[str] = []
    wanted = tune.Wishes(zoo.resolve("M-CLIP/LABSE-Vit-L-14"), ("text",))
    with pytest.raises(WeightsError, match="LABSE-Vit-L-14 cannot be fetched"):
        tune.tune(wanted, tmp_path / "tuned.json", on_stage=stages.append)
    assert stages == ["fetching the weights of M-CLIP/LABSE-Vit-L-14::hub"]
    assert not (tmp_path / "tuned.json").exists()


def failures() -> list[type[ClipperfError]]:
    """Every class of `clipperf.errors` but the base."""
    known = [ClipperfError]
    for kind in known:
        known += kind.__subclasses__()
    return known[1:]


def test_a_candidate_that_cannot_be_made_fails_alone_whatever_the_error(tmp_path: Path) -> None:
    raised = {str(number): kind for number, kind in enumerate(failures())}
    assert WeightsError in raised.values() and ParityError in raised.values()

    def request(candidate: Cell) -> tuple[EngineRequest, int]:
        kind = raised.get(candidate.precision)
        if kind is not None:
            raise kind(f"no {kind.__name__} here")
        return EngineRequest(candidate, SPEC, str(tmp_path / candidate.precision)), 0

    found = search_of(
        tmp_path, lambda c: 1e-3, precisions=(*raised, "fp32"), batches=(1,), request_of=request
    )
    assert found.run()[0].cell.precision == "fp32"
    for precision, kind in raised.items():
        trial = found.trials[cell(precision, batch=1)]
        assert trial.verdict == f"no {kind.__name__} here" and trial.items_per_s is None


def test_candidates_that_fail_alike_are_told_once(tmp_path: Path) -> None:
    def request(candidate: Cell) -> tuple[EngineRequest, int]:
        raise WeightsError("no network")

    found = search_of(tmp_path, batch_s, request_of=request)
    with pytest.raises(MeasurementError) as caught:
        found.run()
    assert str(caught.value).count("no network") == 1
    assert all(trial.cell.label in str(caught.value) for trial in found.trials.values())


def test_a_file_that_cannot_be_written_is_noticed_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        tune.tune(wishes(), tmp_path / "file" / "tuned.json")


def test_tune_from_the_command_line(
    cli: Cli, home: Path, sample_artifact: Path, tmp_path: Path
) -> None:
    store_of(sample_artifact, home)
    out = tmp_path / "tuned.json"
    done = cli(
        "tune", "clipperf-sample", "--tower", "text", "--runtime", "onnx", "--precision", "fp32",
        "--batch", "4", "--threads", "1", "--tokens", "8", "--minutes", "0.2", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout and f'clipperf.load("{out}")' in done.stdout
    with clipperf.load(out) as model:
        assert model.encode_texts(["a cat"]).shape == (1, model.embed_dim)
        with pytest.raises(ArtifactError, match="--tower image"):
            model.encode_images([Image.new("RGB", (8, 8))])
    (tower,) = json.loads(out.read_text())["towers"]
    assert tower["cell"]["tokens"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes"),
        (["--max-batch-ms", "nan"], "--max-batch-ms"),
        (["--tokens", "999"], "--tokens 999"),
        (["--tokens", "9", "--tower", "image"], "for text towers"),
        (["--device", "tpu"], "choose cpu or cuda"),
        (["--out", "."], "is a folder"),
    ],
)
def test_bad_options_are_refused(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("tune", "clipperf-sample", *arguments)
    assert done.returncode == 2 and said in done.stderr
