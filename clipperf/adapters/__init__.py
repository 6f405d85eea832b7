"""Exported models inside of the field's own evaluations: CLIP_benchmark's, and MTEB's.

    model, transform, tokenizer = clipperf.adapters.as_open_clip("vit-b-32-onnx")
    clip_benchmark.metrics.zeroshot_classification.evaluate(model, ...)

    mteb.evaluate(clipperf.adapters.as_mteb("vit-b-32-onnx"), tasks)

Their code runs unchanged: what it is given embeds in an artifact's runtime.
"""

from __future__ import annotations

from clipperf.adapters.mteb import as_mteb
from clipperf.adapters.open_clip import as_open_clip

__all__ = ["as_mteb", "as_open_clip"]
