"""What a report recommends at its top: the fastest that keeps its accuracy."""

from __future__ import annotations

from report_data import OTHER, cell, realistic, result, score, timed

from clipperf.report.build import build_report
from clipperf.report.format import render
from clipperf.report.recommend import recommended
from clipperf.report.records import merge, merge_scores
from clipperf.report.sizing.types import Targets

LABELS = {"env-a": "E1"}
SECONDS = {("torch", "fp32"): 0.1, ("onnx", "fp32"): 0.08, ("onnx", "int8"): 0.05}


def said(*scores: object, **more: object) -> tuple[str, ...]:
    rows = [timed(cell("image", *s), [seconds] * 6, **more) for s, seconds in SECONDS.items()]  # type: ignore[arg-type]
    files = [result(rows, scores)]
    return recommended(merge(files), merge_scores(files), LABELS)


def int8(low: float, high: float, **more: object) -> object:
    values = {"baseline_value": 0.6, "difference": (low + high) / 2, "diff_ci95": (low, high)}
    return score(cell("image", "onnx", "int8"), **{**values, **more})  # type: ignore[arg-type]


def test_what_keeps_its_accuracy_and_is_fastest() -> None:
    assert said(int8(-0.004, 0.002)) == (
        "Recommended for M::w: images in onnx int8 at batch 1 (20.0 images/s, 2.00x PyTorch). It "
        "is the fastest that lost less than 1 points against PyTorch (cifar10 top-1).",
    )


def test_what_may_have_lost_more_is_named_and_not_taken() -> None:
    expected = (
        "Recommended for M::w: images in onnx fp32 at batch 1 (12.5 images/s, 1.25x PyTorch). It "
        "is the fastest in full precision; onnx int8 is faster, and not known to keep its "
        "accuracy.",
    )
    assert said() == expected, "nobody evaluated it"
    assert said(int8(-0.02, 0.002)) == expected, "too few samples"
    second = int8(-0.03, -0.02, dataset="coco", dataset_sha256="e" * 64)
    assert said(int8(-0.004, 0.002), second) == expected, "one of two"
    assert said(int8(-0.004, 0.002, margin=0.003)) == expected, "its own margin is narrower"


def test_noise_and_machines_are_named() -> None:
    (noise,) = said(random_weights=True)
    assert noise.startswith("Recommended for M::w (random weights): images in onnx fp32")
    there = timed(cell(), [0.1] * 6, env_id="env-b")
    files = [result([timed(cell(), [0.1] * 6), there])]
    both = recommended(merge(files), [], {"env-a": "E1", "env-b": "E2"})
    assert [text[:27] for text in both] == [
        "Recommended for M::w on E1:",
        "Recommended for M::w on E2:",
    ]


def test_scores_of_another_machine_say_nothing() -> None:
    (there,) = said(int8(-0.004, 0.002, env_id=OTHER.id))
    assert "images in onnx fp32 at batch 1" in there
    assert there.endswith("onnx int8 is faster, and not known to keep its accuracy.")


def test_full_precision_that_is_worse_is_not_taken() -> None:
    lost = {"baseline_value": 0.6, "difference": -0.1, "diff_ci95": (-0.12, -0.08)}
    (text,) = said(score(cell("image", "onnx", "fp32"), 0.5, **lost))
    assert "images in torch fp32 at batch 1 (10.0 images/s" in text
    assert "onnx fp32 and onnx int8 are faster, and not known" in text
    few = score(cell("image", "onnx", "fp32"), 0.6, **{**lost, "diff_ci95": (-0.12, 0.08)})
    assert "images in onnx fp32 at batch 1" in said(few)[0], "too few samples say nothing"


def test_the_longest_texts_count_and_are_named() -> None:
    rows = [
        timed(cell("text", tokens=8), [0.001] * 6),
        timed(cell("text", "onnx", tokens=77), [0.05] * 6),
        timed(cell("text", tokens=77), [0.1] * 6),
    ]
    (text,) = recommended(merge([result(rows)]), [], LABELS)
    assert "M::w: texts of 77 tokens in onnx fp32 at batch 1 (20.0 texts/s" in text
    (text,) = recommended(merge([result(rows[1:])]), [], LABELS)
    assert "M::w: texts in onnx fp32 at batch 1" in text, "one length goes without saying"


def test_the_device_is_named_where_there_are_several() -> None:
    rows = [timed(cell(), [0.1] * 6), timed(cell(device="cuda"), [0.01] * 6)]
    (text,) = recommended(merge([result(rows)]), [], LABELS)
    assert "M::w: images in torch fp32 on cuda at batch 1 (100 images/s" in text


def test_it_stands_at_the_top_of_every_format() -> None:
    plain = build_report(realistic())
    assert plain.recommendation and plain.findings[: len(plain.recommendation)] == (
        plain.recommendation
    )
    page = render(plain, "html")
    assert page.count(plain.recommendation[0][:40]) == 1, "once, not among the findings again"
    assert page.index('id="recommendation"') < page.index('id="findings"')
    assert plain.recommendation[0][:40] in render(plain, "md")
    sized = build_report(realistic(), targets=Targets(500, 2000, slo_s=0.25))
    assert sized.recommendation[0].startswith("500 images/s, 2000 texts/s, SLO 250 ms")
    assert not any(text.startswith("Recommended for") for text in sized.findings)
