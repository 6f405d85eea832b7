"""Towers as a layout's programs run them: rewritten for these, and tried once they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from clipperf.engines import onnxruntime as ort_engine
from clipperf.export.deployment import Made
from clipperf.graph import others
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.variant import Side, Variant
from clipperf.serve import selftest
from clipperf.system.env import available_cores


def write_graph(
    made: Made, variant: Variant, side: Side, target: Path, outputs: Sequence[str]
) -> bool:
    """Write a tower as programs of others run it, and embed some inputs with what was written.

    Texts are cut in all batches but the last, as the graph takes any length whatever its tower
    takes. Returns whether its weights lie beside it; see `graph.others`.

    Raises:
        ArtifactError: it gives other embeddings than the artifact's.
        EngineError: it does not run.
    """
    folder, tower = made.tower(variant, side)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = side == "text"
    lengths = others.lengths_of(Tokenizer.from_folder(folder), tower) if text else None
    apart = others.rewritten(folder / tower.path, target, outputs, text=text, lengths=lengths)
    # Whoever pads on the left gives the graph what tokenizers give, and no shorter texts.
    pads = isinstance(lengths, others.Padded) and not lengths.left
    cores, precision = available_cores(), variant.precision
    opened = ort_engine.open_session(target, cores, prepack=False, precision=precision)
    with closing(opened) as engine:
        selftest.check(engine, folder, tower, cut="padding" if pads else None)
    return apart
