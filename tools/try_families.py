"""Write the part of `docs/architectures.md` on models that are not open_clip's.

    python tools/try_families.py            # try each family's classes, rewrite their table

Each is a folder of reduced size with seeded weights, as its library writes it. Its towers are
exported to ONNX, and their embeddings in ONNX Runtime compared with the library's own, from images
and texts on. It downloads nothing. A minute of two cores.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from architecture_page import OTHERS, cut_words, table  # noqa: E402
from transformers_folders import CLASSES, CORPUS, image_processor, save, save_student  # noqa: E402

from clipperf.drift import drift_of  # noqa: E402
from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.graph import trace  # noqa: E402
from clipperf.inputs.preprocess import preprocess  # noqa: E402
from clipperf.inputs.tokenize import Tokenizer  # noqa: E402
from clipperf.models import zoo  # noqa: E402
from clipperf.models.cutting import cut_of  # noqa: E402
from clipperf.models.family import family_of  # noqa: E402
from clipperf.nouns.variant import SIDES, Side  # noqa: E402
from clipperf.system.files import write_text  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"

NOTES = {
    "clip": "open_clip's modules where that is exact",
    "siglip": "its tokenizer from tokenizer.json, or spiece.model without sentencepiece",
    "siglip2": "NaFlex at one number of patches: images are squashed to a square",
    "altclip": "texts of more than 77 tokens lose their rest",
    "chinese_clip": "texts of more than 77 tokens lose their rest",
    "xlm-roberta": "three of CLIP-as-service's four; image towers are OpenAI's and open_clip's",
    "bert": "LaBSE, the fourth",
}
HEAD = """{mark}

## Models of transformers, and M-CLIP

Of each class a model of two layers with seeded weights, as `save_pretrained` writes it (M-CLIP: as
its repositories are), with transformers {transformers}. *Min cosine* is the worst of ONNX Runtime's
embeddings against the library's own, from images and texts on, so with its preprocessing and
tokenizer. Written by tools/try_families.py. Weights of the hub could not be tried: there was no
network. jina-clip and nomic-embed-vision come as code on the hub, which clipperf never runs: they
are refused.
"""


def tried(kind: str, folder: Path) -> dict[Side, tuple[float, str, str]]:
    """By tower: the smallest cosine, the modules that it ran in, where its texts are cut."""
    model: Any
    images = list(pictures(8, square=kind == "siglip2"))
    theirs: dict[Side, Callable[[], Any]]
    if kind in CLASSES:
        from transformers import AutoTokenizer

        model = save(kind, folder)
        spec = zoo.resolve(str(folder))
        tokens = AutoTokenizer.from_pretrained(folder)(
            list(CORPUS), padding="max_length", truncation=True, max_length=spec.context_tokens,
            return_tensors="pt",
        )  # fmt: skip
        seen = image_processor(kind)(images, return_tensors="pt")
        theirs = {
            "image": lambda: model.get_image_features(**seen).pooler_output,
            "text": lambda: model.get_text_features(**tokens).pooler_output,
        }
    else:
        transformer, linear, tokenizer = save_student(kind, folder)
        spec = zoo.resolve(str(folder))
        given = tokenizer(list(CORPUS), padding=True, return_tensors="pt")
        mask = given["attention_mask"]
        theirs = {
            "text": lambda: linear(
                (transformer(**given)[0] * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
            )
        }
    import torch

    family, found = family_of(spec), {}
    family.write_tokenizer(spec, folder)
    for side in SIDES:
        if side not in theirs:
            continue
        with torch.inference_mode():
            wanted = theirs[side]().numpy()
        tower = family.build(spec, side, False)
        owner = type(tower.module.model).__module__.partition(".")[0]
        if side == "text":
            cut = cut_of(tower, Tokenizer.from_folder(folder))
            tower = replace(tower, dynamic_tokens=cut.at is not None)
        trace.export_onnx(tower, folder / f"{side}.onnx")
        engine = open_session(folder / f"{side}.onnx", threads=1)
        if side == "image":
            inputs = preprocess(images, family.pixels(spec))
        else:
            inputs = Tokenizer.from_folder(folder)(list(CORPUS))
        cosine = min(drift_of(engine.run(np.ascontiguousarray(inputs)), wanted).cosines)
        modules = {"open_clip": "open_clip's"}.get(owner, "transformers'")
        found[side] = cosine, modules, cut_words(cut.at) if side == "text" else ""
    return found


def pictures(count: int, square: bool) -> Iterator[Any]:
    """Blotches of random colours and sizes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for width, height in generator.integers(20, 90, (count, 2)).tolist():
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        yield coarse.resize((width, width if square else height), Image.Resampling.BICUBIC)


def main() -> int:
    """Try all, and put their table in the place of the old one."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    for kind in (*CLASSES, "xlm-roberta", "bert"):
        with tempfile.TemporaryDirectory() as folder:
            found = tried(kind, Path(folder) / kind)
        name = f"{CLASSES[kind]}Model" if kind in CLASSES else f"M-CLIP over {kind}"
        cells = [name]
        for side in SIDES:
            cosine, modules, _ = found.get(side, (None, "open_clip's", ""))
            cells += [modules, "-" if cosine is None else f"{cosine:.7f}"]
        rows.append([*cells, found["text"][2], NOTES[kind]])
        print(*rows[-1], sep=" | ", flush=True)
    columns = ["class", "image tower in", "min cosine", "text tower in", "min cosine"]
    head = HEAD.format(mark=OTHERS, transformers=version("transformers"))
    own = PAGE.read_text(encoding="utf-8").partition(OTHERS)[0].rstrip()
    written = "\n".join([own, "", head, *table([*columns, "texts are cut", "note"], rows)])
    write_text(PAGE, written + "\n")
    print(f"written to {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
