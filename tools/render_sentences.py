"""Rendered SST2: sentences as images, black on white, 448 x 448 pixels (the CLIP paper's Table 14).

    python tools/render_sentences.py SST-2/dev.tsv rendered-sst2 --split test
    clipperf eval MODEL --dataset rendered-sst2

The table has a header with ``sentence`` and ``label`` and tabs between, as GLUE has it, or lines of
a label, a space or a tab, and the sentence. 0 is negative, 1 is positive. The paper's own images
hold the 1,821 whole sentences of the test split (7,792 to train on), which GLUE does not label; the
published ones are clip-benchmark/wds_renderedsst2. The font is DejaVu Sans where it is installed,
else the one that Pillow brings; another font is another picture, so say which beside a figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PIXELS, MARGIN = 448, 16
SIZES = range(40, 7, -2)
"""Of the font in pixels: the largest that lets a sentence in."""

CLASSES = {"0": "negative", "1": "positive"}
TEMPLATE = "a {} review of a movie."
FONT = "DejaVuSans.ttf"


def sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Label and sentence of every line; raises ValueError that names the line."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    header = [name.strip().lower() for name in lines[0].split("\t")]
    named = {"sentence", "label"} <= set(header)
    for number, line in enumerate(lines[named:], start=1 + named):
        if not line.strip():
            continue
        if named:
            cells = dict(zip(header, line.split("\t"), strict=False))
            label, text = cells.get("label", "").strip(), cells["sentence"].strip()
        else:
            label, _, text = line.replace("\t", " ", 1).partition(" ")
        if label not in CLASSES or not text.strip():
            raise ValueError(f"{path} line {number}: need a label, 0 or 1, and a sentence")
        yield label, text.strip()


def font_of(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    """The font of that name, or the usual one; raises OSError where it is not there."""
    if name is not None:
        return ImageFont.truetype(name, size)
    try:
        return ImageFont.truetype(FONT, size)
    except OSError:
        found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise OSError(f"no font {FONT}, and this Pillow is built without FreeType: give --font")
    return found


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Lines that are as long as fits; a word that does not fit is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line for line in lines if line)


def rendered(text: str, font: str | None = None) -> Image.Image:
    """A sentence in the middle of a white square, in the largest size that lets it in."""
    image = Image.new("RGB", (PIXELS, PIXELS), "white")
    draw = ImageDraw.Draw(image)
    room = PIXELS - 2 * MARGIN
    for size in SIZES:
        own = font_of(font, size)
        lines = wrapped(text, own, room)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), lines, font=own)
        if right - left <= room and bottom - top <= room:
            break
    at = ((PIXELS - right - left) / 2, (PIXELS - bottom - top) / 2)
    draw.multiline_text(at, lines, font=own, fill="black")
    return image


def write(table: Path, target: Path, split: str, font: str | None = None) -> int:
    """Render every sentence of a table into folders of classes; how many there were."""
    rows = list(sentences(table))
    for name in CLASSES.values():
        (target / split / name).mkdir(parents=True, exist_ok=True)
    for i, (label, text) in enumerate(rows):
        rendered(text, font).save(target / split / CLASSES[label] / f"{i:05d}.png")
    (target / "templates.txt").write_text(f"{TEMPLATE}\n")
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Say what was written; 2 where the table cannot be read."""
    parser = argparse.ArgumentParser(description="Render the sentences of SST2.")
    parser.add_argument("table", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--font", help="A TrueType file, or the name of one that is installed.")
    given = parser.parse_args(arguments)
    try:
        count = write(given.table, given.target, given.split, given.font)
    except (OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 2
    family = font_of(given.font, 20).getname()[0]
    print(f"{count} sentences in {given.target / given.split}, font {family}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
