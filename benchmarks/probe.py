"""A linear probe and the whole sweep of its strength: time, on made-up features.

python benchmarks/probe.py [--samples 10000] [--dim 512] [--classes 100]
"""

from __future__ import annotations

import argparse
import time

import asked
import numpy as np

from clipperf.evals.probe import probe


def features(samples: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clouds around one centre a class, of length 10, float32."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    rows = 0.5 * rng.normal(size=(classes, dim))[labels] + 2 * rng.normal(size=(samples, dim))
    rows *= 10 / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels


def main() -> None:
    """Print how long it took, and what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=asked.count, default=10_000)
    parser.add_argument("--dim", type=asked.count, default=512)
    parser.add_argument("--classes", type=asked.count, default=100)
    args = parser.parse_args()
    rows, labels = features(args.samples, args.dim, args.classes)
    started = time.perf_counter()
    found = probe(rows, labels, args.classes)
    seconds = time.perf_counter() - started
    print(
        f"{args.samples} x {args.dim} features, {args.classes} classes: {seconds:.1f} s for "
        f"{len(found.tried)} strengths and the last fit; strength {found.linear.strength:.3g}, "
        f"validation accuracy {max(found.tried.values()):.4f}"
    )


if __name__ == "__main__":
    asked.run(main)
