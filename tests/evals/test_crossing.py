"""Queries of one engine in an index of another, by hand and on made-up engines."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

from clipperf.errors import UsageError
from clipperf.evals.crossing import Answer, Party, answer_of, cross, in_common, in_words
from clipperf.evals.datasets import Dataset
from clipperf.evals.place import SAMPLE
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import CrossScore
from clipperf.report.build import build_report
from clipperf.system.store import read_result

A = Cell("tiny", "image", "onnx", "fp16", "cpu", 1, 1)
B = replace(A, precision="int8")


def captioned(n: int) -> Dataset:
    images = tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(n))
    captions = tuple(f"no {i}" for i in range(n))
    return Dataset("made up", "0" * 64, images, captions, tuple(range(n)))


def at(*degrees: float) -> np.ndarray:
    """Vectors of length 1 in a plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rows_of(rows: list[CrossScore], side: str, metric: str) -> tuple[CrossScore, CrossScore]:
    found = {r.alone: r for r in rows if (r.score.cell.side, r.score.metric) == (side, metric)}
    return found["queries"], found["index"]


# A puts each image where its text is; B swaps the last two images, so that alone it finds one of
# three. A's texts in B's images find one of three, A's images in B's texts all of them.
OURS = at(0, 90, 180), at(0, 90, 180)
THEIRS = at(0, 180, 90), at(0, 90, 180)


def test_retrieval_by_hand() -> None:
    ours, theirs = (Embeddings(images, {"captions": texts}) for images, texts in (OURS, THEIRS))
    rows = cross(captioned(3), Party("a", A, ours), Party("b", B, theirs), margin=0.02)
    queries, index = rows_of(rows, "text", "text-to-image recall@1")
    assert queries.score.value == pytest.approx(1 / 3) == index.score.value
    assert (queries.score.baseline_value, index.score.baseline_value) == (1, pytest.approx(1 / 3))
    assert queries.score.difference == pytest.approx(-2 / 3) and index.score.difference == 0
    assert queries.score.flips == 2 and index.score.flips == 0
    assert queries.score.mcnemar_p == pytest.approx(0.5)  # two of two coins, either way
    queries, index = rows_of(rows, "image", "image-to-text recall@1")
    assert queries.score.value == index.score.value == 1
    assert queries.score.difference == 0 and index.score.difference == pytest.approx(2 / 3)
    assert len(rows) == 4  # both ways against both; at 5 none can miss, nor is there a tenth
    for row in rows:
        assert (row.score.cell.precision, row.index, row.names) == ("fp16", B, ("a", "b"))
        assert row.score.margin == 0.02 and row.score.n == 3
    assert rows[0].score.baseline_runtime == "onnx"


def test_classes_are_taken_with_either_side_as_the_index() -> None:
    data = replace(
        captioned(3),
        captions=(),
        caption_image=(),
        labels=(0, 1, 2),
        class_names=("x", "y", "z"),
        templates=("{}",),
    )
    ours, theirs = (Embeddings(images, {"prompts": texts}) for images, texts in (OURS, THEIRS))
    rows = cross(data, Party("a", A, ours), Party("b", B, theirs))
    prompts, _ = rows_of(rows, "text", "zeroshot top-1")
    assert prompts.score.value == pytest.approx(1 / 3) and prompts.score.baseline_value == 1
    images, index = rows_of(rows, "image", "zeroshot top-1")
    assert images.score.value == 1 and index.score.difference == pytest.approx(2 / 3)


def test_other_widths_never_meet() -> None:
    ours = Embeddings(at(0, 90, 180), {"captions": at(0, 90, 180)})
    wide = np.eye(3, 5, dtype=np.float32)
    theirs = Embeddings(wide, {"captions": wide})
    with pytest.raises(UsageError, match="a embeds in 2 dimensions and b in 5: neither"):
        cross(captioned(3), Party("a", A, ours), Party("b", B, theirs))


# --- neighbours ----------------------------------------------------------------------------


def test_neighbours_in_common_by_hand() -> None:
    query, index = at(0), at(0, 20, 40, 60, 80)
    turned = at(0, 80, 40, 60, 20)
    # The nearest three are 0, 1, 2 here and 0, 4, 2 there.
    assert in_common((query, turned), (query, index), 3).tolist() == [pytest.approx(2 / 3)]
    assert in_common((query, index), (query, index), 3).tolist() == [1]
    # A place of one's own is left out: of 1 to 4 the nearest two are 1, 2 here and 4, 2 there.
    square = (at(0, 20, 40, 60, 80), turned)
    assert in_common(square, (index, index), 2, itself=False)[0] == 0.5


def test_equal_neighbours_are_in_common_whichever_is_taken() -> None:
    query, index = at(0), at(0, 30, 30, 30, 30)
    noise = index + np.array([[0], [0], [1], [2], [3]], np.float32) * 1e-8
    assert in_common((query, noise), (query, index), 2).tolist() == [1]


# --- answers -------------------------------------------------------------------------------


def engines(n: int, noise: float) -> tuple[Embeddings, Embeddings, np.random.Generator]:
    """Two engines that differ by noise alone."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 16))
    texts = images + 0.5 * rng.normal(size=images.shape)

    def seen(values: np.ndarray) -> np.ndarray:
        return normalize(values + noise * rng.normal(size=values.shape))

    ours = Embeddings(normalize(images), {"captions": normalize(texts)})
    return ours, Embeddings(seen(images), {"captions": seen(texts)}), rng


def crossed(n: int, ours: Embeddings, theirs: Embeddings, **options: object) -> list[CrossScore]:
    parties = Party("onnx fp16", A, ours), Party("onnx int8", B, theirs)
    return cross(captioned(n), *parties, **options)  # type: ignore[arg-type]


def test_an_engine_that_answers_alike_can_take_the_place_of_another() -> None:
    ours, theirs, _ = engines(800, 1e-4)
    rows = crossed(800, ours, theirs, margin=0.01)
    assert answer_of(rows) is Answer.YES
    said = in_words(rows)
    assert said.startswith("yes: onnx fp16 can search what onnx int8 has embedded (margin 1pp; ")
    assert "against onnx fp16 alone at worst" in said and "against onnx int8 alone" in said
    shared = [r.score for r in rows if r.score.difference is None]
    assert {s.metric for s in shared} == {
        f"{way} 10 nearest in common"
        for way in ("text-to-image", "image-to-text", "image-to-image")
    }
    assert all(s.value > 0.99 and s.chance == pytest.approx(0.0125, abs=1e-4) for s in shared)


def test_engines_that_are_right_alone_may_not_fit_together() -> None:
    ours, theirs, rng = engines(800, 1e-4)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    turned = Embeddings(
        normalize(theirs.images @ turn), {"captions": normalize(theirs.texts["captions"] @ turn)}
    )
    rows = crossed(800, ours, turned, margin=0.01)
    queries, index = rows_of(rows, "text", "text-to-image recall@1")
    assert queries.score.baseline_value == pytest.approx(index.score.baseline_value, abs=0.01)
    assert queries.score.value < 0.02 < 0.5 < queries.score.baseline_value
    assert answer_of(rows) is Answer.NO
    assert in_words(rows).startswith(
        "no: onnx fp16 needs what onnx int8 has embedded to be embedded again (margin 1pp; "
        "against onnx fp16 alone at worst -"
    )


def test_few_samples_say_how_many_would_do() -> None:
    ours, theirs, _ = engines(30, 1e-6)
    rows = crossed(30, ours, theirs, margin=0.01)
    assert answer_of(rows) is Answer.TOO_FEW
    # With nothing flipped: 0.025 ** (1 / n) = 1 - 0.01 at n = 367.04.
    assert "; about 370 samples would do" in in_words(rows)


def test_random_weights_say_nothing() -> None:
    ours, theirs, _ = engines(30, 1e-6)
    rows = crossed(30, ours, theirs, random_weights=True)
    assert answer_of(rows) is Answer.NOTHING
    assert in_words(rows) == (
        "nothing can be said: no figure of onnx fp16 and onnx int8 could be compared: the weights "
        "of tiny are random, and what these find is left to chance"
    )


def test_two_models_are_said_to_be_two() -> None:
    """Each finds what it should in its own space, of which the other's is a turn."""
    ours, _, rng = engines(800, 1e-4)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    turned = Embeddings(ours.images @ turn, {"captions": ours.texts["captions"] @ turn})
    other = Party("mine", replace(B, model_id="other"), turned)
    rows = cross(captioned(800), Party("onnx fp16", A, ours), other, margin=0.01)
    assert answer_of(rows) is Answer.NO
    assert in_words(rows).startswith(
        "no: onnx fp16 needs what mine has embedded to be embedded again: they are two models, "
        "tiny and other, and each may have a space of its own (margin 1pp; "
    )
    chance = cross(captioned(800), Party("onnx fp16", A, ours), other, random_weights=True)
    assert "left to chance" in in_words(chance) and "space" not in in_words(chance)
    none = [row for row in rows if row.score.difference is None]
    assert in_words(none) == (
        "nothing can be said: no figure of onnx fp16 and mine could be compared: they are two "
        "models, tiny and other, and each may have a space of its own"
    )


@pytest.mark.parametrize(("n", "answer"), [(800, Answer.YES), (30, Answer.TOO_FEW)])
def test_two_models_of_one_space_are_not_said_to_have_two(n: int, answer: Answer) -> None:
    """Such as one that was trained to answer as the other does."""
    ours, theirs, _ = engines(n, 1e-6)
    student = Party("mine", replace(B, model_id="student"), theirs)
    rows = cross(captioned(n), Party("onnx fp16", A, ours), student, margin=0.01)
    assert answer_of(rows) is answer and "space" not in in_words(rows)


def test_other_weights_of_one_name_are_noted(
    cli: Cli, sample_artifact: Path, samples: str, tmp_path: Path
) -> None:
    shutil.copytree(sample_artifact, tmp_path / "mine")
    manifest = tmp_path / "mine" / "manifest.json"
    known = json.loads(manifest.read_text())
    for tower in known["towers"]:
        tower["weights_id"] = "f" * 64
    manifest.write_text(json.dumps(known))
    asked = ("--index-compat", tmp_path / "mine", sample_artifact, "--dataset", samples, "-q")
    done = cli("eval", *asked, home=sample_artifact.parents[3], check=True)
    said = " ".join(done.stdout.split())
    assert "have other weights, though both are called clipperf-sample" in said
    assert "space of its own" not in said
    assert cli("eval", "--index-compat", sample_artifact, *asked[2:], check=True).stdout.count(
        "other weights"
    ) == 0  # fmt: skip


# --- the command ---------------------------------------------------------------------------


def test_the_command_answers_and_leaves_its_rows(
    cli: Cli, sample_artifact: Path, samples: str, tmp_path: Path
) -> None:
    home, target = sample_artifact.parents[3], tmp_path / "c.json"
    asked = ("eval", "--index-compat", "torch", sample_artifact, "--dataset", samples, "-q")
    done = cli(*asked, "--json", target, "--margin", "1pp", home=home)
    # PyTorch and its export answer alike, but 24 samples cannot show that a margin is kept.
    assert done.returncode == 1, done.stderr
    page = " ".join(done.stdout.split())
    assert "clipperf-sample on few: too few samples to say: torch fp32 in an index of" in page
    result = read_result(target)
    assert result.scores == () and len(result.crossed) == 2 * (3 + 3) + 2 * 3
    assert {row.names for row in result.crossed} == {("torch fp32", str(sample_artifact))}
    cells = {(row.score.cell.runtime, row.index.runtime) for row in result.crossed}
    assert cells == {("torch", "onnx")}
    shared = [r.score.value for r in result.crossed if "in common" in r.score.metric]
    assert len(shared) == 6 and min(shared) == 1
    document = build_report([result])
    assert [section.title for section in document.sections] == ["Changing the engine"]
    figures, neighbours = document.sections[0].tables
    assert (len(figures.rows), len(neighbours.rows)) == (6, 3)
    assert document.findings[0].startswith("clipperf-sample on few: too few samples to say: tor")
    record = document.records[0]
    assert (record["record"], record["index_runtime"], record["runtime"], record["alone"]) == (
        "crossing",
        "onnx",
        "torch",
        "queries",
    )


@pytest.mark.slow
def test_eight_bits_can_search_what_sixteen_have_embedded(
    cli: Cli, sample_in: Callable[[str], Path], tmp_path: Path
) -> None:
    target, data = tmp_path / "c.json", tmp_path / "drawings"
    int8, fp16 = sample_in("int8"), sample_in("fp16")
    with zipfile.ZipFile(SAMPLE) as archive:
        rows = archive.read("captions.jsonl").decode().splitlines()[::4]
        archive.extractall(data, [json.loads(row)["image"] for row in rows])
    (data / "captions.jsonl").write_text("\n".join(rows))
    asked = ("eval", "--index-compat", int8, fp16, "--dataset", data, "--margin", "5pp")
    done = cli(*asked, "--json", target, "-q")
    assert done.returncode == 0, done.stderr
    assert "clipperf-sample on drawings: yes: " in " ".join(done.stdout.split())
    left = read_result(target).crossed
    assert {row.names for row in left} == {(str(int8), str(fp16))}
    compared = [row.score for row in left if row.score.difference is not None]
    assert {score.n for score in compared} == {len(rows)} == {400}
    assert max(score.value for score in compared) > 0.7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("onnx:fp16", "nowhere"), "give RUNTIME:PRECISION, such as onnx:fp16, or an artifact fo"),
        (("onnx:fp99", "onnx"), "no precision 'fp99' in onnx; choose from fp32"),
        (("onnx:fp16:float32:more", "onnx"), "'onnx:fp16:float32:more': give RUNTIME:PRECISION"),
        (("onnx:fp16:bytes", "onnx"), "choose float32 or uint8"),
        (("onnx", "onnx", "--precision", "fp16"), "leave out --runtime, --precision, --input"),
        (("onnx", "onnx", "--suite", "datacomp38"), "leave out --runtime, --precision, --input"),
        (("{artifact}", "onnx", "RN50"), "says of which model it is: leave out MODEL"),
    ],
)
def test_what_is_no_engine_is_refused(
    cli: Cli, sample_artifact: Path, words: tuple[str, ...], said: str
) -> None:
    given = [word.format(artifact=sample_artifact) for word in words]
    done = cli("eval", "--index-compat", *given, "-q")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
