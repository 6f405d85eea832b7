"""Small datasets in the layouts that published ones come in."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(shade: int = 0, suffix: str = "webp", size: tuple[int, int] = (8, 6)) -> bytes:
    """An image's bytes; another shade is another image."""
    stream = io.BytesIO()
    kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
    Image.new("RGB", size, (shade % 256, 100, 200)).save(stream, kind)
    return stream.getvalue()


def pack(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def shards(
    root: Path,
    samples: Iterable[Mapping[str, bytes]],
    texts: Mapping[str, str],
    *,
    per_shard: int = 2,
    split: str = "test",
) -> Path:
    """A WebDataset as CLIP_benchmark publishes it; `samples` are files by suffix."""
    every = [
        [(f"s{i:07d}.{suffix}", data) for suffix, data in sample.items()]
        for i, sample in enumerate(samples)
    ]
    starts = range(0, len(every), per_shard)
    for number, start in enumerate(starts):
        files = [file for sample in every[start : start + per_shard] for file in sample]
        pack(root / split / f"{number}.tar", files)
    (root / split / "nshards.txt").write_text(f"{len(starts)}\n")
    for name, text in texts.items():
        (root / name).write_text(text)
    return root


def classified(root: Path, labels: Iterable[int], first: int = 0, **options: object) -> Path:
    """A WebDataset of classes "sea", "sky" and "sea", its images other ones from `first` on."""
    texts = {
        "classnames.txt": "sea\nsky\nsea\n",
        "zeroshot_classification_templates.txt": "a photo of {c}.\nmany {c}\n",
    }
    samples = (
        {"cls": str(v).encode(), "webp": picture(40 * i + first)} for i, v in enumerate(labels)
    )
    return shards(root, samples, texts, **options)  # type: ignore[arg-type]


def captioned(root: Path, captions: Iterable[Iterable[str]]) -> Path:
    """A WebDataset for retrieval, several captions an image."""
    samples = (
        {"txt": "\n".join(own).encode(), "jpg": picture(40 * i, "jpg")}
        for i, own in enumerate(captions)
    )
    return shards(root, samples, {"dataset_type.txt": "retrieval\n"})


def array(values: float | Iterable[float]) -> bytes:
    """A file of numpy's (.npy)."""
    stream = io.BytesIO()
    np.save(stream, np.array(values if isinstance(values, float) else list(values)))
    return stream.getvalue()
