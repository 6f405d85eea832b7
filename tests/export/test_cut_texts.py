"""Text towers behind a mask of padding: exported with texts of any length, where that is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipperf
from clipperf.errors import ExportError
from clipperf.export.folder import Exported
from clipperf.export.make import make
from clipperf.nouns.variant import Variant

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("transformers")

import hub_texts  # noqa: E402
from hub_texts import CONTEXT, InHere, spec_of  # noqa: E402
from toy_models import embed  # noqa: E402

from clipperf.export.judge import parity  # noqa: E402
from clipperf.graph import trace, weights  # noqa: E402
from clipperf.inputs.tokenize import Tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("hub")

TEXTS = [
    *("w1 w2 w3", "", "w9", "w4 <pad> w5", "w6 </s> w7 w8", "w5 <pad> <pad>", "<s> w3"),
    *(" ".join(f"w{i}" for i in range(n)) for n in (11, 25, 60)),
]


@pytest.fixture(scope="module")
def hub(toy_catalogue: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        hub_texts.registered(tmp_path_factory.mktemp("configs")),
    ):
        patch.setenv("CLIPPERF_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def export(name: str, variant: Variant = Variant("onnx")) -> Exported:  # noqa: B008
    return make(spec_of(name), ("text",), variant, workshop=InHere())  # type: ignore[arg-type]


class Watched:
    """An engine, and the widths that it was given."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.widths = engine, []

    def run(self, tokens: np.ndarray) -> Any:
        self.widths.append(tokens.shape[1])
        return self.engine.run(tokens)

    def close(self) -> None:
        self.engine.close()


def embedded(exported: Exported, name: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """What `encode_texts` gives, what PyTorch gives of padded texts, and the widths that ran."""
    padded = Tokenizer.from_folder(exported.folder)(TEXTS)
    with clipperf.load(exported.folder, threads=1) as model:
        watched = model._engines["text"] = Watched(model._engines["text"])
        found = model.encode_texts(TEXTS, batch_size=3)
    return found, embed(spec_of(name), "text", torch.from_numpy(padded)).numpy(), watched.widths


@pytest.mark.parametrize("name", ["hub-xlm-roberta", "hub-mt5", "hub-m2m"])
def test_texts_are_cut_and_their_embeddings_are_pytorchs(name: str) -> None:
    exported = export(name)
    tower = exported.manifest.tower("text")
    assert tower is not None and tower.cut is not None
    assert tower.cut.allowed and tower.cut.why.startswith("down to 2 tokens, ")
    assert (tower.tokens, tower.inputs[0].shape) == (None, ("batch", "tokens"))
    assert tower.findings["texts are cut"].startswith("yes: down to 2 tokens")
    found, expected, widths = embedded(exported, name)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    # Of 2, 3, 4, then 5, 5, 5, then 6, 13, then 27 and the context's tokens.
    assert widths == [4, 5, 13, CONTEXT]


def test_a_tower_that_reads_padding_keeps_its_length() -> None:
    exported = export("hub-bert-reads-padding")
    tower = exported.manifest.tower("text")
    assert tower is not None and tower.cut is not None
    assert not tower.cut.allowed and tower.cut.why.startswith("the tower reads padding: ")
    assert (tower.tokens, tower.inputs[0].shape) == (CONTEXT, ("batch", CONTEXT))
    assert tower.findings["texts are cut"].startswith("no: the tower reads padding")
    found, expected, widths = embedded(exported, "hub-bert-reads-padding")
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert set(widths) == {CONTEXT}


@pytest.mark.parametrize(
    "variant", [Variant("openvino"), Variant("onnx", "int8-row")], ids=["openvino", "int8-row"]
)
def test_what_is_made_of_it_takes_cut_texts_too(variant: Variant) -> None:
    pytest.importorskip(variant.runtime if variant.runtime != "onnx" else "onnxruntime")
    exported = export("hub-xlm-roberta", variant)
    tower = exported.manifest.tower("text")
    assert tower is not None and tower.cut is not None and tower.cut.allowed
    found, expected, widths = embedded(exported, "hub-xlm-roberta")
    assert parity.compare(found, expected, variant.precision, "texts").passed
    assert min(widths) < 10


def test_where_the_exporter_fixes_the_length_it_is_fixed_and_said(monkeypatch: Any) -> None:
    whole = trace._traced

    def of_one_length(module: Any, tower: Any, *rest: Any, **more: Any) -> Any:
        if tower.dynamic_tokens:
            raise ExportError("a number of tokens was taken for a constant")
        return whole(module, tower, *rest, **more)

    monkeypatch.setattr(trace, "_traced", of_one_length)
    tower = export("hub-bert").manifest.tower("text")
    assert tower is not None and tower.cut is not None
    assert tower.cut.why.startswith("torch's exporter takes texts of one length alone: a number")
    assert (tower.tokens, tower.cut.allowed) == (CONTEXT, False)
    assert tower.parity is not None and tower.parity.passed


def test_what_turns_out_not_to_be_computable_leads_to_the_plain_exporter(
    monkeypatch: Any, tmp_path: Path
) -> None:
    def fail(*arguments: Any) -> None:
        raise weights.NotComputed("GatherElements: cannot reshape")

    plain = []
    whole = trace._plain
    monkeypatch.setattr(weights, "_result", fail)
    monkeypatch.setattr(weights, "_can_be_computed", lambda tensors: True)
    monkeypatch.setattr(trace, "_plain", lambda *given: plain.append(1) or whole(*given))
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path))
    tower = export("hub-roberta").manifest.tower("text")
    assert plain and tower is not None and tower.parity is not None and tower.parity.passed
    assert not list((tmp_path / "graphs").iterdir()), "a graph that fails each time is not kept"


# --- the gate ------------------------------------------------------------------------------


class OfTheContext:
    """An engine whose embeddings are right where a text has all of the context's tokens."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def run(self, tokens: np.ndarray) -> np.ndarray:
        self.widths.append(tokens.shape[1])
        found = np.stack([tokens[:, 0], tokens[:, 1]], 1).astype(np.float32)
        return found if tokens.shape[1] == CONTEXT else found[:, ::-1]

    def close(self) -> None:
        pass


def test_the_gate_cuts_texts_as_they_are_cut_in_use() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (12, CONTEXT)) + np.array([[0, 30] + [0] * (CONTEXT - 2)])
    lengths = np.array([3, *(4, 7, 5), *range(6, 14)])
    reference = tokens[:, :2].astype(np.float32)
    engine = OfTheContext()
    assert parity.measure(engine, tokens, reference, "fp32").passed
    engine.widths.clear()
    assert not parity.measure(engine, tokens, reference, "fp32", lengths=lengths).passed
    assert engine.widths == [3, 7, CONTEXT]
