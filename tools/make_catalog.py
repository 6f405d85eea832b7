"""Write `clipperf/data/open_clip_catalog.json`, the snapshot behind `clipperf models`.

    python tools/make_catalog.py            # rewrite the snapshot from the installed open_clip
    python tools/make_catalog.py --check    # write nothing; exit 1 where it would change

Run it after every change of open_clip's version. It downloads nothing: every architecture is
built on PyTorch's meta device (no weights, no memory), its parameters are summed and its
floating-point operations counted for one input with PyTorch's FlopCounterMode, a multiply-add
being two. That is how open_clip's own profile table was made: the two agree to its last digit.
Text towers that live in transformers need a config from a model hub, so their figures are that
table's. Four minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipperf.models.open_clip_facts import SNAPSHOT, config_digest, config_facts, installed_configs
from clipperf.models.published import read_table
from clipperf.system.files import write_text

# Licences of the weights, first match wins: (where open_clip fetches them from and their tag, as
# a regular expression over "REPOSITORY TAG"; licence). Each is what the publisher's model card or
# code repository states. Weights that match nothing get None: unknown, not free.
LICENCES = (
    # openai/CLIP is MIT, weights included; these repositories are repackings of them.
    (r" openai$", "MIT"),
    # Model cards of LAION (CLIP, CoCa, ConvNeXt, DataComp and CommonPool pools): MIT.
    (r"^laion/", "MIT"),
    # Trained by the open_clip project; its repackings' model cards state MIT.
    (r"^timm/(vit|resnet)\w*_clip\w*\.(laion400m|laion2b|yfcc15m|cc12m)\w* ", "MIT"),
    # facebookresearch/MetaCLIP: CC BY-NC 4.0, MetaCLIP 2 too.
    (r" metaclip2?_\w+$", "CC-BY-NC-4.0"),
    # baaivision/EVA, EVA-CLIP: MIT.
    (r"^timm/eva", "MIT"),
    # Model cards of google/siglip and google/siglip2: Apache 2.0.
    (r"^timm/ViT-\S*SigLIP2?\S* webli$", "Apache-2.0"),
    # Model cards of Apple's DFN, MobileCLIP and MobileCLIP2: Apple's research-only model licence.
    (r"^(apple/|timm/MobileCLIP2-)", "apple-amlr"),
    # Model cards of UCSC-VLAA's CLIPA: Apache 2.0.
    (r"^UCSC-VLAA/", "Apache-2.0"),
    # Model cards of visheratin's NLLB-CLIP: CC BY-NC 4.0, as the NLLB encoder in them.
    (r"^visheratin/", "CC-BY-NC-4.0"),
    # Model cards of ViTamin: MIT.
    (r"^jienengchen/ViTamin", "MIT"),
    # facebookresearch/perception_models, PE core: Apache 2.0.
    (r"^timm/PE-Core", "Apache-2.0"),
)


def profile(architecture: str) -> dict[str, int | float]:
    """open_clip's own figures: parameters (from millions with two decimals) and GFLOPs."""
    (row,) = (r for r in read_table("open_clip_model_profile.csv") if r["model"] == architecture)
    return {
        **{f"{s}_parameters": round(float(row[f"{s}_mparams"]) * 1e6) for s in ("image", "text")},
        **{f"{s}_gflops": float(row[f"{s}_gflops"]) for s in ("image", "text")},
    }


def licence_of(repository: str, tag: str) -> str | None:
    """The licence of weights by where they are published and their tag; None where unknown."""
    wanted = f"{repository} {tag}"
    return next((name for pattern, name in LICENCES if re.search(pattern, wanted)), None)


def tags_of(architecture: str) -> dict[str, dict[str, str | None]]:
    """open_clip's pretrained tags of one architecture, with repository and licence."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tags = {}
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        repository = get_pretrained_cfg(architecture, tag)["hf_hub"]
        repository = "/".join(repository.split("/")[:2])
        tags[tag] = {"repository": repository, "licence": licence_of(repository, tag)}
    return tags


def counts_of(architecture: str, config: dict[str, Any]) -> dict[str, int | float]:
    """Parameters and GFLOPs of both towers; of the image tower alone for a transformers text."""
    import open_clip
    import torch

    facts = config_facts(config)
    image = torch.zeros(1, 3, facts["image_px"], facts["image_px"], device="meta")
    if "hf_model_name" in config["text_cfg"]:
        vision = {**config["vision_cfg"], "timm_model_pretrained": False}
        tiny = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
        with torch.device("meta"):
            model = open_clip.CustomTextCLIP(config["embed_dim"], vision, tiny).eval()
        row = profile(architecture)
        text = {name: row[name] for name in ("text_parameters", "text_gflops")}
    else:
        with torch.device("meta"):
            model = open_clip.create_model(architecture, device="meta").eval()
        tokens = torch.zeros(1, facts["context_tokens"], dtype=torch.long, device="meta")
        text = {
            "text_parameters": text_parameters(model),
            "text_gflops": gflops(model.encode_text, tokens),
        }
    return {
        "image_parameters": sum(p.numel() for p in model.visual.parameters()),
        "image_gflops": gflops(model.encode_image, image),
        **text,
    }


def text_parameters(model: Any) -> int:
    """Parameters of the text tower: a module of its own, or what is left beside the image one."""
    if hasattr(model, "text"):
        return sum(p.numel() for p in model.text.parameters())
    beside = sum(p.numel() for p in model.visual.parameters())
    scalars = sum(
        p.numel() for n, p in model.named_parameters() if n in ("logit_scale", "logit_bias")
    )
    return sum(p.numel() for p in model.parameters()) - beside - scalars


def gflops(function: Any, batch: Any) -> float:
    """1e9 floating-point operations of one call, rounded to a million."""
    from torch.utils.flop_counter import FlopCounterMode

    # Not under no_grad: there the counter fails on the attention's fused inference path.
    with FlopCounterMode(display=False) as counter:
        function(batch)
    return round(counter.get_total_flops() / 1e9, 3)


def snapshot() -> dict[str, Any]:
    """The whole snapshot, from the installed open_clip."""
    models = {}
    for architecture, config in sorted((installed_configs() or {}).items()):
        models[architecture] = {
            **config_facts(config),
            "config_sha256": config_digest(config),
            **counts_of(architecture, config),
            "tags": tags_of(architecture),
        }
    return {
        "made_by": "tools/make_catalog.py",
        "open_clip": version("open_clip_torch"),
        "timm": version("timm"),
        "torch": version("torch").partition("+")[0],
        "models": models,
    }


def main() -> int:
    """Write or check the snapshot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a change")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # "no pretrained weights loaded", once per architecture
    warnings.simplefilter("ignore")
    made = snapshot()
    path = Path(__file__).parents[1] / "clipperf" / "data" / SNAPSHOT
    if arguments.check:
        old = json.loads(path.read_text(encoding="utf-8"))
        same = old["models"] == made["models"] and old["open_clip"] == made["open_clip"]
        print("up to date" if same else f"{path.name} differs from the installed open_clip")
        return 0 if same else 1
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    write_text(path, text)
    print(f"{len(made['models'])} architectures written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
