"""Retrieval figures of many images and captions: time and memory, beside CLIP_benchmark's code.

    python benchmarks/retrieval.py [--images 5000] [--captions 25000] [--peer]

`--peer` needs the package clip-benchmark, whose own `recall_at_k` and `batchify` run on the very
same arrays in batches of 64, as in its evaluation. Each side has a process of its own. Both look
at recall@1, @5 and @10, both ways; where no scores are tied the figures are the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import asked
import numpy as np

KS = (1, 5, 10)
DIM = 512


def arrays(images: int, captions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors, float32: images, and captions around them; and whose each caption is."""
    rng = np.random.default_rng(0)
    owner = np.arange(captions) % images
    pictures = np.empty((images, DIM), np.float32)
    texts = np.empty((captions, DIM), np.float32)
    for start in range(0, images, 4096):
        part = pictures[start : start + 4096]
        part[:] = _unit(rng.normal(size=part.shape))
    for start in range(0, captions, 4096):
        part = texts[start : start + 4096]
        noise = rng.normal(size=part.shape)
        part[:] = _unit(pictures[owner[start : start + 4096]] + 0.3 * noise)
    return pictures, texts, owner


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def ours(images: np.ndarray, captions: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """clipperf's figures."""
    from clipperf.evals.ranks import hits_at, retrieve

    found = retrieve(images, captions, owner)
    return {
        f"{name}@{k}": float(hits_at(ranks, k).mean())
        for name, ranks in (("to image", found.text_to_image), ("to text", found.image_to_text))
        for k in KS
    }


def theirs(images: np.ndarray, captions: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """CLIP_benchmark's, by its own functions, as its `evaluate` calls them."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = torch.from_numpy(captions) @ torch.from_numpy(images).t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owner)] = True
    found = {}
    for name, own, right in (("to image", scores, positive), ("to text", scores.T, positive.T)):
        for k in KS:
            hits = batchify(recall_at_k, own, right, 64, "cpu", k=k) > 0
            found[f"{name}@{k}"] = float(hits.float().mean())
    return found


def measured(side: str, images: int, captions: int) -> dict:
    """Run one side in a process of its own: seconds, MiB over its arrays, and its figures."""
    words = [sys.executable, __file__, "--images", str(images), "--captions", str(captions)]
    done = subprocess.run([*words, "--run", side], check=True, capture_output=True, text=True)
    found: dict = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=asked.count, default=5_000)
    parser.add_argument("--captions", type=asked.count, default=25_000)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--run", choices=("ours", "theirs"))
    args = parser.parse_args()
    if args.run:
        side = ours if args.run == "ours" else theirs
        side(*arrays(20, 40))  # imports, and threads that are there
        data = arrays(args.images, args.captions)
        started = time.perf_counter()
        figures = side(*data)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "peak_mib": _peak_mib(), "figures": figures}))
        return
    sides = {"clipperf": "ours", **({"CLIP_benchmark": "theirs"} if args.peer else {})}
    found = {name: measured(side, args.images, args.captions) for name, side in sides.items()}
    print(f"{args.images} images x {args.captions} captions, {DIM} values, 6 figures")
    print("| | seconds | peak MiB | " + " | ".join(found["clipperf"]["figures"]) + " |")
    for name, row in found.items():
        shown = " | ".join(f"{value:.6f}" for value in row["figures"].values())
        print(f"| {name} | {row['seconds']:.2f} | {row['peak_mib']:.0f} | {shown} |")
    if args.peer:
        ratio = found["CLIP_benchmark"]["seconds"] / found["clipperf"]["seconds"]
        print(f"{ratio:.1f} times as fast")


if __name__ == "__main__":
    asked.run(main)
