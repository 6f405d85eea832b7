from clipperf.bench.plan import Group, plan
from clipperf.nouns.model import ModelSpec


def spec(name: str = "m", context: int = 77) -> ModelSpec:
    return ModelSpec(name, "open_clip", name, "random:0", 224, context, 512)


def test_torch_comes_first_and_stays_fp32() -> None:
    groups = plan([spec()], ["onnx", "torch"], sides=["image"], precisions=["fp32", "int8"])
    assert [[(c.runtime, c.precision) for c in g.cells] for g in groups] == [
        [("torch", "fp32"), ("onnx", "fp32")],
        [("torch", "fp32"), ("onnx", "int8")],
    ]
    assert groups[0].cells[0] == groups[1].cells[0]
    assert groups[0].id != groups[1].id


def test_groups_differ_in_everything_but_the_runtime() -> None:
    groups = plan(
        [spec("a"), spec("b")],
        ["torch", "onnx"],
        batches=[1, 8],
        threads=[1, 2],
        tokens=[8, 77],
    )
    # 2 models x 2 thread counts x 2 batches x (1 image + 2 text lengths)
    assert len(groups) == 2 * 2 * 2 * 3
    assert len({g.id for g in groups}) == len(groups)
    for group in groups:
        assert [c.runtime for c in group.cells] == ["torch", "onnx"]
        rest = {(c.model_id, c.side, c.device, c.batch, c.threads, c.tokens) for c in group.cells}
        assert len(rest) == 1


def test_each_runtime_runs_on_its_device_and_torch_in_the_asked_precision_too() -> None:
    groups = plan(
        [spec()],
        ["trt", "torch", "onnx"],
        sides=["image"],
        precisions=["fp32", "fp16", "int8"],
        devices={"torch": "cuda", "trt": "cuda", "onnx": "cpu"},
        baseline_precisions=["fp32", "fp16"],
    )
    assert [[(c.runtime, c.precision, c.device) for c in g.cells] for g in groups] == [
        [("torch", "fp32", "cuda"), ("trt", "fp32", "cuda"), ("onnx", "fp32", "cpu")],
        [
            ("torch", "fp32", "cuda"),
            ("torch", "fp16", "cuda"),
            ("trt", "fp16", "cuda"),
            ("onnx", "fp16", "cpu"),
        ],
        [("torch", "fp32", "cuda"), ("trt", "int8", "cuda"), ("onnx", "int8", "cpu")],
    ]
    assert groups[1].id == "m/image/fp16/cuda+cpu/threads1/batch1"


def test_text_lengths_default_to_the_context_and_are_cut_to_it() -> None:
    groups = plan([spec(context=32)], ["onnx"])
    assert [(g.cells[0].side, g.cells[0].tokens) for g in groups] == [("image", None), ("text", 32)]
    groups = plan([spec(context=32)], ["onnx"], sides=["text"], tokens=[8, 64, 77])
    assert [g.cells[0].tokens for g in groups] == [8, 32]


def test_repetitions_are_dropped() -> None:
    groups = plan([spec(), spec()], ["onnx", "onnx"], sides=["image"], batches=[1, 1])
    assert len(groups) == 1
    assert len(groups[0].cells) == 1
    alone = plan([spec()], ["torch"], sides=["image"], precisions=["fp32", "int8"])
    assert alone == [
        Group("m/image/fp32/cpu/threads1/batch1", alone[0].cells),
    ]


def test_nothing_asked_gives_nothing() -> None:
    assert plan([], ["onnx"]) == []
