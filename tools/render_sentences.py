"""Sentences as images, black on white, 448 pixels a side: Rendered SST2 from SST2's own table.

    python tools/render_sentences.py dev.tsv rendered

The table has a header with ``sentence`` and ``label``, tabs between (SST2 in GLUE's form); the
folder gets ``negative`` and ``positive``, which `clipperf eval --dataset` reads. The CLIP paper
does not say with which font its images were made: Pillow's own is taken here.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN = 448, 16
SIZES = (40, 32, 26, 22, 18, 14, 11)
"""The largest letters with which a sentence fits are taken."""
NAMES = ("negative", "positive")


def wrapped(words: list[str], draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """The words in lines that are no wider than the image."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= SIDE - 2 * MARGIN or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def rendered(sentence: str) -> Image.Image:
    """A sentence, black on white."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    for size in SIZES:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont), "Pillow lacks FreeType"
        text = wrapped(sentence.split(), draw, font)
        box = draw.multiline_textbbox((MARGIN, MARGIN), text, font=font)
        if box[2] <= SIDE - MARGIN and box[3] <= SIDE - MARGIN:
            break
    draw.multiline_text((MARGIN, MARGIN), text, fill="black", font=font)
    return image


def main() -> None:
    """Render every row of a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    with args.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows):
        path = args.folder / NAMES[int(row["label"])] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rendered(row["sentence"]).save(path)
    print(f"{len(rows)} images in {args.folder}")


if __name__ == "__main__":
    main()
