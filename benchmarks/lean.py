"""How much of a model's work no embedding depends on, which `clipperf export` leaves out.

    python benchmarks/lean.py ViT-B-32 ViT-L-14 ViT-H-14

PyTorch counts the multiplications and additions of matrix products and convolutions before and
after `clipperf.models.lean`, on tensors without storage, so any size takes seconds. Texts are cut
to their length in both, where that is exact.
"""

from __future__ import annotations

import argparse
from typing import Any

import asked
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipperf import units
from clipperf.models import catalog, zoo
from clipperf.models.families.open_clip import model_config
from clipperf.models.lean import make_lean
from clipperf.models.open_clip import skeleton
from clipperf.models.towers import ImageTower, TextTower, takes_short_texts

TOKENS = (8, 16)


def main() -> None:
    """Print one Markdown row for each tower and length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", nargs="*", type=asked.model, default=["ViT-B-32", "ViT-L-14", "ViT-H-14", "RN50"]
    )
    options = parser.parse_args()
    print("| model | tower | GFLOP before | after | left out |\n|---|---|---:|---:|---:|")
    for name in options.model:
        with torch.device("meta"):
            rows(name)


def rows(name: str) -> None:
    """The rows of one model."""
    spec = zoo.resolve(name, "random")
    config = model_config(spec)
    size = config["vision_cfg"]["image_size"]
    row(name, "image", config, torch.zeros(1, 3, *([size] * 2 if isinstance(size, int) else size)))
    short = takes_short_texts(skeleton(config))
    for tokens in (*(TOKENS if short else ()), spec.context_tokens):
        texts = torch.zeros((1, tokens), dtype=torch.int64)
        row(name, f"text, {tokens} tokens", config, texts)


def row(model: str, tower: str, config: dict[str, Any], inputs: torch.Tensor) -> None:
    """Count and print."""
    whole = skeleton(config).to("meta").requires_grad_(False).eval()
    module = (
        ImageTower(whole, normalize=False)
        if tower == "image"
        else TextTower(whole, takes_short_texts(whole), normalize=False)
    )
    before = operations(module, inputs)
    begins_alike = catalog.find(model).text_kind == "clip-bpe"
    make_lean(module, start_id=0 if begins_alike else None)
    after = operations(module, inputs)
    print(
        f"| {model} | {tower} | {before / 1e9:.2f} | {after / 1e9:.2f} "
        f"| {units.share(1 - after / before)} |",
        flush=True,
    )


def operations(module: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Two for each multiplication with its addition."""
    torch.backends.mha.set_fastpath_enabled(False)  # its products are not counted
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        module(inputs)
    return int(counted.get_total_flops())


if __name__ == "__main__":
    asked.run(main)
