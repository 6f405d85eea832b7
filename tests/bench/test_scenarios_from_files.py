"""Files to vectors with real images, real threads and real engines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from clipperf.bench import cost, file_runs
from clipperf.bench.file_work import file_work
from clipperf.bench.jobs import Event, Job, Prepared
from clipperf.bench.scenarios import from_files
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.from_files import FROM_FILES, Way
from clipperf.system import env


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five JPEG files of 320x240 and one of 64x48, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    noise = np.random.default_rng(0)
    for place in range(6):
        size = (320, 240) if place else (64, 48)
        coarse = Image.fromarray(noise.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        name = folder / ("more" if place % 2 else ".") / f"{place}.jpg"
        coarse.resize(size, Image.Resampling.BICUBIC).save(name)
    (folder / "notes.txt").write_text("no image")
    return folder


# --- what is read --------------------------------------------------------------------------


def test_every_image_below_the_folder_and_every_way(photos: Path) -> None:
    work = file_work(str(photos), ["exact"], [0, 2])
    assert sorted(Path(p).name for p in work.paths) == [f"{n}.jpg" for n in range(6)]
    assert work.ways == (Way("exact", 0), Way("exact", 2))
    assert work.middle_px == (320, 240)


def test_what_cannot_be_read_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="there is no folder at"):
        file_work(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no images in"):
        file_work(str(tmp_path))
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff no more")
    with pytest.raises(UsageError, match=r"cut\.jpg"):
        file_work(str(tmp_path))
    with pytest.raises(UsageError, match="; --skip-unreadable leaves it out"):
        file_work(str(tmp_path))
    with pytest.raises(UsageError, match=r"no image in .* can be read"):
        file_work(str(tmp_path), skip_unreadable=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "two.png")
    work = file_work(str(tmp_path), ["exact"], skip_unreadable=True)
    assert [Path(path).name for path in work.paths] == ["two.png"] and work.middle_px == (8, 8)
    assert len(work.notes) == 1 and "left out 1 image that cannot be read" in work.notes[0]
    (tmp_path / "two.png").unlink()
    (tmp_path / "cut.jpg").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match="exact, fast, draft"):
        file_work(str(tmp_path), ["quick"])
    monkeypatch.setitem(__import__("sys").modules, "cykooz_resizer", None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[fast\]"):
        file_work(str(tmp_path), ["draft"])


def test_only_as_many_files_are_looked_at_as_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 files: 256 of them for batch 1; for batch 48, which reads 6 times 48, 288."""
    looked: list[Path] = []

    def load_image(path: Path) -> Image.Image:
        looked.append(path)
        return Image.new("RGB", (8, 6))

    monkeypatch.setattr("clipperf.bench.file_work.load_image", load_image)
    for place in range(300):
        (tmp_path / f"{place:03}.jpg").touch()
    work = file_work(str(tmp_path), ["exact"])
    assert len(looked) == len(set(work.paths)) == 256
    assert work.notes == ("Of 300 image files 256, evenly spread, are read over and over.",)
    assert len(file_work(str(tmp_path), ["exact"], batch=48).paths) == 288
    assert file_work(str(tmp_path), ["exact"], batch=64).notes == ()


# --- how it is measured --------------------------------------------------------------------


class Slow:
    """An engine that takes a known time, and notes what it was given."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.given: list[np.ndarray] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        over = cost.deadline(self.seconds)
        while not over():
            pass
        self.given.append(array.copy())
        return np.zeros((len(array), 4), np.float32)

    def close(self) -> None:
        pass


def test_whole_batches_go_round_and_round(photos: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.jpg")))
    engine, spec = Slow(0.0), PreprocessSpec(width_px=8, height_px=8)
    samples = file_runs.feed(engine, paths, spec, "uint8", 4, 2, calls=3)
    assert len(samples) == 3, "the first batch fills the pipe and does not count"
    assert [array.shape for array in engine.given] == [(4, 3, 8, 8)] * 4
    rows = np.concatenate(engine.given)
    np.testing.assert_array_equal(rows[:4], rows[12:16])  # the thirteenth image is the first again
    assert rows[0].std() > 0


@pytest.mark.timing
def test_an_engine_that_is_slow_waits_for_nothing(photos: Path) -> None:
    """Times with a wide margin: pixels of an image take a few milliseconds, the engine 150."""
    paths = sorted(map(str, photos.rglob("*.jpg")))
    spec = PreprocessSpec(width_px=8, height_px=8)
    beside = file_runs.feed(Slow(0.15), paths, spec, "float32", 1, 1, calls=4)
    assert min(engine_s for _, engine_s in beside) >= 0.15
    assert np.median([wait_s for wait_s, _ in beside]) < 0.05
    before = file_runs.feed(Slow(0.0), paths, spec, "float32", 1, 0, calls=4)
    assert all(wait_s > engine_s for wait_s, engine_s in before), "nothing runs beside it"


def test_pixels_alone_cost_something(photos: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.jpg")))
    decode_s, resize_s = file_runs.pixel_costs(paths, PreprocessSpec(), "float32")
    assert 0 < decode_s < 1
    assert 0 < resize_s < 1


def job(photos: Path, *scripts: dict[str, Any], folder: Path, side: Any = "image") -> Job:
    sample = zoo.resolve("clipperf-sample")
    cells = []
    for number, script in enumerate(scripts):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(script))
        cell = Cell(sample.id, side, "simulated", f"p{number}", "cpu", 2, 1, scenario=FROM_FILES)
        cells.append(Prepared(EngineRequest(cell, sample, str(path)), 7))
    return Job("g", FROM_FILES, tuple(cells), QUICKER, files=file_work(str(photos), ["exact"], [1]))


QUICKER = cost.Settings(
    min_runs=4, min_blocks=2, min_s=0.0, max_s=20.0, target_rel_width=10.0, block_calls=2,
    timeout_s=60.0,
)  # fmt: skip


def test_a_cell_that_fails_is_a_row_and_others_go_on(photos: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    work = job(photos, {"run_s": 0.01}, {"fail_at": "load"}, folder=tmp_path)
    from_files.measure(work, env.capture(), (), events.append)
    rows = [event.measurement for event in events if event.measurement is not None]
    assert [row.kind for row in rows] == ["files", "files"]
    good, bad = rows
    assert (good.status, good.disk_bytes, good.group) == ("ok", 7, "g")
    (run,) = good.file_runs
    assert len(run.engine_s) == len(run.wait_s) == len(run.blocks) >= 4
    assert min(run.engine_s) >= 0.01
    assert run.stable
    assert run.decode_s > 0
    assert bad.status == "failed"
    assert bad.error
    facts = [event.text for event in events if event.kind == "fact"]
    assert facts == ["6 image files, the middle one 320x240."]


def test_texts_and_no_files_are_refused(photos: Path, tmp_path: Path) -> None:
    texts = job(photos, {}, folder=tmp_path, side="text")
    with pytest.raises(UsageError, match="image towers"):
        from_files.measure(texts, env.capture(), (), lambda event: None)
    nothing = dataclasses.replace(job(photos, {}, folder=tmp_path), files=None)
    with pytest.raises(UsageError, match="--from-files FOLDER"):
        from_files.measure(nothing, env.capture(), (), lambda event: None)


# --- the command ---------------------------------------------------------------------------


def test_the_command_measures_and_the_report_shows_it(
    sample_artifact: Path, cli: Cli, photos: Path, tmp_path: Path
) -> None:
    home, file = sample_artifact.parents[3], tmp_path / "files.json"
    done = cli(
        "profile", "clipperf-sample", "--from-files", photos, "--runtime", "onnx", "--batch", "2",
        "--preprocess", "exact", "--preprocess-threads", "0,1", "--quick", "--json", file,
        home=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Held up by" in done.stdout + done.stderr
    (row,) = json.loads(file.read_text())["measurements"]
    assert row["cell"]["scenario"] == "from-files"
    assert [run["way"]["threads"] for run in row["file_runs"]] == [0, 1]
    shown = cli("report", file, "--format", "md", home=home)
    assert "## From files" in shown.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preprocess", "fast"), "--preprocess says how files are read"),
        (("--from-files", "{photos}", "--tower", "text"), "leave out --tower text"),
        (("--from-files", "{photos}", "--tokens", "8"), "leave out --tokens"),
        (("--from-files", "{photos}", "--compare-published"), "leave out --compare-published"),
        (("--from-files", "{photos}", "--preprocess-threads", "-1"), "the numbers start at 0"),
        (("--scenario", "from-files", "--tower", "image"), "give --from-files FOLDER"),
    ],
)
def test_options_that_do_not_go_together(
    sample_artifact: Path, cli: Cli, photos: Path, words: tuple[str, ...], said: str
) -> None:
    given = [word.format(photos=photos) for word in words]
    done = cli(
        "profile", "clipperf-sample", "--runtime", "onnx", *given, home=sample_artifact.parents[3]
    )
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split()), done.stderr
