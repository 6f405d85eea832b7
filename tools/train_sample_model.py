"""Train `clipperf-sample`, the small CLIP that is bundled with clipperf.

    python tools/train_sample_model.py --cache ~/.cache/clipperf-sample

fetches the drawings (needs npm, and `pip install resvg-py`), trains on every style but the
held-out one, and writes into `clipperf/data/sample`: the open_clip configuration, the weights in
fp16, the held-out style as an evaluation set, and the metrics of exactly those files.

Method: a ViT image tower whose first attention layers start as convolutions, patch dropout
(FLIP, arXiv:2212.00794), and a contrastive loss in which an image is compared with the names of
all emoji, not only those of its batch; these come from a bank that is renewed every few steps.
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

import numpy as np  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from sample_bundle import Run, write_bundle  # noqa: E402
from sample_data import (  # noqa: E402
    CLASS_NAMES,
    PIXELS,
    TEMPLATES,
    TRAINED_ON,
    Data,
    captions_for,
    load_data,
)
from torch import Tensor, nn  # noqa: E402

CAPTIONS_EACH = 12
VIEWS = 2  # drawings of one emoji in a batch, of different styles
BANK_STEPS = 8  # how often the embeddings of all names are renewed
LOCAL_LAYERS = 4  # attention layers that start as convolutions
LOCAL_DIMS = 32  # channels that carry the position of a patch at the start; one head's width
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 192,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": PIXELS,
        "patch_size": 8,
        "width": 192,
        "layers": 6,
        "head_width": LOCAL_DIMS,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 6, "layers": 3},
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
    parser.add_argument("--epochs", type=int, default=60, help="passes over the emoji")
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
    """Build the towers over the compact vocabulary, with patch dropout, ready to train."""
    model = open_clip.CLIP(
        MODEL_CFG["embed_dim"],
        MODEL_CFG["vision_cfg"] | {"patch_dropout": 0.5},
        MODEL_CFG["text_cfg"] | {"vocab_size": used_tokens},
    )
    start_local(model.visual)
    return model.train()


@torch.no_grad()
def start_local(visual: nn.Module) -> None:
    """Let the heads of the first layers start by looking at one neighbouring patch each.

    LOCAL_DIMS channels of the positional embedding hold sines and cosines of the patch's row and
    column, which the patch content leaves alone. Turning those angles moves the position, so a
    query that is a turned copy of its key scores highest at the wanted offset. A ViT then begins
    with the bias of a convolution and needs far fewer images.
    """
    side = visual.grid_size[0]
    spots = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    waves = math.pi / side * torch.logspace(0, 1, LOCAL_DIMS // 4, base=0.75 * side)
    angles = (spots[:, :, None] * waves).flatten(1)  # [patches, LOCAL_DIMS / 2]
    visual.positional_embedding.mul_(0.1)
    visual.positional_embedding[1:, :LOCAL_DIMS] = torch.cat([angles.sin(), angles.cos()], 1)
    visual.conv1.weight[:LOCAL_DIMS] *= 0.1
    around = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]
    for depth, block in enumerate(visual.transformer.resblocks):
        block.attn.out_proj.weight.mul_(0.5)
        block.mlp.c_proj.weight.mul_(0.5)
        if depth >= LOCAL_LAYERS:
            continue
        query, key, _ = block.attn.in_proj_weight.chunk(3)
        query.mul_(0.3)
        key.mul_(0.3)
        local_heads = block.attn.num_heads - 1  # the last one stays free to look everywhere
        for head in range(local_heads):
            offset = torch.tensor(around[(depth * local_heads + head) % len(around)])
            turn = (offset[:, None] * waves).flatten()
            cos, sin = turn.cos().diag(), turn.sin().diag()
            rotation = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
            rows = slice(head * LOCAL_DIMS, (head + 1) * LOCAL_DIMS)
            query[rows, :LOCAL_DIMS] += 1.6 * rotation
            key[rows, :LOCAL_DIMS] += 1.6 * torch.eye(LOCAL_DIMS)


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Embed token ids [n, 77] as unit vectors, computing no further than the longest caption."""
    last = tokens.argmax(1)
    length = int(last.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    return F.normalize(model.ln_final(x[torch.arange(len(x)), last]) @ model.text_projection, dim=1)


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

    turn = 0.2 * torch.randn(n, generator=rng)
    size, aspect, shear = uniform(-0.15, 0.3), uniform(-0.15, 0.15), uniform(-0.15, 0.15)
    mirror = 1 - 2 * (may_flip & (torch.rand(n, generator=rng) < 0.3)).float()
    across, down = (size + aspect).exp() * mirror, (size - aspect).exp()
    first = [turn.cos() * across, (shear - turn.sin()) * down, uniform(-0.12, 0.12)]
    second = [turn.sin() * across, turn.cos() * down, uniform(-0.12, 0.12)]
    theta = torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    bend = uniform(0, 0.06, 1, 1, 1) * torch.randn(n, 2, 5, 5, generator=rng)
    grid = grid + F.interpolate(bend, image.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    image = F.grid_sample(image, grid, align_corners=False)
    colour, alpha = image[:, :3], image[:, 3:]

    # Hue turns in the YIQ plane of equal luma; contrast scales around grey.
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    hue, contrast = 0.25 * torch.randn(n, generator=rng), uniform(0.7, 1.3)
    chroma = contrast * uniform(0.5, 1.4) * (torch.rand(n, generator=rng) > 0.1)
    matrix = torch.zeros(n, 3, 3)
    matrix[:, 0, 0] = contrast
    matrix[:, 1, 1] = matrix[:, 2, 2] = chroma * hue.cos()
    matrix[:, 2, 1] = chroma * hue.sin()
    matrix[:, 1, 2] = -matrix[:, 2, 1]
    shift = uniform(-0.12, 0.12) + (1 - contrast) / 2
    colour = torch.einsum("nij,njhw->nihw", yiq.inverse() @ matrix @ yiq, colour)
    colour = (colour + shift[:, None, None, None] * alpha).clamp(min=0).minimum(alpha)

    slope = (grid * uniform(-1, 1, 1, 1, 2)).sum(-1)[:, None]
    page = uniform(0, 1, 3, 1, 1) + uniform(-0.4, 0.4, 3, 1, 1) * slope
    white = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
    image = colour + (1 - alpha) * torch.where(white, torch.ones(()), page.clamp(0, 1))
    soft = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear")
    image = image + uniform(-1.5, 1, 1, 1, 1).clamp(min=0) * (soft - image)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    return (image - mean) / torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]


def contrastive_loss(
    scale: Tensor, image: Tensor, emoji: Tensor, text: tuple[Tensor, Tensor, Tensor],
    bank: Tensor, category: Tensor,
) -> Tensor:  # fmt: skip
    """Compare the images with all names, with the batch's other captions, and with categories.

    image [n * VIEWS, d] belongs to emoji [n]; text holds the embeddings of the emoji's names and
    of one more caption each [n, d], and of the categories [8, d]; category [n] is the index of
    each emoji's category. bank [all emoji, d] has no gradient, for the batch's names neither:
    fresh rows among stale ones would give the answer away.
    """
    names, captions, classes = text
    here = torch.arange(len(emoji))
    owner, spot = emoji.repeat_interleave(VIEWS), here.repeat_interleave(VIEWS)
    image = scale * image

    def to_image(embedded: Tensor) -> Tensor:
        """Cross entropy from texts to images, where every view of the emoji is right."""
        chances = (embedded @ image.T).log_softmax(1).view(len(emoji), len(emoji), VIEWS)
        return -chances[here, here].mean()

    by_name = F.cross_entropy(image @ bank.T, owner, label_smoothing=0.1)
    by_caption = F.cross_entropy(image @ captions.T, spot)
    by_class = F.cross_entropy(
        image @ classes.T, category.repeat_interleave(VIEWS), label_smoothing=0.1
    )
    to_images = to_image(names) + 0.5 * to_image(captions)
    return by_name + 0.25 * by_caption + 0.5 * by_class + 0.5 * to_images


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
        tokens = _pick_texts(texts, chosen, rng)

        image = F.normalize(model.encode_image(views), dim=1)
        text = encode_text(model, tokens).split([len(chosen), len(chosen), len(CLASS_NAMES)])
        scale = model.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(scale, image, chosen, text, bank, category[chosen])

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
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    compact = state["token_embedding.weight"]
    table = compact.new_zeros(MODEL_CFG["text_cfg"]["vocab_size"], compact.shape[1])
    table[texts.rows] = compact
    return state | {"token_embedding.weight": table}


@torch.no_grad()
def _embed_names(model: open_clip.CLIP, names: Tensor, by_length: Tensor) -> Tensor:
    """Embed all names, similar lengths together so that little padding is computed."""
    embedded = [encode_text(model, names[part]) for part in by_length.split(160)]
    return torch.cat(embedded)[by_length.argsort()]


def _pick_texts(texts: Texts, emoji: Tensor, rng: torch.Generator) -> Tensor:
    """Tokens of each emoji's name, then one more caption of each, then one of each category."""
    caption = torch.randint(CAPTIONS_EACH, (len(emoji),), generator=rng)
    template = torch.randint(len(TEMPLATES), (len(CLASS_NAMES),), generator=rng)
    classes = texts.classes[torch.arange(len(CLASS_NAMES)), template]
    return torch.cat([texts.names[emoji], texts.captions[emoji, caption], classes])


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    decayed, free = [], []
    for name, weight in model.named_parameters():
        (decayed if weight.ndim > 1 and "embedding" not in name else free).append(weight)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def _move_towards(average: nn.Module, model: nn.Module, share: float) -> None:
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        old.lerp_(new, share)


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
