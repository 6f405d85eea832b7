"""Towers without what their embedding never reads: the same embeddings, for less work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from clipperf.inputs.tokenize import Tokenizer, TokenizerSpec
from clipperf.nouns.model import Tower
from clipperf.nouns.variant import Side

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
onnx = pytest.importorskip("onnx")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from toy_models import START, VOCAB, inputs_of, spec_of  # noqa: E402

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.graph import trace as onnx_export  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402
from clipperf.models.lean import LeanPool, LeanTransformer, first_token, make_lean  # noqa: E402
from clipperf.models.towers import text_part  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")

ROWS: dict[tuple[str, Side], Any] = {
    ("toy-clip", "image"): 0,
    ("toy-clip-quickgelu", "image"): 0,
    ("toy-alt", "image"): 0,  # layer scale
    ("toy-clipa", "image"): None,  # the mean of all tokens
    ("toy-coca", "image"): None,  # a pool with queries of its own
    ("toy-clip", "text"): None,  # told by `forward`
    ("toy-worldwide", "text"): None,
    ("toy-coca", "text"): -1,  # its class token
    ("toy-clipa", "text"): -1,  # not causal
    ("toy-siglip", "text"): -1,
}
"""The token that each transformer reads."""


def tower_of(name: str, side: Side) -> Tower:
    return towers.build_tower(spec_of(name, "random:1"), side)


def embedded(module: Any, inputs: Any) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = module(inputs).numpy()
    return found


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def transformer(tower: Tower) -> Any:
    model = tower.module.model
    return (model.visual if tower.side == "image" else text_part(model)).transformer


@pytest.mark.parametrize(("name", "side"), ROWS)
def test_embeddings_stay(name: str, side: Side) -> None:
    tower, inputs = tower_of(name, side), inputs_of(name, side)
    expected = embedded(tower.module, inputs)
    assert len(np.unique(expected.round(5), axis=0)) == len(expected)
    make_lean(tower.module)
    part = transformer(tower)
    assert isinstance(part, LeanTransformer)
    assert part.row == ROWS[name, side] and not part.begins_alike
    close(embedded(tower.module, inputs), expected)


def test_a_first_token_that_never_changes_is_a_constant() -> None:
    tower, inputs = tower_of("toy-clip", "text"), inputs_of("toy-clip", "text")
    expected = embedded(tower.module, inputs)
    make_lean(tower.module, START)
    part = transformer(tower)
    firsts = [x for block in part.resblocks for x in (block.first_key, block.first_value)]
    assert [x.shape for x in firsts] == [(1, 1, 64)] * 4
    assert first_token(tower.module, START) == START
    close(embedded(tower.module, inputs), expected)
    # It is not read any longer: this is what the tokenizer has to promise.
    other = inputs.clone()
    other[:, 0] = START + 1
    np.testing.assert_array_equal(embedded(tower.module, other), embedded(tower.module, inputs))


@pytest.mark.parametrize("name", ["toy-clipa", "toy-worldwide", "toy-coca"])
def test_a_first_token_is_read_where_that_may_matter(name: str) -> None:
    """Without a causal mask, or pooled at an id that a text may lack, or with a class token."""
    tower, inputs = tower_of(name, "text"), inputs_of(name, "text")
    expected = embedded(tower.module, inputs)
    make_lean(tower.module, START)
    assert not transformer(tower).begins_alike
    assert first_token(tower.module, START) is None
    close(embedded(tower.module, inputs), expected)


@pytest.mark.parametrize("wrong", ["use_pad_mask", "correct_cls_mask"])
def test_masks_that_may_allow_nothing_are_left_alone(wrong: str) -> None:
    tower = tower_of("toy-coca", "text")
    setattr(text_part(tower.module.model), wrong, True)
    make_lean(tower.module)
    assert not isinstance(transformer(tower), LeanTransformer)


def test_resnets_ask_for_the_mean_alone() -> None:
    tower, inputs = tower_of("toy-resnet", "image"), inputs_of("toy-resnet", "image")
    expected = embedded(tower.module, inputs)
    make_lean(tower.module)
    assert isinstance(tower.module.model.visual.attnpool, LeanPool)
    close(embedded(tower.module, inputs), expected)


@pytest.mark.parametrize("name", ["toy-convnext", "toy-hybrid", "toy-siglip"])
def test_other_libraries_towers_are_left_alone(name: str) -> None:
    tower = tower_of(name, "image")
    before = [(key, id(part)) for key, part in tower.module.named_modules()]
    make_lean(tower.module)
    assert [(key, id(part)) for key, part in tower.module.named_modules()] == before


def test_blocks_of_another_kind_are_left_alone() -> None:
    from open_clip.transformer import Transformer

    tower = tower_of("toy-clip", "image")
    other = Transformer(64, 2, 2, qk_norm=True)
    tower.module.model.visual.transformer = other
    make_lean(tower.module)
    assert tower.module.model.visual.transformer is other


def operations(module: Any, inputs: Any) -> dict[str, int]:
    """Multiplications and additions by the operator that makes them."""
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        module(inputs)
    return {str(name): count for name, count in counted.get_flop_counts()["Global"].items()}


LINEAR, MIX = 2 * 64 * 64, 4 * 64
"""One token through a square matrix; one query with one key, and one weight with one value."""


@pytest.mark.parametrize(
    ("side", "linear", "mix"),
    [
        # Of 17 tokens the second block reads one: its queries, output and MLP are of that alone.
        ("image", 17 * 12 * LINEAR + (17 * 2 + 10) * LINEAR, (17 * 17 + 17) * MIX),
        # 77 tokens without the first, which is a key all the same; two queries in the second.
        ("text", 76 * 12 * LINEAR + (76 * 2 + 10) * LINEAR, (76 * 77 + 2 * 77) * MIX),
    ],
)
def test_what_is_left_out_is_what_nobody_reads(side: Side, linear: int, mix: int) -> None:
    tower = tower_of("toy-clip", side)
    inputs = (
        inputs_of("toy-clip", "image")[:1] if side == "image" else inputs_of("toy-clip", "text")[:1]
    )
    make_lean(tower.module, START)
    found = operations(tower.module, inputs)
    assert (found["aten.addmm"], found["aten.bmm"]) == (linear, mix)


def test_the_benchmark_counts_vit_b_32() -> None:
    patches, block, mix = 49 * 3072 * 768, 768 * 768, 2 * 768
    image = patches + 12 * (50 * 12 * block + 50 * 50 * mix) + 768 * 512
    image = (image, image - (50 * 12 - 50 * 2 - 10) * block - 49 * 50 * mix)
    block, mix = 512 * 512, 2 * 512
    text = (
        12 * (77 * 12 * block + 77 * 77 * mix) + 512 * 512,
        11 * (76 * 12 * block + 76 * 77 * mix) + (76 * 2 + 10) * block + 2 * 77 * mix + 512 * 512,
    )
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "lean.py", "ViT-B-32"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[2:]

    def row(tower: str, before: int, after: int) -> str:
        saved = 100 * (1 - after / before)
        giga = f"{2 * before / 1e9:.2f} | {2 * after / 1e9:.2f}"
        return f"| ViT-B-32 | {tower} | {giga} | {saved:.1f} % |"

    assert [line.split(" | ")[1] for line in rows[1:3]] == ["text, 8 tokens", "text, 16 tokens"]
    assert [rows[0], *rows[3:]] == [row("image", *image), row("text, 77 tokens", *text)]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_reads_texts_of_any_length_behind_their_start(batch: int, tmp_path: Path) -> None:
    tower = tower_of("toy-clip", "text")
    tower = Tower(**{**vars(tower), "start_id": START})
    inputs = inputs_of("toy-clip", "text")[:batch]
    expected = embedded(tower.module, inputs)
    onnx_export.export_onnx(tower, tmp_path / "model.onnx")
    engine = open_session(tmp_path / "model.onnx", threads=1)
    close(engine.run(inputs.numpy()), expected)
    short = torch.tensor([[START, 9, 12, VOCAB - 1]] * batch)
    padded = torch.zeros(batch, 77, dtype=torch.int64)
    padded[:, :4] = short
    np.testing.assert_array_equal(engine.run(short.numpy()), engine.run(padded.numpy()))
    close(engine.run(short.numpy()), embedded(tower_of("toy-clip", "text").module, padded))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx")).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    slices = [node.input[2] for node in graph.node if node.op_type == "Slice"]
    ends = [int(constants[name].max()) for name in slices if name in constants]
    assert max(ends) == 2**31 - 1  # torch writes the largest int64, which OpenVINO takes for -1
    shapes = [
        tuple(axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim)
        for value in graph.value_info
    ]
    hidden = {shape for shape in shapes if len(shape) == 3 and shape[2] == 4 * 64}
    assert hidden == {("batch", "tokens - 1", 256), ("batch", 1, 256)}  # the two MLPs


def test_only_tokenizers_that_begin_every_text_alike_have_a_start(tmp_path: Path) -> None:
    def start(**fields: Any) -> int | None:
        spec = TokenizerSpec("clip", "lower", 77, 0, sot_id=5, eot_id=6)
        spec = TokenizerSpec(**{**spec.to_json(), **fields})
        tokenizer = Tokenizer.__new__(Tokenizer)
        tokenizer.spec = spec
        return tokenizer.start_id

    assert start() == 5
    assert start(kind="hf") == 5 and start(kind="hf", sot_id=None) is None
    assert start(kind="clips") is None
