"""Write the bundled sample (configuration, weights, evaluation set) and score what was written."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import math
import platform
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sample_data import (
    CLASS_NAMES,
    HELD_OUT,
    KEYWORDS,
    PIXELS,
    TEMPLATES,
    TRAINED_ON,
    Data,
    on_white,
)
from torch import Tensor

PREPROCESS_CFG = {
    "size": PIXELS,
    "mode": "RGB",
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
Z_95 = 1.959964


@dataclass(frozen=True)
class Run:
    """What the training run was given and took; drawings already in the cache cost nothing."""

    seed: int
    epochs: float
    wall_s: float
    cpu_s: float


def write_bundle(
    out: Path, model_cfg: dict[str, Any], state: dict[str, Tensor], data: Data, run: Run
) -> None:
    """Write every generated file of the sample into `out`, then its metrics, and print those."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS_CFG}
    _write(out / "open_clip_config.json", (json.dumps(config, indent=2) + "\n").encode())
    _write(out / "eval.zip", _eval_zip(data))
    trained_on = [f"{style.credit} ({style.licence})" for style in TRAINED_ON]
    metadata = {
        "format": "pt",
        "name": "clipperf-sample",
        "script": "tools/train_sample_model.py",
        "seed": str(run.seed),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "trained_on": "; ".join(trained_on),
    }
    _write(out / "model.safetensors", safetensors.torch.save(state, metadata))
    metrics = measure(out) | {
        "training": {
            "seed": run.seed,
            "epochs": round(run.epochs, 2),
            "wall_s": round(run.wall_s, 1),
            "cpu_s": round(run.cpu_s, 1),
            "threads": torch.get_num_threads(),
            "drawings": len(data.owner),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "open_clip_torch", "numpy", "pillow")},
            },
            "styles": [
                {
                    "name": style.name,
                    "package": style.package,
                    "licence": style.licence,
                    "credit": style.credit,
                    "drawings": int((data.style == number).sum()),
                }
                for number, style in enumerate(TRAINED_ON)
            ],
            "captions": [HELD_OUT.package, KEYWORDS],
        }
    }
    _write(out / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    for name, score in metrics["metrics"].items():
        low, high = score["ci95"]
        print(
            f"{name:28s} {score['value']:.3f} (95 % CI {low:.3f} to {high:.3f}, "
            f"n = {score['n']}, chance {score['chance']:.4f})"
        )


@torch.inference_mode()
def measure(folder: Path) -> dict[str, Any]:
    """Score the files of a sample folder through open_clip alone, in fp32.

    Retrieval ranks all captions for each image and all images for each caption. Zero-shot
    classification compares an image with the mean embedding of each category's prompts. Intervals
    are Wilson's.
    """
    config = json.loads((folder / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"]).eval()
    state = safetensors.torch.load_file(folder / "model.safetensors")
    used_rows = int((state["token_embedding.weight"] != 0).any(1).sum())
    model.load_state_dict({name: value.float() for name, value in state.items()})
    transform = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    context = config["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    with zipfile.ZipFile(folder / "eval.zip") as archive:
        rows = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
        classes = json.loads(archive.read("classes.json"))
        pictures = [Image.open(io.BytesIO(archive.read(row["image"]))) for row in rows]
        pixels = torch.stack([transform(picture) for picture in pictures])

    def embed(encode: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        return torch.cat([encode(part, normalize=True) for part in inputs.split(64)])

    image = embed(model.encode_image, pixels)
    text = embed(model.encode_text, tokenizer([row["caption"] for row in rows]))
    prompts = [t.format(name) for name in classes["class_names"] for t in classes["templates"]]
    prompt = embed(model.encode_text, tokenizer(prompts))
    head = F.normalize(prompt.view(len(classes["class_names"]), -1, prompt.shape[1]).mean(1), dim=1)

    n = len(rows)
    similarity = image @ text.T
    own = similarity.diag()
    ranks = {
        "image_to_text": (similarity > own[:, None]).sum(1),
        "text_to_image": (similarity > own[None, :]).sum(0),
    }
    metrics = {
        f"{direction}_recall@{k}": _score(int((rank < k).sum()), n, k / n)
        for direction, rank in ranks.items()
        for k in (1, 5, 10)
    }
    category = torch.tensor([classes["categories"].index(row["category"]) for row in rows])
    hit = (image @ head.T).argmax(1) == category
    most_common = max(Counter(category.tolist()).values()) / n
    metrics["category_top1"] = _score(int(hit.sum()), n, most_common)
    per_class = {
        name: _score(int(hit[category == c].sum()), int((category == c).sum()), 1 / len(head))
        for c, name in enumerate(classes["categories"])
    }
    image_parameters = sum(weight.numel() for weight in model.visual.parameters())
    all_parameters = sum(weight.numel() for weight in model.parameters())
    files = ("eval.zip", "model.safetensors", "open_clip_config.json")
    return {
        "held_out_style": {
            "name": HELD_OUT.name,
            "package": HELD_OUT.package,
            "licence": HELD_OUT.licence,
            "credit": HELD_OUT.credit,
        },
        "metrics": metrics,
        "category_recall": per_class,
        "chance": "k / n for retrieval; for category_top1, always naming the largest category",
        "parameters": {
            "image": image_parameters,
            "text": all_parameters - image_parameters,
            "token_rows_used": used_rows,
        },
        "sha256": {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in files},
    }


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    share = hits / n
    centre = share + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n))
    return (centre - spread) / (1 + Z_95**2 / n), (centre + spread) / (1 + Z_95**2 / n)


def _score(hits: int, n: int, chance: float) -> dict[str, Any]:
    return {
        "value": round(hits / n, 5),
        "ci95": [round(bound, 5) for bound in wilson(hits, n)],
        "n": n,
        "chance": round(chance, 5),
    }


def _eval_zip(data: Data) -> bytes:
    """Pack the held-out style, stored and with fixed times, so that the bytes are repeatable."""
    files = {}
    lines = []
    for one, pixels in zip(data.emoji, data.held_out, strict=True):
        png = io.BytesIO()
        on_white(pixels).save(png, "PNG", optimize=True)
        name = f"images/{one.code}.png"
        files[name] = png.getvalue()
        lines.append({"image": name, "caption": one.caption, "category": one.category})
    lines.sort(key=lambda line: line["image"])
    files["captions.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    classes = {
        "categories": list(CLASS_NAMES),
        "class_names": list(CLASS_NAMES.values()),
        "templates": list(TEMPLATES),
    }
    files["classes.json"] = (json.dumps(classes, indent=2) + "\n").encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever the machine
            archive.writestr(entry, files[name])
    return packed.getvalue()


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
