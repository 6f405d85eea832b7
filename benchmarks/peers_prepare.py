"""What every candidate of `peers.py` is given: weights, pictures, texts, and the right answers.

    python benchmarks/peers_prepare.py FOLDER

One set of seeded weights, in the layouts that the candidates read: an open_clip checkpoint, a
folder of the transformers library, and faster-clip's cache. The answers are those of PyTorch in
fp32. Runs in a process of its own, so that torch is not in the one that measures.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipperf.evals.datasets import load_dataset
from clipperf.models import weights, zoo
from clipperf.models.families import open_clip
from clipperf.models.open_clip import build_from_config, skeleton
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side

if TYPE_CHECKING:
    import torch

MODEL = "ViT-B-32"
SEED = 0
IMAGES = 32
SIZE = (640, 480)
FASTER_CLIP_FOLDER = "faster-clip/sentence-transformers__clip-ViT-B-32/0_CLIPModel"

WORDS_OF_CAPTIONS = {8: 14, 9: 22, 10: 20, 11: 14, 12: 9, 13: 6, 15: 5, 18: 3, 25: 4, 40: 3}
"""Words of a caption, and how many of 100 have so many.

COCO asked for captions of at least eight words (Chen et al. 2015, arXiv:1504.00325); they have ten
to eleven on average. Seven in a hundred here are longer, as descriptions on the web are.
"""
CAPTIONS = 64


def main() -> None:
    """Write everything into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    state = write_checkpoint(folder / "open_clip.safetensors")
    write_transformers(folder / "transformers", state)
    link = folder / FASTER_CLIP_FOLDER / "model.safetensors"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to((folder / "transformers" / "model.safetensors").resolve())
    write_images(folder)
    texts = {"short": short_texts(), "captions": captions()}
    write_json(folder / "texts.json", texts)
    write_operations(folder, texts)
    write_answers(folder, texts)


def write_json(path: Path, data: Any) -> None:
    """Indented JSON."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- weights -------------------------------------------------------------------------------


def write_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The seeded weights of both towers under open_clip's names; returns them."""
    from safetensors.torch import save_file

    module = skeleton(open_clip.model_config(zoo.resolve(MODEL, f"random:{SEED}")))
    weights.fill_random(module, "", SEED)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path)
    return state


def write_transformers(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """The same weights as a folder that transformers' CLIPModel and CLIPProcessor load."""
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    config = open_clip.model_config(zoo.resolve(MODEL, f"random:{SEED}"))
    save_file(
        {k: v.contiguous() for k, v in transformers_names(state).items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(folder / "config.json", transformers_config(config))
    mean, std = (open_clip.preprocess_config(zoo.resolve(MODEL))[k] for k in ("mean", "std"))
    px = config["vision_cfg"]["image_size"]
    image_processor = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": px}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": px, "width": px},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(mean), "image_std": list(std),
    }  # fmt: skip
    write_json(folder / "preprocessor_config.json", image_processor)
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = SimpleTokenizer()
    vocabulary = sorted(tokenizer.encoder, key=lambda word: tokenizer.encoder[word])
    vocabulary[-2:] = [start, end]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(vocabulary)})
    merges = sorted(tokenizer.bpe_ranks, key=lambda pair: tokenizer.bpe_ranks[pair])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    length = config["text_cfg"]["context_length"]
    kind = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**kind, **special})
    write_json(folder / "special_tokens_map.json", special)


def transformers_config(config: dict[str, Any]) -> dict[str, Any]:
    """transformers' CLIPConfig for a configuration of open_clip's."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    both = {"hidden_act": "gelu", "projection_dim": config["embed_dim"], "layer_norm_eps": 1e-5}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "torch_dtype": "float32",
        "vision_config": {
            **both, "model_type": "clip_vision_model",
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"], "num_attention_heads": vision["width"] // 64,
        },
        "text_config": {
            **both, "model_type": "clip_text_model",
            "vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"],
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1,
            "pad_token_id": text["vocab_size"] - 1,
        },
    }  # fmt: skip


def transformers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's tensors under transformers' names and in its layouts."""
    plain = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    }
    found = {new: state[old] for old, new in plain.items()}
    found["visual_projection.weight"] = state["visual.proj"].T
    found["text_projection.weight"] = state["text_projection"].T
    parts = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for name, tensor in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        _, inside, rest = name.partition("transformer.resblocks.")
        if not inside:
            continue
        layer, _, leaf = rest.partition(".")
        prefix = f"{tower}.encoder.layers.{layer}"
        if leaf.startswith("attn.in_proj_"):
            kind = leaf.removeprefix("attn.in_proj_")
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{prefix}.self_attn.{part}_proj.{kind}"] = value
        else:
            module, _, kind = leaf.rpartition(".")
            found[f"{prefix}.{parts[module]}.{kind}"] = tensor
    return found


# --- pictures and texts --------------------------------------------------------------------


def write_images(folder: Path) -> None:
    """Drawings of the bundled sample, enlarged, on textured backgrounds: JPEG files of 640x480.

    Beside them `pixels.npy`, the same pictures as open_clip preprocesses them, and bitmaps of
    these for a candidate that takes nothing but files.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    cfg = PreprocessCfg(**open_clip.preprocess_config(zoo.resolve(MODEL)))
    transform = image_transform_v2(cfg, is_train=False)
    (folder / "images").mkdir(exist_ok=True)
    sources = load_dataset("sample").images
    tensors = []
    for i in range(IMAGES):
        drawing = sources[i * len(sources) // IMAGES].open().convert("RGB")
        picture = background(np.random.default_rng(i))
        picture.paste(drawing.resize((320, 320), Image.Resampling.BICUBIC), (160, 80))
        path = folder / "images" / f"{i:02}.jpg"
        picture.save(path, quality=95)
        tensors.append(transform(Image.open(path)).numpy())
        raw = tensors[-1].transpose(1, 2, 0) * np.array(cfg.std) + np.array(cfg.mean)
        Image.fromarray((raw * 255).round().astype(np.uint8)).save(path.with_suffix(".bmp"))
    np.save(folder / "pixels.npy", np.stack(tensors).astype(np.float32))


def background(rng: np.random.Generator) -> Image.Image:
    """Noise whose amplitude falls with frequency, as that of photographs does."""
    total = np.zeros((SIZE[1], SIZE[0], 3))
    for octave in range(8):
        cells = 4 * 2**octave
        grid = rng.integers(0, 256, (max(1, cells * 3 // 4), cells, 3)).astype(np.uint8)
        layer = Image.fromarray(grid).resize(SIZE, Image.Resampling.BICUBIC)
        total += (np.asarray(layer) - 127.5) / 2**octave
    return Image.fromarray((127.5 + total / 1.4).clip(0, 255).astype(np.uint8))


def words() -> list[str]:
    """The sample's captions, one word after the other: words that captions are made of."""
    found = " ".join(load_dataset("sample").captions).lower().split()
    return [word for word in found if word.isascii() and word.isalpha()]


def captions() -> list[str]:
    """Distinct captions whose numbers of words are `WORDS_OF_CAPTIONS`."""
    rng = random.Random(SEED)
    pool = words()
    lengths = rng.choices(list(WORDS_OF_CAPTIONS), list(WORDS_OF_CAPTIONS.values()), k=CAPTIONS)
    return [" ".join(["a", "photo", "of", *rng.sample(pool, n - 3)]) for n in lengths]


def short_texts() -> list[str]:
    """Distinct texts of exactly 8 tokens, begin and end included: "a photo of a blue cat"."""
    from open_clip.tokenizer import SimpleTokenizer

    rng = random.Random(SEED)
    encode = SimpleTokenizer().encode
    pool = sorted({word for word in words() if len(encode(word)) == 1})
    return [" ".join(["a photo of a", *rng.sample(pool, 2)]) for _ in range(CAPTIONS)]


# --- the right answers ---------------------------------------------------------------------


def write_answers(folder: Path, texts: dict[str, list[str]]) -> None:
    """Embeddings of PyTorch in fp32, padded, and those of the image tower with QuickGELU."""
    import torch
    from open_clip import get_tokenizer

    tokenizer = get_tokenizer(MODEL)
    spec = zoo.resolve(MODEL, str(folder / "open_clip.safetensors"))
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    answers = {
        "image": embed(spec, "image", pixels, False),
        "image_quickgelu": embed(spec, "image", pixels, True),
        **{name: embed(spec, "text", tokenizer(list(t)), False) for name, t in texts.items()},
    }
    lengths = (tokenizer(texts["captions"]).argmax(dim=1) + 1).tolist()
    write_json(folder / "caption_tokens.json", sorted(lengths))
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)


def write_operations(folder: Path, texts: dict[str, list[str]]) -> None:
    """What the whole text tower multiplies and adds for each set of texts, a text on average.

    Of texts that are cut behind their end token: whoever pads them works for nothing.
    """
    import torch
    from lean import operations
    from open_clip import get_tokenizer

    from clipperf.models.towers import TextTower, takes_short_texts

    tokenizer = get_tokenizer(MODEL)
    lengths = {k: Counter((tokenizer(v).argmax(dim=1) + 1).tolist()) for k, v in texts.items()}
    with torch.device("meta"):
        module = skeleton(open_clip.model_config(zoo.resolve(MODEL, "random"))).to("meta").eval()
        tower = TextTower(module, takes_short_texts(module), normalize=False)

        def one(tokens: int) -> int:
            return operations(tower, torch.zeros((1, tokens), dtype=torch.int64))

        found = {
            name: sum(times * one(tokens) for tokens, times in counts.items()) / counts.total()
            for name, counts in lengths.items()
        }
    write_json(folder / "text_operations.json", found)


def embed(spec: ModelSpec, side: Side, inputs: torch.Tensor, quick_gelu: bool) -> np.ndarray:
    """Embeddings of one tower: float32 [n, embed_dim]."""
    import torch

    config = {**open_clip.model_config(spec), "quick_gelu": quick_gelu}
    tower = build_from_config(spec, config, side, Path(spec.pretrained))
    with torch.inference_mode():
        found: np.ndarray = tower.module(inputs).numpy()
    return found


if __name__ == "__main__":
    main()
