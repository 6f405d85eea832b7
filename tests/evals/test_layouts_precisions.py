"""Published layouts of sets that are asked in ways of their own, on towers of every precision."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipperf
from clipperf.evals.accuracy import ModelEmbedder, embed
from clipperf.evals.datasets import load_dataset
from clipperf.evals.task import outcomes_of

SETS: dict[str, tuple[str, ...]] = {
    "films": ("zeroshot top-1", "zeroshot mean(top-1, top-5)"),
    "pooled": ("zeroshot top-1", "zeroshot top-1, worst group"),
    "digits": ("zeroshot top-1",),
    "memes": ("zeroshot ROC AUC",),
    "games": ("association Jaccard", "association Jaccard, 5 and 6"),
    "rare": ("actions mWAP", "actions mWSAP"),
    "words": ("lexicon top-1",),
    "faces": ("in crime-related classes with 'child', race White",),
    "people": ("zeroshot top-1",),
}
"""What each set must have a figure for."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sets of the bundled sample's drawings, each in its own layout."""
    data, root = load_dataset("sample"), tmp_path_factory.mktemp("sets")
    by_class = [
        [i.read() for i, label in zip(data.images, data.labels, strict=True) if label == c][:6]
        for c in range(6)
    ]
    drawings = [image for own in by_class for image in own]
    suffix = Path(data.images[0].name).suffix

    def put(name: str, image: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)

    def text(name: str, content: str) -> None:
        put(name, content.encode())

    for c, own in enumerate(by_class):
        for i, image in enumerate(own):
            put(f"films/kind {c}/clip{i // 3}/{i}{suffix}", image)
    text("films/task.toml", 'clip = "folder"\nmetric = ["top-1", "mean(top-1, top-5)"]\n')
    rows = [f"{i}{suffix},{'ab'[i % 2]},{'xyz'[i % 3]}" for i in range(12)]
    for i in range(12):
        put(f"pooled/{i}{suffix}", drawings[i])
        put(f"memes/img/{i}{suffix}", drawings[i])
        put(f"faces/val/{i}{suffix}", drawings[i])
        put(f"people/{i}{suffix}", drawings[i])
        put(f"words/{i}{suffix}", drawings[i])
        put(f"games/winogavil_images/{i}{suffix}", drawings[i])
        put(f"rare/v{i // 2}_0_9/{i}{suffix}", drawings[i])
    text("pooled/labels.csv", "\n".join(["image,label,region", *rows]))
    text(
        "pooled/task.toml",
        'group = "region"\n[pooled]\na = ["a smiley", "a face"]\nb = ["an animal", "a plant"]\n',
    )
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    put("digits/t10k-images-idx3-ubyte", struct.pack(">4I", 0x0803, 12, 28, 28) + pixels.tobytes())
    put("digits/t10k-labels-idx1-ubyte", struct.pack(">2I", 0x0801, 12) + bytes(range(10)) + b"01")
    lines = [{"img": f"img/{i}{suffix}", "label": i % 2, "text": "x"} for i in range(12)]
    text("memes/dev.jsonl", "\n".join(map(json.dumps, lines)))
    five = [f"{i}{suffix}" for i in range(5)]
    text("games/winogavil_dataset.csv", f'cue,associations,candidates\nsmile,"{five[:2]}","{five}"')
    header = "id,start,end,class_id,verb,noun,annotation"
    clips = [f"v{i},0,9,{i % 2},{('cut,cup', 'eat,pen')[i % 2]},{i // 2 % 2}" for i in range(6)]
    text("rare/rareact.csv", "\n".join([header, *clips]))
    own = [f"{i}{suffix},{('one', 'two')[i % 2]},one|two|three" for i in range(12)]
    text("words/labels.csv", "\n".join(["image,label,lexicon", *own]))
    text("words/task.toml", 'task = "lexicon"')
    people = [f"val/{i}{suffix},20-29,Male,{('White', 'Black')[i % 2]},True" for i in range(12)]
    table = ["file,age,gender,race,service_test", *people]
    text("faces/fairface_label_val.csv", "\n".join(table))
    text("faces/task.toml", 'task = "bias"')
    # As CelebA's identities: a class a name, most of which nobody here has.
    names = [f"Person {i}" for i in range(100)]
    identities = [f"{i}{suffix},{i % 7}" for i in range(12)]
    text("people/labels.csv", "\n".join(["image,label", *identities]))
    text("people/classnames.txt", "\n".join(names))
    text("people/task.toml", 'templates = "a photo of {}."\n')
    return root


def test_every_layout_on_every_precision(sets: Path, sample_in: Callable[[str], Path]) -> None:
    data = {name: load_dataset(sets / name) for name in SETS}
    data["memes"] = dataclasses.replace(data["memes"], metrics=("ROC AUC",))
    assert len(data["people"].class_names) == 100 and len(data["films"].images) == 36
    found: dict[tuple[str, str, str], float] = {}
    for precision in ("fp32", "fp16", "int8"):
        with clipperf.load(sample_in(precision)) as model:
            embedder = ModelEmbedder(model)
            for name, dataset in data.items():
                for row in outcomes_of(dataset, embed(dataset, embedder)):
                    found[precision, name, row.metric] = row.value
                    low, high = row.interval
                    assert 0 <= low <= row.value + 1e-9 and row.value <= high + 1e-9 <= 1 + 1e-6
    for name, metrics in SETS.items():
        for metric in metrics:
            exact = found["fp32", name, metric]
            assert 0 <= exact <= 1
            # Of the few samples here one or two may change.
            assert found["fp16", name, metric] == pytest.approx(exact, abs=0.26)
            assert found["int8", name, metric] == pytest.approx(exact, abs=0.51)
