"""Published datasets by CLIP_benchmark's names: where they lie, here and on the hub.

A name is looked for in the folder of ``CLIPPERF_DATASETS`` and in the store, under the hub's name
(``wds_vtab-cifar10``) or its own (``vtab-cifar10``), in any layout that can be read; then it is
fetched from the hub into the store. Class names and templates, where data has none of its own, are
those of the package clip-benchmark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.inputs.sources import is_hidden
from clipperf.serialize import parse_json
from clipperf.system import extras, store
from clipperf.system.reading import read_small
from clipperf.system.targets import entries_of, expanded
from clipperf.text import quoted, shown

CLIP_BENCHMARK, DATACOMP = "clip-benchmark/wds_{}", "djghosh/wds_{}_test"

HUB = "https://huggingface.co"

MOST_TEXTS_BYTES = 1 << 26


@dataclass(frozen=True)
class PublishedSet:
    """A dataset by name: its test images, and the hub's repository (None: nobody has put it there).

    Where one is given in place of a name, a file or folder of that name is not meant. `samples`
    counts images, None where it is not settled.
    """

    name: str
    samples: int | None
    repository: str | None

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> str:
        """What its folder is called: the last part of the repository's name."""
        return (self.repository or f"/{flat(self.name)}").rpartition("/")[2]

    @property
    def url(self) -> str | None:
        """Where its files are: this, a part, and a shard, with "/" between."""
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        return self.repository and f"{hub}/datasets/{self.repository}/resolve/main"


def flat(name: str) -> str:
    """A name as part of a folder's: "vtab/cifar10" is "vtab-cifar10"."""
    return name.replace("/", "-")


_WDS = {
    "mscoco_captions": 5000,
    "flickr8k": 1000,
    "flickr30k": 1000,
    "imagenet1k": 50000,
    "imagenetv2": 10000,
    "imagenet_sketch": 50889,
    "imagenet-a": 7500,
    "imagenet-r": 30000,
    "imagenet-o": 2000,
    "objectnet": 18574,
    "fer2013": 7178,
    "voc2007": 14976,
    "voc2007_multilabel": 4952,
    "sun397": 108754,
    "cars": 8041,
    "fgvc_aircraft": 3333,
    "mnist": 10000,
    "stl10": 8000,
    "gtsrb": 12630,
    "country211": 21100,
    "renderedsst2": 1821,
    "vtab/caltech101": 6085,
    "vtab/cifar10": 10000,
    "vtab/cifar100": 10000,
    "vtab/clevr_count_all": 15000,
    "vtab/clevr_closest_object_distance": 15000,
    "vtab/diabetic_retinopathy": 42670,
    "vtab/dmlab": 22735,
    "vtab/dsprites_label_orientation": 73728,
    "vtab/dsprites_label_x_position": 73728,
    "vtab/dtd": 1880,
    "vtab/eurosat": 5400,
    "vtab/kitti_closest_vehicle_distance": 711,
    "vtab/flowers": 6149,
    "vtab/pets": 3669,
    "vtab/pcam": 32768,
    "vtab/resisc45": 6300,
    "vtab/smallnorb_label_azimuth": 12150,
    "vtab/smallnorb_label_elevation": 12150,
    "vtab/svhn": 26032,
}
"""Images of what CLIP_benchmark has put on the hub, by name."""

_DATACOMP = {
    "food101": ("food101", 25250),
    "wilds/iwildcam": ("wilds-iwildcam", 42791),
    "wilds/camelyon17": ("wilds-camelyon17", 85054),
    "wilds/fmow": ("wilds-fmow", 22108),
    "dollar_street": ("fairness-dollar_street", 3503),
    "geode": ("fairness-geode", 12488),
}
"""What only DataComp has put there: its name in the repository's, and images."""

METADATA = {
    "wilds/fmow": ("region", "year", "y"),
    "wilds/camelyon17": ("hospital", "slide", "y"),
    "wilds/iwildcam": (
        *("location", "sequence", "year", "month", "day", "hour", "minute", "second"),
        "y",
    ),
    "dollar_street": ("income_ds", "income_meta", "region"),
    "geode": ("region", "country"),
}
"""What DataComp's numbers beside a class are, by dataset: codes, as its evaluation reads them."""

METADATA_GROUPS = {
    "wilds/fmow": ("region",),
    "dollar_street": ("income_ds",),
    "geode": ("region",),
}
"""Those of them that make the groups of which the worst is published."""

_NOWHERE = {
    "birdsnap": 2149,
    "ucf101": 1794,
    "kinetics700": 31669,
    "hateful_memes": 500,
    "winogavil": 3563,
    "crossmodal3600": 3600,
}
"""What nobody has put there as a WebDataset."""

SETS: dict[str, PublishedSet] = {
    found.name: found
    for found in (
        *(PublishedSet(name, n, CLIP_BENCHMARK.format(flat(name))) for name, n in _WDS.items()),
        *(PublishedSet(name, n, DATACOMP.format(own)) for name, (own, n) in _DATACOMP.items()),
        *(PublishedSet(name, n, None) for name, n in _NOWHERE.items()),
    )
}
"""Every dataset of the published tables."""


def roots() -> list[Path]:
    """The folders in which published datasets are looked for; the last is where they are put."""
    own = os.environ.get("CLIPPERF_DATASETS")
    return [*([expanded(own)] if own else []), store.home() / "datasets"]


def local_path(found: PublishedSet) -> Path | None:
    """Where a dataset is on this machine; None where it is not."""
    for root in roots():
        for name in (found.folder, f"wds_{flat(found.name)}", flat(found.name)):
            if any(not is_hidden(entry.name) for entry in entries_of(root / name)):
                return root / name
    return None


def how_to_fetch(found: PublishedSet) -> str:
    """What to fetch by hand, and where to put it."""
    target = roots()[-1] / found.folder
    if found.repository is None:
        return (
            f"nobody has published it as a WebDataset: put it, in any layout that clipperf reads, "
            f"into {shown(target)}"
        )
    return (
        f"where there is a network, run: hf download --repo-type dataset {found.repository} "
        f"--local-dir {found.folder}; then put that folder to {shown(target)}"
    )


def clip_benchmark_texts(name: str, language: str = "en") -> tuple[list[str], list[str]]:
    """The class names and templates that the package clip-benchmark has for a dataset.

    Either is empty where it has none; templates of ImageNet's stand in, as they do there.

    Raises:
        MissingDependencyError: the package is not installed.
        UsageError: it has no texts in that language.
    """
    folder = _clip_benchmark()
    found: list[dict[str, list[str]]] = []
    for kind in ("classnames", "zeroshot_classification_templates"):
        path = folder / f"{language}_{kind}.json"
        if not path.is_file():
            raise UsageError(f"clip-benchmark has no class names in {quoted(language)}")
        found.append(parse_json(read_small(path, MOST_TEXTS_BYTES), path))
    names, templates = found
    short = name.rpartition("/")[2]
    keys = (name, f"{short}_vtab", short) if name.startswith("vtab/") else (name,)
    own: list[str] = next((names[key] for key in keys if key in names), [])
    those: list[str] = next((templates[k] for k in (*keys, "imagenet1k") if k in templates), [])
    return list(own), list(those)


WORDNET = re.compile(r"n\d{8}")
"""A number of WordNet's, as the folders of ImageNet and of its shifted sets are called."""


def imagenet_names(classes: Sequence[str | int]) -> list[str]:
    """CLIP's names of classes of ImageNet's 1,000, by WordNet's number or by their place from 0.

    Raises:
        MissingDependencyError: the package that has them is not installed.
        UsageError: one is none of the 1,000.
    """
    names = clip_benchmark_texts("imagenet1k")[0]
    place = {number: i for i, number in enumerate(_wordnet_numbers())}
    found = []
    for given in classes:
        at = place.get(given) if isinstance(given, str) else given
        if at is None or not 0 <= at < len(names):
            raise UsageError(f"{quoted(given)} is none of ImageNet's {len(names)} classes")
        found.append(names[at])
    return found


def _wordnet_numbers() -> list[str]:
    """Of ImageNet's classes in their order, from clip-benchmark's source."""
    path = _clip_benchmark() / "builder.py"
    text = read_small(path, MOST_TEXTS_BYTES).decode()
    listed = re.search(r"^all_imagenet_wordnet_ids = (\[[^\]]*\])", text, re.MULTILINE)
    if listed is None:
        raise UsageError(f"{shown(path)} does not list the numbers of ImageNet's classes")
    return WORDNET.findall(listed.group(1))


def _clip_benchmark() -> Path:
    """The folder of that package's data sets; it is not imported: that would take torch."""
    import importlib.util

    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "class names and templates of published datasets come with the package "
            f"clip-benchmark: {extras.bring('clip_benchmark')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "datasets"
