"""STL-10's binary files as images with its ten folds (Coates, Ng and Lee 2011).

    python tools/unpack_stl10.py stl10_binary stl10
    clipperf eval MODEL --dataset stl10/task.toml --task linear-probe --features

`stl10_binary` is the folder of the published archive: {train,test}_{X,y}.bin, class_names.txt and
fold_indices.txt. Images are 96 x 96, written as PNG; unlabelled ones are not used.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS, FOLDS = 96, 10
SIZE = 3 * PIXELS * PIXELS
RECIPE = """\
data = "test/labels.csv"
train = "train/labels.csv"
templates = ["a photo of a {}."]
"""


def lines(path: Path) -> list[str]:
    """The lines of a file that say something."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def unpack(source: Path, target: Path) -> dict[str, int]:
    """Write both parts; how many images each has. Raises ValueError where files do not fit."""
    names = lines(source / "class_names.txt")
    folds = [np.array(line.split(), dtype=int) for line in lines(source / "fold_indices.txt")]
    if len(folds) != FOLDS:
        raise ValueError(f"{source / 'fold_indices.txt'} has {len(folds)} folds, not {FOLDS}")
    counts = {}
    for part in ("train", "test"):
        pixels = np.fromfile(source / f"{part}_X.bin", np.uint8)
        labels = np.fromfile(source / f"{part}_y.bin", np.uint8).astype(int) - 1
        if len(pixels) != SIZE * len(labels):
            raise ValueError(f"{source}: {part}_X.bin has no {len(labels)} images of {SIZE} bytes")
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"{source}: {part}_y.bin has labels beyond class_names.txt")
        if part == "train" and max(own.max() for own in folds) >= len(labels):
            raise ValueError(f"{source}: fold_indices.txt goes beyond train_X.bin")
        # Columns come before rows in the file.
        images = pixels.reshape(-1, 3, PIXELS, PIXELS).transpose(0, 3, 2, 1)
        (target / part).mkdir(parents=True, exist_ok=True)
        inside = [set(own.tolist()) if part == "train" else set() for own in folds]
        with (target / part / "labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "label", *(f"fold {i}" for i in range(FOLDS))])
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                Image.fromarray(np.ascontiguousarray(image)).save(target / part / f"{i:05d}.png")
                said = ["train" if i in own else "" for own in inside]
                table.writerow([f"{i:05d}.png", names[label], *said])
        (target / part / "classnames.txt").write_text("\n".join(names) + "\n")
        counts[part] = len(labels)
    columns = ", ".join(f'"fold {i}"' for i in range(FOLDS))
    (target / "task.toml").write_text(f"{RECIPE}folds = [{columns}]\n")
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Say what was written; 2 where the files cannot be read."""
    parser = argparse.ArgumentParser(description="Unpack STL-10 with its folds.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    try:
        counts = unpack(args.source, args.target)
    except (OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 2
    print(f"{counts['train']} images to train on, {counts['test']} to test, in {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
