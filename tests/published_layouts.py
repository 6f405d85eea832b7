"""Small datasets in the layouts that published ones come in."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
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


def encrypted_zip(path: Path, files: Mapping[str, bytes], password: bytes) -> Path:
    """A zip whose members are stored and encrypted as PKWARE did it, which zipfile only reads."""
    local, central = b"", b""
    for name, data in files.items():
        crc, hidden = zlib.crc32(data), _encrypted(data, password)
        # Version, flags (encrypted), stored, time and date, sum, both sizes, length of the name.
        facts = struct.pack("<5H3I2H", 20, 1, 0, 0, 0x21, crc, len(hidden), len(data), len(name), 0)
        rest = struct.pack("<3H2I", 0, 0, 0, 0, len(local))
        central += b"PK\1\2" + struct.pack("<H", 20) + facts + rest + name.encode()
        local += b"PK\3\4" + facts + name.encode() + hidden
    count = len(files)
    end = struct.pack("<4H2IH", 0, 0, count, count, len(central), len(local), 0)
    path.write_bytes(local + central + b"PK\5\6" + end)
    return path


def _encrypted(data: bytes, password: bytes) -> bytes:
    keys = [0x12345678, 0x23456789, 0x34567890]

    def turn(byte: int) -> None:
        keys[0] = _crc_of(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = _crc_of(keys[2], keys[1] >> 24)

    for byte in password:
        turn(byte)
    out = bytearray()
    for byte in bytes(11) + bytes([zlib.crc32(data) >> 24]) + data:
        mask = (keys[2] | 2) & 0xFFFF
        out.append(byte ^ (mask * (mask ^ 1) >> 8 & 0xFF))
        turn(byte)
    return bytes(out)


def _crc_of(crc: int, byte: int) -> int:
    """One step of CRC-32 without its inversions."""
    return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
