"""Published speeds of CLIP towers on hardware that one may not have.

The tables are package data (`clipperf/data/reference`, whose README names each source and date).
They were measured by others, in other programs and batches: they stand beside what was measured
here, never among it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from clipperf.errors import UsageError
from clipperf.models.published import basic_statistics, normal, read_table
from clipperf.nouns.variant import Side
from clipperf.text import letters, quoted

TITAN_RTX = "NVIDIA TITAN RTX"
RYZEN = "AMD Ryzen 7 7800X3D"
CLIP_AS_SERVICE_DATE = "2022-10-10"

IMAGE_TOWERS = {
    "RN50": "resnet50_clip",
    "RN101": "resnet101_clip",
    "RN50x4": "resnet50x4_clip",
    "RN50x16": "resnet50x16_clip",
    "RN50x64": "resnet50x64_clip",
    "ViT-B-32": "vit_base_patch32_clip_224",
    "ViT-B-32-256": "vit_base_patch32_clip_256",
    "ViT-B-16": "vit_base_patch16_clip_224",
    "ViT-B-16-plus-240": "vit_base_patch16_plus_clip_240",
    "ViT-L-14": "vit_large_patch14_clip_224",
    "ViT-L-14-336": "vit_large_patch14_clip_336",
    "ViT-H-14": "vit_huge_patch14_clip_224",
    "ViT-H-14-378": "vit_huge_patch14_clip_378",
    "ViT-g-14": "vit_giant_patch14_clip_224",
    "ViT-bigG-14": "vit_gigantic_patch14_clip_224",
    "xlm-roberta-base-ViT-B-32": "vit_base_patch32_clip_224",
    "xlm-roberta-large-ViT-H-14": "vit_huge_patch14_clip_224",
    "roberta-ViT-B-32": "vit_base_patch32_clip_224",
    "EVA01-g-14": "eva_giant_patch14_clip_224",
    "EVA01-g-14-plus": "eva_giant_patch14_clip_224",
    "EVA02-B-16": "eva02_base_patch16_clip_224",
    "EVA02-L-14": "eva02_large_patch14_clip_224",
    "EVA02-L-14-336": "eva02_large_patch14_clip_336",
    "EVA02-E-14": "eva02_enormous_patch14_clip_224",
    "EVA02-E-14-plus": "eva02_enormous_patch14_clip_224",
    "ViT-B-16-SigLIP": "vit_base_patch16_siglip_224",
    "ViT-B-16-SigLIP-256": "vit_base_patch16_siglip_256",
    "ViT-B-16-SigLIP-i18n-256": "vit_base_patch16_siglip_256",
    "ViT-B-16-SigLIP-384": "vit_base_patch16_siglip_384",
    "ViT-B-16-SigLIP-512": "vit_base_patch16_siglip_512",
    "ViT-L-16-SigLIP-256": "vit_large_patch16_siglip_256",
    "ViT-L-16-SigLIP-384": "vit_large_patch16_siglip_384",
    "ViT-SO400M-14-SigLIP": "vit_so400m_patch14_siglip_224",
    "ViT-SO400M-14-SigLIP-378": "vit_so400m_patch14_siglip_378",
    "ViT-SO400M-14-SigLIP-384": "vit_so400m_patch14_siglip_384",
    "ViT-SO400M-16-SigLIP-i18n-256": "vit_so400m_patch16_siglip_256",
    "ViT-B-16-SigLIP2": "vit_base_patch16_siglip_224",
    "ViT-B-16-SigLIP2-256": "vit_base_patch16_siglip_256",
    "ViT-B-16-SigLIP2-384": "vit_base_patch16_siglip_384",
    "ViT-B-16-SigLIP2-512": "vit_base_patch16_siglip_512",
    "ViT-B-32-SigLIP2-256": "vit_base_patch32_siglip_256",
    "ViT-L-16-SigLIP2-256": "vit_large_patch16_siglip_256",
    "ViT-L-16-SigLIP2-384": "vit_large_patch16_siglip_384",
    "ViT-L-16-SigLIP2-512": "vit_large_patch16_siglip_512",
    "ViT-SO400M-14-SigLIP2": "vit_so400m_patch14_siglip_224",
    "ViT-SO400M-14-SigLIP2-378": "vit_so400m_patch14_siglip_378",
    "ViT-SO400M-16-SigLIP2-256": "vit_so400m_patch16_siglip_256",
    "ViT-SO400M-16-SigLIP2-384": "vit_so400m_patch16_siglip_384",
    "ViT-SO400M-16-SigLIP2-512": "vit_so400m_patch16_siglip_512",
    "ViT-gopt-16-SigLIP2-256": "vit_giantopt_patch16_siglip_256",
    "ViT-gopt-16-SigLIP2-384": "vit_giantopt_patch16_siglip_384",
}
"""timm's name of an architecture's image tower, where they are the same network."""


@dataclass(frozen=True)
class Speed:
    """One published speed: `per_s` inputs of a tower a second, in batches of `batch`.

    `tower` is the source's name of what ran, `setup` how it was run. `date` is when the figure was
    published (year-month-day). A `server` rate is of whole queries, decoding and tokenising in it.
    """

    hardware: str
    side: Side
    tower: str
    setup: str
    batch: int
    per_s: float
    source: str
    date: str
    server: bool = False


@dataclass(frozen=True)
class QueryTime:
    """A row of Immich's table: peak RSS in MiB, milliseconds, recall as a share of one.

    The processor is named, and that nothing accelerated it, but not which tower the time is of:
    2.26 ms for ViT-B-32 would be 3.9 TFLOP/s for its images, more than that processor can do in
    fp32. So nothing is sized by these times.
    """

    model: str
    memory_mib: int
    execution_ms: float
    recall: float


@cache
def speeds() -> tuple[Speed, ...]:
    """Every published speed, source by source, in their order."""
    found = [
        Speed(
            hardware=row["device"],
            side="image",
            tower=row["model"],
            setup=_setup(row),
            batch=int(float(row["batch"])),
            per_s=float(row["images_per_s"]),
            source=f"huggingface/pytorch-image-models, {row['source']}",
            date=row["date"],
        )
        for row in read_table("timm_inference.csv")
        if row["images_per_s"]  # what failed has no figures
    ]
    sides: tuple[Side, ...] = ("image", "text")
    for row in basic_statistics():
        for side, rate in zip(sides, (row.image_qps, row.text_qps), strict=True):
            if rate is not None:
                found.append(_of_server(row.alias, side, rate))
    return tuple(found)


def _of_server(alias: str, side: Side, rate: float) -> Speed:
    return Speed(
        hardware=TITAN_RTX,
        side=side,
        tower=alias,
        setup="CLIP-as-service, PyTorch",
        batch=8,
        per_s=rate,
        source="jina-ai/clip-as-service, docs/user-guides/benchmark.rst",
        date=CLIP_AS_SERVICE_DATE,
        server=True,
    )


def _setup(row: dict[str, str]) -> str:
    cuda = f", {row['cuda']}" if row["cuda"] else ""
    return (
        f"timm {row['precision']}, {row['compiled']}, {row['layout']}, torch {row['torch']}{cuda}"
    )


@cache
def query_times() -> tuple[QueryTime, ...]:
    """Immich's 53 models in ONNX Runtime, fp32, on an AMD Ryzen 7 7800X3D."""
    return tuple(
        QueryTime(
            row["model"],
            int(row["memory_mib"]),
            float(row["execution_ms"]),
            round(float(row["recall_percent"]) / 100, 6),
        )
        for row in read_table("immich_clip_english.csv")
    )


def hardware() -> list[str]:
    """The hardware of which speeds are published, by name."""
    return sorted({speed.hardware for speed in speeds()})


def hardware_named(text: str) -> str:
    """The hardware that a text means: a part of its name, whatever its case, spaces and hyphens.

    Raises:
        UsageError: it is none of those known, or several.
    """
    wanted = letters(text)
    known = hardware()
    found = [name for name in known if wanted and wanted in letters(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{quoted(text)} is {' or '.join(found)}: name one of them")
    if wanted and wanted in letters(RYZEN):
        raise UsageError(
            f"{quoted(text)}: the published times on {RYZEN} do not say of which tower they are, "
            f"so nothing is sized by them; there is {', '.join(known)}"
        )
    raise UsageError(f"no speeds are published for {quoted(text)}: there is {', '.join(known)}")


def image_towers(model_id: str) -> list[str]:
    """timm's names of a model's image tower, the closest first; none where it has none.

    OpenAI's weights use QuickGELU whatever their architecture is called.
    """
    architecture, _, tag = model_id.partition("::")
    bare = architecture.removesuffix("-quickgelu")
    names = {normal(name): tower for name, tower in IMAGE_TOWERS.items()}
    tower = names.get(normal(bare))
    if tower is None:
        return []
    quick = re.sub(r"_clip_(\d+)$", r"_clip_quickgelu_\1", tower)
    asked = normal(tag) == "openai" or bare != architecture
    return list(dict.fromkeys([quick, tower] if asked else [tower]))


def speeds_of(model_id: str, on: str | None = None) -> list[Speed]:
    """The published speeds of a model's towers, `on` one hardware or all, the newest last.

    Of CLIP-as-service those of the same weights, else of the same architecture.
    """
    towers = image_towers(model_id)
    mine = [s for s in speeds() if not s.server and s.tower in towers]
    if towers and any(s.tower == towers[0] for s in mine):
        mine = [s for s in mine if s.tower == towers[0]]
    servers = [s for s in speeds() if s.server]
    exact = [s for s in servers if normal(s.tower) == normal(model_id)]
    architecture = normal(model_id.partition("::")[0])
    same = [s for s in servers if normal(s.tower.partition("::")[0]) == architecture]
    found = [s for s in (*mine, *(exact or same[:2])) if on in (None, s.hardware)]
    return sorted(found, key=lambda s: s.date)


def newest(found: list[Speed]) -> list[Speed]:
    """Of each hardware, side and way to run only the newest, of nchw layout where there is one."""
    kept: dict[tuple[str, str, str], Speed] = {}
    for speed in sorted(found, key=lambda s: (s.date, "nchw" in s.setup)):
        way = re.sub(r", n(chw|hwc), torch.*", "", speed.setup)
        kept[speed.hardware, speed.side, way] = speed
    return list(kept.values())
