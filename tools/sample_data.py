"""Emoji drawings, their names and captions: the data behind `clipperf-sample`.

Everything comes from pinned npm packages. Each package draws the same Unicode emoji in its own
style; one style (Noto) is held out for evaluation and never trained on. Two package layouts are
read: bitmaps named by code point, and one JSON file of SVG bodies named by emoji name.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PIXELS = 64
NAMES = "emoji-datasource-google@16.0.0"
KEYWORDS = "emojilib@4.0.3"
INK = "#262626"  # for icons drawn in `currentColor`

# U+1F935 and its male variant share one name in emoji.json; captions have to be unique.
RENAMED = {"1f935": "person in tuxedo"}

# The categories of emoji.json, less "Component" and "Flags", and how a caption says them.
CLASS_NAMES = {
    "Smileys & Emotion": "a smiley or an emotion",
    "People & Body": "a person or a part of the body",
    "Animals & Nature": "an animal or a plant",
    "Food & Drink": "food or drink",
    "Travel & Places": "a place or a vehicle",
    "Activities": "a sport or an activity",
    "Objects": "an object",
    "Symbols": "a symbol or a sign",
}
TEMPLATES = (
    "{}.",
    "a drawing of {}.",
    "an emoji of {}.",
    "a picture of {}.",
    "a photo of {}.",
    "an icon of {}.",
)


@dataclass(frozen=True)
class Style:
    """One drawing style: the npm package that holds it and the terms it comes under."""

    name: str
    package: str
    licence: str
    credit: str
    folder: str | None = None  # bitmaps by code point; None means iconify JSON
    weight: float = 1.0  # how often a training step picks this style, relative to the others


HELD_OUT = Style(
    "noto", NAMES, "Apache-2.0", "Noto Emoji, Google LLC", folder="package/img/google/64/"
)
# The three Fluent styles share their shapes, so each weighs less than one of its own design.
TRAINED_ON = (
    Style(
        "twemoji",
        "emoji-datasource-twitter@16.0.0",
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc. and other contributors",
        folder="package/img/twitter/64/",
        weight=2.0,
    ),
    Style(
        "fluent-3d",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "MIT",
        "Fluent Emoji, Microsoft Corporation, packaged by LobeHub",
        folder="package/assets/",
    ),
    Style(
        "fluent-color",
        "@iconify-json/fluent-emoji@1.2.7",
        "MIT",
        "Fluent Emoji, Microsoft Corporation",
    ),
    Style(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "MIT",
        "Fluent Emoji Flat, Microsoft Corporation",
    ),
    Style(
        "fluent-mono",
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        "MIT",
        "Fluent Emoji High Contrast, Microsoft Corporation",
        weight=0.3,
    ),
    Style(
        "emojione",
        "@iconify-json/emojione@1.2.3",
        "CC-BY-4.0",
        "Emoji One (Colored), Emoji One",
        weight=2.0,
    ),
    Style(
        "emojione-mono",
        "@iconify-json/emojione-monotone@1.2.1",
        "CC-BY-4.0",
        "Emoji One (Monotone), Emoji One",
        weight=0.3,
    ),
    Style(
        "fxemoji",
        "@iconify-json/fxemoji@1.2.2",
        "Apache-2.0",
        "Firefox OS Emoji, Mozilla",
        weight=2.0,
    ),
    Style(
        "streamline",
        "@iconify-json/streamline-emojis@1.2.4",
        "CC-BY-4.0",
        "Streamline Emojis, Streamline",
    ),
)


@dataclass(frozen=True)
class Emoji:
    """One emoji that every bitmap style draws."""

    code: str  # lower-case code points, "1f9d1-200d-1f3a4"
    caption: str  # its name, unique: the retrieval caption
    category: str
    other_names: tuple[str, ...]
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """All drawings as RGBA uint8 [n, 64, 64, 4]; `owner` and `style` index emoji and TRAINED_ON."""

    emoji: list[Emoji]
    pixels: np.ndarray
    owner: np.ndarray
    style: np.ndarray
    held_out: np.ndarray  # one row an emoji


def load_data(cache: Path) -> Data:
    """Fetch, decode and render everything; the arrays are kept in `cache` after the first call."""
    kept = cache / "drawings.npz"
    if not kept.exists():
        emoji = _list_emoji(cache)
        pixels, owners, styles = [], [], []
        for index, style in enumerate(TRAINED_ON):
            for owner, image in _images_of(style, emoji, cache):
                pixels.append(image)
                owners.append(owner)
                styles.append(index)
            print(f"{style.name:14s} {styles.count(index):5d} drawings", flush=True)
        held_out = dict(_images_of(HELD_OUT, emoji, cache))
        part = kept.with_suffix(".part.npz")
        np.savez(
            part,
            emoji=np.array(json.dumps([vars(one) for one in emoji])),
            pixels=np.stack(pixels),
            owner=np.array(owners),
            style=np.array(styles),
            held_out=np.stack([held_out[number] for number in range(len(emoji))]),
        )
        part.replace(kept)
    with np.load(kept) as stored:
        emoji = [Emoji(**fields) for fields in json.loads(str(stored["emoji"]))]
        return Data(emoji, stored["pixels"], stored["owner"], stored["style"], stored["held_out"])


def on_white(pixels: np.ndarray) -> Image.Image:
    """Compose one RGBA drawing on a white page, as RGB."""
    page = Image.new("RGBA", (PIXELS, PIXELS), "white")
    return Image.alpha_composite(page, Image.fromarray(pixels)).convert("RGB")


def captions_for(one: Emoji, count: int, rng: np.random.Generator) -> list[str]:
    """Write `count` captions: a name in a template, a name with its category, keywords, a name."""
    names = (one.caption, *one.other_names)
    captions = []
    for number in range(count):
        name, template = str(rng.choice(names)), str(rng.choice(TEMPLATES))
        kind = number % 4
        if kind == 0:
            captions.append(template.format(name))
        elif kind == 1:
            captions.append(template.format(f"{name}, {CLASS_NAMES[one.category]}"))
        elif kind == 2 and one.keywords:
            captions.append(", ".join(rng.permutation(one.keywords)[:3]))
        else:
            captions.append(name)
    return captions


def _fetch(package: str, cache: Path) -> Path:
    """Return the tarball of an npm package, downloading it on the first call."""
    target = cache / (package.replace("@", "_").replace("/", "_") + ".tgz")
    if not target.exists():
        if shutil.which("npm") is None:
            raise SystemExit("npm is needed to fetch the drawings: install Node.js and run again")
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "pack", package, "--json"], cwd=cache, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"npm pack {package} failed:\n{done.stderr}")
        packed = json.loads(done.stdout)
        entry = packed[0] if isinstance(packed, list) else next(iter(packed.values()))
        (cache / entry["filename"].replace("@", "").replace("/", "-")).replace(target)
    return target


def _read_json(package: str, member: str, cache: Path) -> Any:
    with tarfile.open(_fetch(package, cache)) as archive:
        handle = archive.extractfile(member)
        if handle is None:
            raise SystemExit(f"{package} holds no file {member}")
        return json.load(handle)


def _list_emoji(cache: Path) -> list[Emoji]:
    """List the emoji that the held-out style and both bitmap training styles draw."""
    shared = set.intersection(*(_codes_of(s, cache) for s in (HELD_OUT, *TRAINED_ON) if s.folder))
    rows = _read_json(NAMES, "package/emoji.json", cache)
    words = {
        _plain("-".join(f"{ord(letter):04x}" for letter in text)): names
        for text, names in _read_json(KEYWORDS, "package/dist/emoji-en-US.json", cache).items()
    }
    listed = []
    for row in sorted(rows, key=lambda row: row["sort_order"]):
        code = row["unified"].lower()
        if row["category"] not in CLASS_NAMES or _plain(code) not in shared:
            continue
        slug, *keywords = words.get(_plain(code), [row["short_name"]])
        others = (re.sub("[_-]+", " ", other) for other in (slug, *row["short_names"]))
        listed.append(
            Emoji(
                code,
                RENAMED.get(code, row["name"].lower()),
                row["category"],
                tuple(dict.fromkeys(others)),
                tuple(word.replace("_", " ") for word in keywords if word.isascii()),
            )
        )
    return listed


def _images_of(style: Style, emoji: list[Emoji], cache: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (emoji index, RGBA [64, 64, 4]) for each drawing of a style."""
    if style.folder is None:
        yield from _icons_of(style, emoji, cache)
        return
    index = {_plain(one.code): number for number, one in enumerate(emoji)}
    with tarfile.open(_fetch(style.package, cache)) as archive:
        for member in archive:
            owner = index.get(_plain(_stem(member.name)))
            if member.name.startswith(style.folder) and owner is not None:
                handle = archive.extractfile(member)
                if handle is not None:
                    yield owner, _decode(handle.read())


def _icons_of(style: Style, emoji: list[Emoji], cache: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Render the icons of an iconify package whose names are names of emoji."""
    import resvg_py

    by_name: dict[str, int] = {}
    for number, one in enumerate(emoji):
        for name in (one.other_names[0], one.caption):
            by_name.setdefault(_letters(name), number)
    for number, one in enumerate(emoji):
        for name in one.other_names[1:]:
            by_name.setdefault(_letters(name), number)
    icons = _read_json(style.package, "package/icons.json", cache)
    for name, icon in sorted(icons["icons"].items()):
        # Streamline numbers its variants: "boar-1", "boar-2".
        owner = by_name.get(_letters(name), by_name.get(_letters(re.sub(r"-\d$", "", name))))
        if owner is None:
            continue
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" '
            f'color="{INK}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * PIXELS, skip_system_fonts=True)
        yield owner, _decode(bytes(png))


def _codes_of(style: Style, cache: Path) -> set[str]:
    with tarfile.open(_fetch(style.package, cache)) as archive:
        names = [name for name in archive.getnames() if name.startswith(style.folder or "")]
    return {_plain(_stem(name)) for name in names}


def _decode(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    if image.size != (PIXELS, PIXELS):
        # Premultiplied ("RGBa"), so that invisible colours do not bleed into the edges.
        image = image.convert("RGBa").resize((PIXELS, PIXELS), Image.Resampling.BOX).convert("RGBA")
    return np.asarray(image)


def _plain(code: str) -> str:
    """Packages disagree on the variation selector; compare code points without it."""
    return code.lower().replace("-fe0f", "")


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
