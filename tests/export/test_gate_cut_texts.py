"""Texts that are cut, in an export: the gate sees them so, and an exporter may refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.errors import ExportError
from clipperf.export import gate
from clipperf.export.exporter import exporter_of
from clipperf.export.job import Built, Job, Tell
from clipperf.export.judge import parity
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.artifact import Parity
from clipperf.nouns.variant import Variant

pytest.importorskip("transformers", reason="the text towers are transformers' own")
from transformers_folders import save_student

CONTEXT = 40


class InHere:
    """A workshop whose jobs run in this process."""

    def __enter__(self) -> InHere:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def worker(self, torch: bool = False) -> InHere:
        return self

    def dismiss(self) -> None:
        pass

    def make(self, job: Job, tell: Tell) -> Built:
        return exporter_of(job.variant).job(job, tell)

    def gate(self, job: Job, built: Built) -> Parity:
        return exporter_of(job.variant).gate(job, built)


def export(folder: Path) -> Any:
    made = make(zoo.resolve(str(folder)), ("text",), Variant("onnx"), workshop=InHere())  # type: ignore[arg-type]
    return made.manifest.tower("text")


def test_where_torchs_exporter_fixes_the_length_it_is_fixed_and_said(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipperf.graph import trace

    whole = trace._traced

    def of_one_length(module: Any, tower: Any, *rest: Any, **more: Any) -> Any:
        if tower.dynamic_tokens:
            raise ExportError("a number of tokens was taken for a constant")
        return whole(module, tower, *rest, **more)

    monkeypatch.setattr(trace, "_traced", of_one_length)
    save_student("bert", tmp_path)
    tower = export(tmp_path)
    assert tower.cut.at is None and tower.tokens == 77
    assert tower.cut.why.startswith("torch's exporter takes texts of one length alone: a number")
    assert tower.findings["texts"].startswith("not cut (torch's exporter")
    assert tower.parity.passed


def test_the_gate_is_asked_with_texts_as_they_are_cut(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches but the last, each to its longest text; the last has the whole context."""
    widths: list[tuple[int, ...]] = []
    measure = parity.measure

    def watched(engine: Any, *rest: Any) -> Parity:
        run = engine.run
        engine.run = lambda tokens: (widths.append(tokens.shape), run(tokens))[1]
        return measure(engine, *rest)

    monkeypatch.setattr(gate.parity, "measure", watched)
    save_student("xlm-roberta", tmp_path)
    tower = export(tmp_path)
    assert tower.cut.at == "padding" and tower.parity.passed
    (one, first), (three, second), last = widths
    assert (one, three, last) == (1, 3, (8, 77))
    assert 3 <= first < 77 and 3 <= second < 77


class OfTheContext:
    """An engine whose embeddings are right where a text has all of the context's tokens."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def run(self, tokens: np.ndarray) -> np.ndarray:
        self.widths.append(tokens.shape[1])
        found = tokens[:, :2].astype(np.float32)
        return found if tokens.shape[1] == CONTEXT else found[:, ::-1]

    def close(self) -> None:
        pass


def test_a_graph_that_is_wrong_for_cut_texts_fails_the_gate() -> None:
    tokens = np.random.default_rng(0).integers(1, 9, (12, CONTEXT))
    tokens[:, 1] += 30
    lengths = np.array([3, *(4, 7, 5), *range(6, 14)])
    reference = tokens[:, :2].astype(np.float32)
    engine = OfTheContext()
    assert parity.measure(engine, tokens, reference, "fp32").passed
    engine.widths.clear()
    assert not parity.measure(engine, tokens, reference, "fp32", lengths=lengths).passed
    assert engine.widths == [3, 7, CONTEXT]
