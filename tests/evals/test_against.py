"""Scores beside published figures: real tables that are read, made-up ones that are compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli
from report_data import cell, score

from clipperf.errors import UsageError
from clipperf.evals import against
from clipperf.evals.against import (
    FLICKR,
    Beside,
    Nearness,
    beside,
    check_models,
    names_of,
    whose_prompts,
    why_nothing,
)
from clipperf.evals.datasets import Dataset
from clipperf.evals.figures import OwnTable, figures_of, spread_of
from clipperf.evals.layout import DEFAULT_TEMPLATES
from clipperf.models import zoo
from clipperf.models.published import Published
from clipperf.nouns.result import Score

MADE_UP = "model,pretrained,dataset,metric,value\n"


def table(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- tables --------------------------------------------------------------------------------


def test_a_table_of_ones_own_has_a_figure_a_line(tmp_path: Path) -> None:
    figures = figures_of(
        table(
            tmp_path / "own.csv",
            "model,pretrained,dataset,metric,value,source\n"
            "ViT-B-32,laion2b_e16,mine,acc1,0.5,ours\n"
            "vit-b-32,LAION2B-E16,mine,acc5,0.9,\n"
            "ViT-B-16,laion2b_e16,mine,acc1,,\n",
        )
    )
    assert figures("ViT-B-32", "laion2b-e16") == [
        Published("mine", "acc1", 0.5, "ours"),
        Published("mine", "acc5", 0.9, "own.csv"),
    ]
    assert figures("ViT-B-16", "laion2b_e16") == []


def test_a_table_of_clip_benchmarks_own_form(tmp_path: Path) -> None:
    figures = figures_of(
        table(
            tmp_path / "benchmark.csv",
            "acc1,acc5,dataset,image_retrieval_recall@5,lp_acc1,model,pretrained,task\n"
            "0.25,0.75,vtab/pets,,0.9,RN50,openai,zeroshot_classification\n"
            ",,flickr8k,0.5,,RN50,openai,zeroshot_retrieval\n",
        )
    )
    assert [(f.dataset, f.metric, f.value) for f in figures("RN50-quickgelu", "openai")] == [
        ("vtab/pets", "acc1", 0.25),
        ("vtab/pets", "acc5", 0.75),
        ("flickr8k", "image_retrieval_recall@5", 0.5),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,dataset,acc1\nRN50,mine,0.5\n", "the header is model, dataset, acc1; it takes col"),
        ("model,pretrained,dataset,n\nRN50,openai,mine,5\n", "it takes columns model, pretrained"),
        (f"{MADE_UP}RN50,openai,mine,acc1,55.3\n", "line 2: acc1 is '55.3': figures are shares of"),
        (f"{MADE_UP}RN50,openai,mine,acc1,nan\n", "line 2: acc1 is 'nan'"),
        (f"{MADE_UP}RN50,openai,mine,acc1\n", "line 2: it has another number of fields"),
        (f"{MADE_UP}RN50,openai,mine,acc1,1,2\n", "line 2: it has another number of fields"),
        (MADE_UP, "holds no figures"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        figures_of(table(tmp_path / "own.csv", text))


def test_neither_published_nor_a_file() -> None:
    with pytest.raises(
        UsageError, match="--against 'publshed' is not there: give published, or a CSV file"
    ):
        figures_of("publshed")


def test_the_spread_is_what_two_published_runs_differ_by() -> None:
    assert spread_of("imagenet1k") == spread_of("mine") == 0.007
    # ViT-B-32 openai: 0.447 and 0.2630, the most of twelve models.
    assert spread_of("vtab/diabetic_retinopathy") == pytest.approx(0.184, abs=5e-4)
    assert spread_of("vtab/pcam") == pytest.approx(0.012, abs=5e-4)


# --- beside --------------------------------------------------------------------------------


def near(scores: list[Score], figures: list[Published], prompts: str = "") -> list[Beside]:
    specs = [zoo.resolve("ViT-B-32", "openai")]
    given = {score.dataset: prompts for score in scores}
    return beside(scores, specs, lambda architecture, tag: figures, given)


def scored(dataset: str, metric: str, value: float, side: str = "image", **fields: object) -> Score:
    at = cell(side, "onnx", model="ViT-B-32::openai")
    interval = (round(value - 0.02, 6), round(value + 0.03, 6))
    found = score(at, value, metric=metric, ci95=interval, **fields)  # type: ignore[arg-type]
    return replace(found, dataset=dataset)


@pytest.mark.parametrize(
    ("figure", "allowed", "nearness"),
    [
        # To the other side of the interval counts the end on that side.
        (0.636, 0.037, Nearness.AGREES),
        (0.638, 0.037, Nearness.APART),
        (0.574, 0.027, Nearness.AGREES),
        (0.572, 0.027, Nearness.APART),
    ],
)
def test_what_sampling_and_the_spread_explain(
    figure: float, allowed: float, nearness: Nearness
) -> None:
    scores = [scored("wds_vtab-pets", "zeroshot top-1", 0.6)]
    (row,) = near(scores, [Published("vtab/pets", "acc1", figure, "made up")])
    assert row.allowed == pytest.approx(allowed) and row.nearness is nearness
    assert row.difference == pytest.approx(0.6 - figure) and row.differs == ()


def test_a_set_on_which_published_runs_differ_widely_explains_more() -> None:
    scores = [scored("vtab/diabetic_retinopathy", "zeroshot top-1", 0.6)]
    (row,) = near(scores, [Published("vtab/diabetic_retinopathy", "acc1", 0.45, "made up")])
    assert row.nearness is Nearness.AGREES and row.allowed == pytest.approx(0.204, abs=5e-4)


def test_metrics_have_the_names_of_either_side() -> None:
    scores = [
        scored("flickr30k", "text-to-image recall@1", 0.4, "text"),
        scored("flickr30k", "image-to-text recall@1", 0.6),
        scored("flickr30k", "text-to-image recall@5", 0.8, "text"),
    ]
    figures = [
        Published("flickr30k", "mean_recall@1", 0.5, "made up"),
        Published("flickr30k", "image_retrieval_recall@5", 0.8, "made up"),
        Published("flickr30k", "text_retrieval_recall@5", 0.9, "made up"),  # not scored
        Published("flickr30k", "text-to-image recall@1", 0.4, "made up"),
        Published("mscoco_captions", "mean_recall@1", 0.5, "made up"),
    ]
    assert [(row.figure.metric, row.value) for row in near(scores, figures)] == [
        ("mean_recall@1", 0.5),
        ("image_retrieval_recall@5", 0.8),
        ("text-to-image recall@1", 0.4),
    ]
    assert names_of("linear_probe_mean_acc1_acc5") == ("linear probe mean(top-1, top-5)",)


def test_figures_of_another_split_stand_beside_but_are_not_compared() -> None:
    scores = [scored("flickr30k", "text-to-image recall@5", 0.835, "text")]
    specs = [zoo.resolve("ViT-B-32", "openai")]
    rows = beside(scores, specs, figures_of("published"), {})
    found = {row.figure.source: row for row in rows}
    assert found["CLIP-as-service"].figure.value == 0.413
    assert found["CLIP-as-service"].nearness is Nearness.OTHER
    assert found["CLIP-as-service"].differs == (FLICKR,)
    for source in ("LAION CLIP_benchmark", "open_clip docs"):
        assert found[source].nearness is Nearness.AGREES
    assert found["LAION CLIP_benchmark"].differs == ("precision: fp32 here, autocast there",)


def test_what_differs_of_the_protocol_is_named() -> None:
    scores = [scored("vtab/pets", "zeroshot top-1", 0.8)]
    rows = near(
        scores,
        [
            Published("vtab/pets", "acc1", 0.8, "LAION CLIP_benchmark"),
            Published("vtab/pets", "acc1", 0.8, "CLIP-as-service"),
            Published("vtab/pets", "acc1", 0.8, "CLIP paper, Table 4"),
        ],
        "the 5 of clipperf",
    )
    assert [row.differs for row in rows] == [
        (
            "prompts: the 5 of clipperf here, clip-benchmark's there",
            "precision: fp32 here, autocast there",
        ),
        ("prompts: the 5 of clipperf here, clip-benchmark's there",),
        ("prompts: the 5 of clipperf here, the paper's there",),
    ]
    int8 = [replace(scores[0], cell=replace(scores[0].cell, precision="int8"))]
    (row,) = near(int8, [Published("vtab/pets", "acc1", 0.8, "made up")])
    assert row.differs == ("precision: int8 here",)


def test_random_weights_have_no_figures() -> None:
    spec = zoo.resolve("ViT-B-32", "random:0")
    scores = [replace(scored("x", "top-1", 0.5), cell=cell(model=spec.id))]
    assert beside(scores, [spec], lambda *_: [Published("x", "top-1", 0.5, "made up")], {}) == []


def test_whose_prompts_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (["cat", "dog"], ["a {c}.", "the {c}."])
    monkeypatch.setattr("clipperf.evals.against.clip_benchmark_texts", lambda name: texts)
    data = Dataset("vtab/pets", "0" * 64, (), class_names=("cat", "dog"), labels=(0, 1))
    own = replace(data, templates=("a {c}.", "the {c}."))
    assert whose_prompts(own) == whose_prompts(replace(own, name="wds_vtab-pets"))
    assert whose_prompts(own) == "clip-benchmark's"
    assert whose_prompts(replace(own, class_names=("cat", "hound"))) == "those of the data"
    assert whose_prompts(replace(data, templates=DEFAULT_TEMPLATES)) == "the 5 of clipperf"
    assert whose_prompts(replace(data, class_names=())) == ""


def test_the_command_prints_them_beside(
    cli: Cli, sample_artifact: Path, samples: str, tmp_path: Path
) -> None:
    rows = [
        ("clipperf-sample", "bundled", Path(samples).name, "image_retrieval_recall@5", 0.3),
        ("clipperf-sample", "bundled", Path(samples).name, "text_retrieval_recall@5", 1.0),
        ("clipperf-sample", "another", Path(samples).name, "text_retrieval_recall@10", 1.0),
    ]
    with (tmp_path / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows([MADE_UP.strip().split(","), *rows])
    home, target = sample_artifact.parents[3], tmp_path / "e.json"
    asked = ("eval", "clipperf-sample", "--dataset", samples, "-q", "--json", target)
    done = cli(*asked, "--against", tmp_path / "own.csv", home=home, check=True)
    page = " ".join(done.stdout.split())
    assert "Beside published figures" in page and "own.csv" in page
    values = {s["metric"]: s["value"] for s in json.loads(target.read_text())["scores"]}
    # Captions of these drawings are numbers: nothing is found, and 1.0 is not to be explained.
    assert values["image-to-text recall@5"] < 0.6 and "text_retrieval_recall@10" not in page
    assert page.count("further apart ") >= 2
    assert "of 4 figures lie further apart than sampling and the spread between publ" in page
    done = cli(*asked, "--against", "published", home=home, check=True)
    assert "published: no figure of these models on these datasets and" in done.stdout
    assert cli(*asked, "--against", "none.csv", home=home).returncode == 2
    # A table of which nothing is of what was evaluated is an error, and says by which column.
    (tmp_path / "own.csv").write_text(f"{MADE_UP}clipperf-sample,bundled,flickr8k,acc1,0.5\n")
    done = cli(*asked, "--against", tmp_path / "own.csv", home=home)
    assert done.returncode == 1 and "Beside published figures" not in done.stdout
    assert (
        "own.csv: no line is of what is evaluated; the nearest, line 2, has the dataset "
        f"'flickr8k' where '{Path(samples).name}' was asked for and the metric 'acc1' where "
        "'text-to-image recall@1' or "
    ) in done.stderr
    # Of other models nothing is embedded for it.
    (tmp_path / "own.csv").write_text(f"{MADE_UP}ViT-B-32,openai,flickr8k,acc1,0.5\n")
    target.unlink()
    done = cli(*asked, "--against", tmp_path / "own.csv", home=home)
    assert done.returncode == 2 and not target.exists()
    assert "the model 'ViT-B-32' where 'clipperf-sample' was asked for and the pre" in done.stderr


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["RN50,openai,vtab/pets,acc1,1", "ViT-B-32,openai,mine,acc1,1"],
            "line 3, has the dataset 'mine' where 'vtab/pets' or 'flickr8k' was asked for",
        ),
        (
            ["RN50,laion,mine,acc1,1", "vit-b-32,OPENAI,mine,lp_acc1,1"],
            "line 3, has the dataset 'mine' where 'vtab/pets' or 'flickr8k' was asked for and the "
            "metric 'lp_acc1' where 'zeroshot top-1' was asked for",
        ),
        (
            ["ViT-B-32,openai,wds_vtab-pets,mean_recall@1,1"],
            "line 2, has the metric 'mean_recall@1' where 'zeroshot top-1' was asked for",
        ),
        (
            ["ViT-B-32,openai,flickr8k,mean_recall@1,1"],
            "line 2, has the metric 'mean_recall@1', the mean of 'text-to-image recall@1', "
            "'image-to-text recall@1', not all of them here",
        ),
    ],
)
def test_the_nearest_line_says_what_is_other(tmp_path: Path, lines: list[str], said: str) -> None:
    figures = figures_of(table(tmp_path / "own.csv", MADE_UP + "".join(f"{x}\n" for x in lines)))
    assert isinstance(figures, OwnTable)
    scores = [
        scored("vtab/pets", "zeroshot top-1", 0.8),
        scored("flickr8k", "text-to-image recall@1", 0.8),
    ]
    specs = [zoo.resolve("ViT-B-32", "openai")]
    assert beside(scores, specs, figures, {}) == []
    start = "no line is of what is evaluated; the nearest, "
    assert why_nothing(figures, scores, specs) == start + said


def test_a_long_table_is_compared_value_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50,000 lines beside 200 scores: 10,000,000 pairs, of few models, datasets and metrics."""
    lines = [
        f"{model},{weights},set {i},acc{k},0.5\n"
        for model in ("RN50", "ViT-B-16")
        for weights in ("openai", *(f"run {i}" for i in range(1, 125)))
        for i in range(100)
        for k in (1, 5)
    ]
    lines[40_000] = "RN50,openai,mine,acc5,0.5\n"
    figures = figures_of(table(tmp_path / "own.csv", MADE_UP + "".join(lines)))
    assert isinstance(figures, OwnTable) and len(figures.rows) == 50_000
    called = dict.fromkeys(("_same", "names_of", "model_key"), 0)

    def counted(name: str) -> Callable[..., object]:
        own = getattr(against, name)

        def call(*values: str) -> object:
            called[name] += 1
            return own(*values)

        return call

    for name in called:
        monkeypatch.setattr(against, name, counted(name))
    scores = [
        scored(dataset, metric, 0.8)
        for _ in range(50)
        for dataset in ("mine", "yours")
        for metric in ("zeroshot top-1", "zeroshot mAP")
    ]
    specs = [zoo.resolve("ViT-B-32", "openai")]
    said = why_nothing(figures, scores, specs)
    assert said == (
        "no line is of what is evaluated; the nearest, line 40002, has the model 'RN50' where "
        "'ViT-B-32' was asked for and the metric 'acc5' where 'zeroshot top-1' or 'zeroshot mAP' "
        "was asked for"
    )
    # Two sets here and 101 there, two metrics each; a model of each line, and a few for the answer.
    assert called["_same"] == 2 * 101 and called["names_of"] <= 10
    assert called["model_key"] <= len(lines) + 10


def test_a_table_and_random_weights(tmp_path: Path) -> None:
    figures = figures_of(table(tmp_path / "own.csv", f"{MADE_UP}ViT-B-32,random:0,x,acc1,0.5\n"))
    with pytest.raises(UsageError, match=r"own\.csv: what is evaluated has random weights"):
        check_models(figures, [zoo.resolve("ViT-B-32", "random:0")], "own.csv")
    check_models(figures_of("published"), [zoo.resolve("ViT-B-32", "random:0")], "published")
