"""The exporters that `peers.py` compares with `clipperf export`: both towers to ONNX, fp32.

    python benchmarks/peers_exports.py optimum|optimum-towers|optimum-int8|torch PREPARED OUT

A command of its own each, so that its time and memory can be taken from outside.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

TASK = "zero-shot-image-classification"


def optimum(prepared: Path, out: Path) -> None:
    """optimum-onnx as its users call it: one graph with both towers."""
    from optimum.exporters.onnx import main_export

    main_export(str(prepared / "transformers"), output=out, task=TASK)


def optimum_towers(prepared: Path, out: Path) -> None:
    """One graph a tower, from the exporter's parts: what optimum-onnx can do at best."""
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import (
        CLIPTextWithProjectionOnnxConfig,
        CLIPVisionModelOnnxConfig,
    )
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    class Vision(CLIPVisionModelOnnxConfig):
        """Its stock configuration ends before the projection."""

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            """The embedding alone."""
            return {"image_embeds": {0: "batch_size"}}

    class Text(CLIPTextWithProjectionOnnxConfig):
        """The stock configuration also returns every token's state."""

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            """The embedding alone."""
            return {"text_embeds": {0: "batch_size"}}

    parts: dict[str, tuple[Any, Any]] = {
        "image": (CLIPVisionModelWithProjection, Vision),
        "text": (CLIPTextModelWithProjection, Text),
    }
    for side, (model_class, config_class) in parts.items():
        (out / side).mkdir(parents=True, exist_ok=True)
        model = model_class.from_pretrained(prepared / "transformers")
        export(model, config_class(copy.deepcopy(model.config)), out / side / "model.onnx")
        model.config.save_pretrained(out / side)


def optimum_int8(prepared: Path, out: Path) -> None:
    """optimum-onnx's own dynamic int8 for this kind of processor, from its graphs a tower."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    for side in ("image", "text"):
        quantizer = ORTQuantizer.from_pretrained(out.parent / "optimum-towers" / side)
        settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        quantizer.quantize(save_dir=out / side, quantization_config=settings)


def plain_torch(prepared: Path, out: Path) -> None:
    """`torch.onnx.export` on open_clip's model, one call a tower."""
    import open_clip
    import torch

    class Text(torch.nn.Module):
        """`encode_text` as a forward."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            """Embed padded texts."""
            return model.encode_text(tokens)

    model = open_clip.create_model(
        "ViT-B-32", pretrained=str(prepared / "open_clip.safetensors")
    ).eval()
    out.mkdir(parents=True, exist_ok=True)
    towers = {
        "image": (model.visual, torch.rand(2, 3, 224, 224)),
        "text": (Text().eval(), torch.ones(2, 77, dtype=torch.int64)),
    }
    for side, (module, example) in towers.items():
        torch.onnx.export(
            module, (example,), out / f"{side}.onnx",
            dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip


EXPORTERS = {
    "optimum": optimum,
    "optimum-towers": optimum_towers,
    "optimum-int8": optimum_int8,
    "torch": plain_torch,
}


if __name__ == "__main__":
    EXPORTERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
