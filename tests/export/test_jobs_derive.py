"""Which trial of a search becomes the tower."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipperf.export.jobs import derive


def test_a_rough_trial_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the layers that were judged before it, whose file it overwrote."""
    loss = SimpleNamespace(n=1, min_cosine=1.0, points=0.0, points_at_most=0.0)
    loss.within = lambda margin, cosine: True
    judge = SimpleNamespace(loss=lambda engine: loss, drift=lambda engine: 0.0)
    compared = SimpleNamespace(passed=True, min_cosine=1.0)
    engine = SimpleNamespace(close=lambda: None)
    gate = SimpleNamespace(opened=lambda *_: engine, compared=lambda *_: compared)

    def search(layers: Any, drift: Any, holds: Any, most: float) -> Any:
        assert holds(())
        drift(("a",))
        return SimpleNamespace(kept=(), holds=True, needed=None)

    class Quantizer:
        layers = ("a", "b")
        weight_bits = 8

        def write(self, kept: Any, path: Path, rough: bool = False) -> None:
            path.write_text("rough" if rough else "exact")

    for name, value in {
        "gate": gate,
        "search": search,
        "_judge": lambda *_: judge,
        "like": lambda graph: None,
        "replace": lambda built, **changes: changes,
    }.items():
        monkeypatch.setattr(derive, name, value)
    settings = SimpleNamespace(margin=1.0, most_kept=0.5)
    monkeypatch.setattr(derive.derived, "settings_of", lambda variant: settings)
    variant = SimpleNamespace(row=SimpleNamespace(graph="fp32"))
    target = tmp_path / "tower.onnx"
    job: Any = SimpleNamespace(
        source=lambda: (None, "graph"), variant=variant, target=target, min_cosine=0.9
    )
    made: Any = lambda *_: Quantizer()  # noqa: E731
    derive.quantised(job, lambda stage: None, made)
    assert target.read_text() == "exact"
