from clipperf.bench.plan import Group, plan
from clipperf.nouns.cell import Cell
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


def test_the_baseline_leads_the_name_of_the_device_too() -> None:
    devices = {"onnx": "cpu", "torch": "cuda", "trt": "cuda"}
    (group,) = plan([spec()], ["onnx", "trt", "torch"], sides=["image"], devices=devices)
    assert group.id == "m/image/fp32/cuda+cpu/threads1/batch1"
    assert [(c.runtime, c.device) for c in group.cells] == [
        ("torch", "cuda"),
        ("onnx", "cpu"),
        ("trt", "cuda"),
    ]


def test_usual_values() -> None:
    image, text = plan([spec()], ["onnx"])
    assert (image.id, text.id) == (
        "m/image/fp32/cpu/threads1/batch1",
        "m/text/fp32/cpu/threads1/tokens77/batch1",
    )
    for group, tokens in ((image, None), (text, 77)):
        assert group.cells == (
            Cell("m", group.cells[0].side, "onnx", "fp32", "cpu", 1, 1, tokens, 1, "float32"),
        )


def test_models_are_outermost_and_batches_innermost() -> None:
    groups = plan(
        [spec("a"), spec("b")],
        ["onnx"],
        sides=["text"],
        precisions=["fp32", "int8"],
        threads=[1, 2],
        tokens=[8, 16],
        batches=[1, 4],
    )
    ids = [
        f"{model}/text/{precision}/cpu/threads{threads}/tokens{tokens}/batch{batch}"
        for model in "ab"
        for precision in ("fp32", "int8")
        for threads in (1, 2)
        for tokens in (8, 16)
        for batch in (1, 4)
    ]
    assert [group.id for group in groups] == ids
    first = groups[0].cells[0]
    assert (first.model_id, first.batch, first.threads, first.tokens) == ("a", 1, 1, 8)
    assert groups[-1].cells[0].precision == "int8"


def test_pixels_take_turns_in_image_towers_alone() -> None:
    groups = plan(
        [spec()],
        ["onnx", "openvino", "torch"],
        inputs={"onnx": ("float32", "uint8"), "torch": ("uint8",)},
        scenario="server",
    )
    assert [[(c.runtime, c.input) for c in g.cells] for g in groups] == [
        [
            ("torch", "float32"),
            ("onnx", "float32"),
            ("onnx", "uint8"),
            ("openvino", "float32"),
        ],
        [("torch", "float32"), ("onnx", "float32"), ("openvino", "float32")],
    ]
    assert {c.scenario for g in groups for c in g.cells} == {"server"}


def test_pytorch_alone_is_measured_in_what_it_has() -> None:
    def precisions(*asked: str) -> list[str]:
        groups = plan(
            [spec()],
            ["torch"],
            sides=["image"],
            precisions=asked,
            baseline_precisions=["fp32", "bf16"],
        )
        return [group.id.split("/")[2] for group in groups]

    assert precisions("int8", "bf16", "fp32") == ["bf16", "fp32"]
    assert precisions("int8") == ["fp32"]
    (group,) = plan(
        [spec()],
        ["torch"],
        sides=["image"],
        precisions=["bf16"],
        baseline_precisions=["bf16"],
    )
    assert [c.precision for c in group.cells] == ["fp32", "bf16"]
