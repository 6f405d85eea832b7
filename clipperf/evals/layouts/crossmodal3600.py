"""Crossmodal-3600: ``captions.jsonl`` with captions by language, and ``images/KEY.jpg``.

A line is ``{"image/key": "...", "en": {"caption": [...]}, ...}``. All captions of an image in the
wanted language count; CLIP_benchmark takes the first of each alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import LANGUAGE, Content, Layout, Place, few
from clipperf.evals.rows import read_rows
from clipperf.inputs.sources import ImageSource, read_text
from clipperf.text import quoted, shown

TABLE, KEY = "captions.jsonl", "image/key"


def _fits(place: Place) -> bool:
    if TABLE not in place.files or not place.images:
        return False
    return f'"{KEY}"' in read_text(place.files[TABLE]).split("\n", 1)[0]


def _read(place: Place, without: Collection[str]) -> Content:
    images: list[ImageSource] = []
    captions: list[str] = []
    caption_image: list[int] = []
    by_name = {name.rpartition("/")[2].partition(".")[0]: name for name in place.images}
    for line, row in read_rows(place.files[TABLE]):
        at = f"{place.files[TABLE]} line {line}"
        name = by_name.get(str(row.get(KEY)))
        if name is None:
            raise UsageError(f"{at}: no image {quoted(row.get(KEY))} in {shown(place.root)}")
        own = _captions(row, place.language)
        if own is None:
            languages = [key for key, value in row.items() if isinstance(value, dict)]
            raise UsageError(
                f"{at}: no captions in {quoted(place.language)}: choose one of "
                f"{few(languages, 40)} with --language"
            )
        if name not in without and own:
            captions += own
            caption_image += [len(images)] * len(own)
            images.append(place.files[name])
    if not images:
        raise UsageError(f"{place.files[TABLE]} holds no captions in {quoted(place.language)}")
    return Content(images, captions, caption_image)


def _captions(row: dict[Any, Any], language: str) -> list[str] | None:
    found = row.get(language)
    texts = found.get("caption") if isinstance(found, dict) else None
    if not isinstance(texts, list):
        return None
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


LAYOUT = Layout(
    name="crossmodal3600",
    fits=_fits,
    read=_read,
    own=(TABLE,),
    offers=lambda place: (LANGUAGE,),
)
