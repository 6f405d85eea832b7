"""What `peers.py` has to make for its peers, and compares with `clipperf export`.

    python benchmarks/peers_exports.py NAME PREPARED OUT

NAME is one of `EXPORTERS`. A command of its own each, in the Python of the peer that it is for, so
that its time and memory can be taken from outside.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
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


def optimum_intel_int8(prepared: Path, out: Path) -> None:
    """optimum-intel's int8 of weights and activations, as it recommends for CLIP, a graph a tower.

    Its SmoothQuant setting is the one that it keeps for openai/clip-vit-base-patch32, whose data
    set would be downloaded. The scales are set by the very inputs that are measured, which is to
    its advantage. It quantises one graph with both towers, which is cut in two here.
    """
    import numpy as np
    import openvino
    from datasets import Dataset
    from optimum.intel import (
        OVConfig,
        OVModelForZeroShotImageClassification,
        OVQuantizationConfig,
        OVQuantizer,
    )
    from transformers import AutoTokenizer

    folder = prepared / "transformers"
    model = OVModelForZeroShotImageClassification.from_pretrained(folder, export=True)
    pixels = np.load(prepared / "pixels.npy")
    texts = json.loads((prepared / "texts.json").read_text(encoding="utf-8"))
    some = texts["captions"][: len(pixels)]
    tokens = AutoTokenizer.from_pretrained(folder)(some)
    rows = [
        {"pixel_values": image, "input_ids": ids, "attention_mask": mask}
        for image, ids, mask in zip(
            pixels, tokens["input_ids"], tokens["attention_mask"], strict=True
        )
    ]
    settings = OVQuantizationConfig(
        bits=8, num_samples=len(rows), smooth_quant_alpha=0.6, processor=str(folder)
    )
    both = out / "both"
    OVQuantizer(model).quantize(
        calibration_dataset=Dataset.from_list(rows),
        ov_config=OVConfig(quantization_config=settings),
        save_directory=both,
    )
    inputs = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}
    for side, names in inputs.items():
        graph = openvino.Core().read_model(both / "openvino_model.xml")
        results = [
            r for r in graph.get_results() if f"{side}_embeds" in r.get_output_tensor(0).names
        ]
        given = [p for p in graph.get_parameters() if p.get_output_tensor(0).names & set(names)]
        (out / side).mkdir()
        tower = openvino.Model(results, given, side)
        openvino.save_model(tower, out / side / "openvino_model.xml", compress_to_fp16=False)
        shutil.copy(both / "config.json", out / side)
    shutil.rmtree(both)


def fastembed(prepared: Path, out: Path) -> None:
    """The fp32 graphs of optimum-onnx, a graph a tower, in folders as fastembed downloads them."""
    from transformers import AutoTokenizer

    for side in ("image", "text"):
        (out / side).mkdir(parents=True)
        (out / side / "model.onnx").symlink_to(
            (out.parent / "optimum-towers" / side / "model.onnx").resolve()
        )
    shutil.copy(prepared / "transformers" / "preprocessor_config.json", out / "image")
    shutil.copy(prepared / "transformers" / "config.json", out / "text")
    AutoTokenizer.from_pretrained(prepared / "transformers").save_pretrained(out / "text")


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
    "optimum-intel-int8": optimum_intel_int8,
    "fastembed": fastembed,
    "torch": plain_torch,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("exporter", choices=sorted(EXPORTERS))
    parser.add_argument("prepared", type=Path, help="what peers_prepare.py wrote")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    EXPORTERS[options.exporter](options.prepared, options.out)
