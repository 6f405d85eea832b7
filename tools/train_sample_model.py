"""Train `clipperf-sample`, the small CLIP that is bundled with clipperf.

    python tools/train_sample_model.py --cache ~/.cache/clipperf-sample

fetches the drawings (needs npm, and `pip install resvg-py`), trains on every style but the
held-out one, and writes into `clipperf/data/sample`: the open_clip configuration, the weights in
fp16, the held-out style as an evaluation set, and the metrics of exactly those files.

Method: the contrastive loss of CLIP, with two styles of each emoji in a batch, and each image
compared with the names of all emoji, not only those of its batch; these come from a bank that is
renewed every few steps. Captions that name the category teach zero-shot classification. The
result is the moving average of the weights.

The bundled run (seed 0, --epochs 90 --minutes 40) took 39 minutes on two cores that other programs
used as well, 58 minutes of CPU time. The learning rate follows the epochs or the minutes, whichever
is further along, so a run that comes near its limit in minutes depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Waiting threads sleep: spinning halves the speed when other processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from sample_bundle import Run, write_bundle
from sample_data import (
    CLASS_NAMES,
    PIXELS,
    TEMPLATES,
    TRAINED_ON,
    Data,
    captions_for,
    load_data,
)
from torch import Tensor, nn

CAPTIONS_EACH = 12
VIEWS = 2  # drawings of one emoji in a batch, of different styles
BANK_STEPS = 12  # how often the embeddings of all names are renewed
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 192,
    "quick_gelu": False,
    "vision_cfg": {"image_size": PIXELS, "layers": [2, 2, 2, 2], "width": 24, "head_width": 48},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}


@dataclass(frozen=True)
class Texts:
    """Token ids over the compact vocabulary, 77 to a caption, and the full vocabulary's rows."""

    names: Tensor  # [emoji, 77]
    captions: Tensor  # [emoji, CAPTIONS_EACH, 77]
    classes: Tensor  # [categories, templates, 77]
    rows: Tensor  # [used tokens]: row of the full table for each compact id, ascending


def main() -> None:
    """Parse the command line, train, write the bundle and print its metrics."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads")
    parser.add_argument("--out", type=Path, default=Path("clipperf/data/sample"))
    parser.add_argument("--epochs", type=int, default=90, help="passes over the emoji")
    parser.add_argument("--minutes", type=float, default=44, help="upper limit of training")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    torch.manual_seed(chosen.seed)
    _keep_freed_memory()
    start, start_cpu = time.perf_counter(), time.process_time()
    data = load_data(chosen.cache)
    model, texts, epochs = train(data, chosen.epochs, chosen.minutes, chosen.seed)
    run = Run(
        seed=chosen.seed,
        epochs=epochs,
        wall_s=time.perf_counter() - start,
        cpu_s=time.process_time() - start_cpu,
    )
    write_bundle(chosen.out, MODEL_CFG, full_state(model, texts), data, run)


def tokenize_all(data: Data, rng: np.random.Generator) -> Texts:
    """Tokenize every caption of the training run once."""
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CFG["text_cfg"]["context_length"])
    names = tokenizer([one.caption for one in data.emoji])
    captions = tokenizer([c for e in data.emoji for c in captions_for(e, CAPTIONS_EACH, rng)])
    classes = tokenizer([t.format(name) for name in CLASS_NAMES.values() for t in TEMPLATES])
    # Ascending, so that the end-of-text token keeps the largest id: pooling looks for that.
    rows = torch.unique(torch.cat([names, captions, classes]))
    compact = torch.zeros(MODEL_CFG["text_cfg"]["vocab_size"], dtype=torch.long)
    compact[rows] = torch.arange(len(rows))
    return Texts(
        compact[names],
        compact[captions].view(len(names), CAPTIONS_EACH, -1),
        compact[classes].view(len(CLASS_NAMES), len(TEMPLATES), -1),
        rows,
    )


def build_model(used_tokens: int) -> open_clip.CLIP:
    """Build the towers over the compact vocabulary, ready to train."""
    model = open_clip.CLIP(
        MODEL_CFG["embed_dim"],
        MODEL_CFG["vision_cfg"],
        MODEL_CFG["text_cfg"] | {"vocab_size": used_tokens},
    )
    model.visual.to(memory_format=torch.channels_last)  # faster convolutions on CPUs
    return model.train()


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Embed token ids [n, 77] as unit vectors, computing no further than the longest caption."""
    last = tokens.argmax(1)
    length = int(last.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    return F.normalize(model.ln_final(x[torch.arange(len(x)), last]) @ model.text_projection, dim=1)


def encode_others(
    model: open_clip.CLIP, texts: Texts, emoji: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Embed one random caption of each emoji, and each category in one random template."""
    caption = torch.randint(CAPTIONS_EACH, (len(emoji),), generator=rng)
    template = torch.randint(len(TEMPLATES), (len(CLASS_NAMES),), generator=rng)
    classes = texts.classes[torch.arange(len(CLASS_NAMES)), template]
    embedded = encode_text(model, torch.cat([texts.captions[emoji, caption], classes]))
    return embedded[: len(emoji)], embedded[len(emoji) :]


class Sampler:
    """Picks, for each emoji asked for, VIEWS of its drawings by the weights of their styles."""

    def __init__(self, data: Data, rng: torch.Generator) -> None:
        count, most = len(data.emoji), int(np.bincount(data.owner).max())
        self.drawing = torch.zeros(count, most, dtype=torch.long)
        self.log_weight = torch.full((count, most), -math.inf)
        self.rng = rng
        filled = [0] * count
        for number, (owner, style) in enumerate(zip(data.owner, data.style, strict=True)):
            self.drawing[owner, filled[owner]] = number
            self.log_weight[owner, filled[owner]] = math.log(TRAINED_ON[style].weight)
            filled[owner] += 1

    def pick(self, emoji: Tensor) -> Tensor:
        """Return drawing numbers [n * VIEWS], the views of one emoji side by side."""
        scores = self.log_weight[emoji]
        # Gumbel noise: the largest are a weighted draw without replacement.
        noise = -torch.empty_like(scores).exponential_(generator=self.rng).log()
        best = (scores + noise).topk(VIEWS, 1).indices
        return self.drawing[emoji].gather(1, best).flatten()


def augment(pixels: Tensor, may_flip: Tensor, rng: torch.Generator) -> Tensor:
    """Move, bend, recolour and put on a page: RGBA uint8 [n, h, w, 4] -> RGB [n, 3, h, w]."""
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    image = pixels.permute(0, 3, 1, 2).float() / 255
    image = torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], 1)  # premultiplied alpha

    turn = 0.12 * torch.randn(n, generator=rng)
    size, aspect, shear = uniform(-0.1, 0.25), uniform(-0.12, 0.12), uniform(-0.1, 0.1)
    mirror = 1 - 2 * (may_flip & (torch.rand(n, generator=rng) < 0.3)).float()
    across, down = (size + aspect).exp() * mirror, (size - aspect).exp()
    first = [turn.cos() * across, (shear - turn.sin()) * down, uniform(-0.08, 0.08)]
    second = [turn.sin() * across, turn.cos() * down, uniform(-0.08, 0.08)]
    theta = torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    bend = uniform(0, 0.05, 1, 1, 1) * torch.randn(n, 2, 5, 5, generator=rng)
    grid = grid + F.interpolate(bend, image.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    image = F.grid_sample(image, grid, align_corners=False)
    colour, alpha = image[:, :3], image[:, 3:]

    # Hue turns in the YIQ plane of equal luma; contrast scales around grey.
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    hue, contrast = 0.15 * torch.randn(n, generator=rng), uniform(0.75, 1.25)
    chroma = contrast * uniform(0.5, 1.4) * (torch.rand(n, generator=rng) > 0.05)
    matrix = torch.zeros(n, 3, 3)
    matrix[:, 0, 0] = contrast
    matrix[:, 1, 1] = matrix[:, 2, 2] = chroma * hue.cos()
    matrix[:, 2, 1] = chroma * hue.sin()
    matrix[:, 1, 2] = -matrix[:, 2, 1]
    shift = uniform(-0.1, 0.1) + (1 - contrast) / 2
    colour = torch.einsum("nij,njhw->nihw", yiq.inverse() @ matrix @ yiq, colour)
    colour = (colour + shift[:, None, None, None] * alpha).clamp(min=0).minimum(alpha)

    slope = (grid * uniform(-1, 1, 1, 1, 2)).sum(-1)[:, None]
    page = uniform(0, 1, 3, 1, 1) + uniform(-0.4, 0.4, 3, 1, 1) * slope
    white = torch.rand(n, 1, 1, 1, generator=rng) < 0.65
    image = colour + (1 - alpha) * torch.where(white, torch.ones(()), page.clamp(0, 1))
    soft = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear")
    image = image + uniform(-1.5, 1, 1, 1, 1).clamp(min=0) * (soft - image)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    image = image.contiguous(memory_format=torch.channels_last)
    return (image - mean) / torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]


def contrastive_loss(
    scale: Tensor,
    image: Tensor,
    emoji: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    bank: Tensor,
    category: Tensor,
) -> Tensor:
    """Compare the images with all names, with the batch's own texts, and with the categories.

    image [n * VIEWS, d] belongs to emoji [n]; text holds the embeddings of their names [n, d], of
    one more caption for the first m of them [m, d], and of the categories [8, d]; category [n]
    is the index of each emoji's category. bank [all emoji, d] has no gradient, not even for the
    batch's own names: fresh rows among stale ones would give the answer away.
    """
    names, captions, classes = text
    image = scale * image
    every_view = torch.arange(len(emoji)).repeat_interleave(VIEWS)

    def to_image(embedded: Tensor) -> Tensor:
        """Cross entropy from texts to images, where every view of the emoji is right."""
        chances = (embedded @ image.T).log_softmax(1).view(len(embedded), len(emoji), VIEWS)
        return -chances.diagonal().mean()

    captioned = len(captions) * VIEWS
    return (
        F.cross_entropy(image @ bank.T, emoji[every_view], label_smoothing=0.1)
        + 0.25 * F.cross_entropy(image[:captioned] @ captions.T, every_view[:captioned])
        + 0.5 * F.cross_entropy(image @ classes.T, category[every_view], label_smoothing=0.1)
        + 0.5 * to_image(names)
        + 0.25 * to_image(captions)
    )


def train(
    data: Data, epochs: int, minutes: float, seed: int, emoji_each: int = 40, peak: float = 1e-3
) -> tuple[open_clip.CLIP, Texts, float]:
    """Train for `epochs`, or as many as fit into `minutes`; return the averaged weights.

    The learning rate follows a cosine to zero at whichever limit comes first.
    """
    rng = torch.Generator().manual_seed(seed)
    texts = tokenize_all(data, np.random.default_rng(seed))
    category = torch.tensor([list(CLASS_NAMES).index(one.category) for one in data.emoji])
    may_flip = category != list(CLASS_NAMES).index("Symbols")
    pixels, sampler = torch.from_numpy(data.pixels), Sampler(data, rng)
    model = build_model(len(texts.rows))
    average = copy.deepcopy(model).eval()
    optimizer = _optimizer(model)
    by_length = texts.names.argmax(1).argsort()

    start = time.perf_counter()
    each = len(data.emoji) // emoji_each
    for step in range(epochs * each):
        passed = (time.perf_counter() - start) / (60 * minutes)
        if passed >= 1:
            break
        if step % each == 0:
            order = torch.randperm(len(data.emoji), generator=rng)
        chosen = order[step % each * emoji_each :][:emoji_each]
        if step % BANK_STEPS == 0:
            bank = _embed_names(model, texts.names, by_length)
        drawn = sampler.pick(chosen)
        views = augment(pixels[drawn], may_flip[chosen].repeat_interleave(VIEWS), rng)

        image = F.normalize(model.encode_image(views), dim=1)
        names = encode_text(model, texts.names[chosen])
        captions, classes = encode_others(model, texts, chosen[: len(chosen) // 2], rng)
        scale = model.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(
            scale, image, chosen, (names, captions, classes), bank, category[chosen]
        )

        done = max(passed, step / (epochs * each))
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _move_towards(average, model, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 100 == 99:
            print(f"step {step + 1} {done:.0%} loss {loss:.3f} scale {scale:.1f}", flush=True)
    return average, texts, (step + 1) / each


def full_state(model: open_clip.CLIP, texts: Texts) -> dict[str, Tensor]:
    """Return the fp16 state with the token table of the full vocabulary, unused rows zero."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    compact = state["token_embedding.weight"]
    table = compact.new_zeros(MODEL_CFG["text_cfg"]["vocab_size"], compact.shape[1])
    table[texts.rows] = compact
    return state | {"token_embedding.weight": table}


@torch.no_grad()
def _embed_names(model: open_clip.CLIP, names: Tensor, by_length: Tensor) -> Tensor:
    """Embed all names, similar lengths together so that little padding is computed."""
    embedded = [encode_text(model, names[part]) for part in by_length.split(160)]
    return torch.cat(embedded)[by_length.argsort()]


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        (decayed if weight.ndim > 1 and "embedding" not in name else free).append(weight)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def _move_towards(average: nn.Module, model: nn.Module, share: float) -> None:
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, share)
        else:
            old.copy_(new)


def _keep_freed_memory() -> None:
    """Stop glibc from returning big buffers to the system each step: it costs a third of the time.

    M_MMAP_THRESHOLD is -3 and M_TRIM_THRESHOLD -1 in malloc.h.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << 30)
            libc.mallopt(-1, 1 << 30)


if __name__ == "__main__":
    main()
