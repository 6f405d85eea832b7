"""What an ensemble would cost: preprocessing and tower as two models of Triton's.

    clipperf export ViT-B-32 --pretrained random --precision int8 --layout triton \\
        --out repository
    python benchmarks/serving_split.py repository
    tritonserver --model-repository=repository --model-control-mode=explicit \\
        --load-model=clip_image --load-model=clip_text --load-model=split_image
    python benchmarks/serving.py repository --http 127.0.0.1:8000 --towers image --also split_image

Adds three models to the repository: ``split_pixels`` takes image files and gives pixels on all
cores, ``split_tower`` takes pixels and gives vectors, and ``split_image`` is the ensemble of both.
Each is Triton's Python backend on the artifact of ``clip_image``, so that the only difference is
where the pixels go between the two.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asked
import numpy as np

import clipperf
from clipperf.export.deployments.triton import FIND_PACKAGES, ONE_ON_CPU, config
from clipperf.inputs.preprocess import preprocess
from clipperf.nouns.artifact import TensorSpec

BATCH = 32

MODEL_PY = f"""{FIND_PACKAGES}sys.path.append({str(Path(__file__).parent.resolve())!r})

from serving_split import {{stage}} as TritonPythonModel  # noqa: E402, F401
"""

ENSEMBLE = """platform: "ensemble"
max_batch_size: {batch}
input [ {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "image_embeds" data_type: TYPE_FP32 dims: [ {width} ] }} ]
ensemble_scheduling {{ step [
  {{ model_name: "split_pixels" model_version: -1
     input_map {{ key: "image" value: "image" }}
     output_map {{ key: "pixel_values" value: "pixels" }} }},
  {{ model_name: "split_tower" model_version: -1
     input_map {{ key: "pixel_values" value: "pixels" }}
     output_map {{ key: "image_embeds" value: "image_embeds" }} }}
] }}
"""


class Stage:
    """A model of the Python backend with one input and one output, on ``clip_image``'s artifact."""

    given, made = "", ""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact that the repository's ``clip_image`` serves."""
        folder = Path(args["model_repository"]).parent / "clip_image" / "image"
        self.model = clipperf.load(folder)

    def execute(self, requests: list[Any]) -> list[Any]:
        """All requests as one batch."""
        import triton_python_backend_utils as triton

        inputs = [triton.get_input_tensor_by_name(r, self.given).as_numpy() for r in requests]
        made = self.run(np.concatenate(inputs))
        ends = np.cumsum([len(each) for each in inputs])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor(self.made, part)])
            for part in np.split(made, ends)
        ]

    def run(self, given: Any) -> Any:
        """What is made of a batch."""
        raise NotImplementedError

    def finalize(self) -> None:
        """Close the model."""
        self.model.close()


class Pixels(Stage):
    """Files of images to pixels, on all cores."""

    given, made = "image", "pixel_values"
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def run(self, given: Any) -> Any:
        """[n, 1] of bytes to float32 [n, 3, px, px]."""
        spec = self.model.pixels
        assert spec is not None
        out = np.empty((len(given), *spec.shape), np.float32)
        files = given.reshape(-1).tolist()
        places = range(len(files))
        list(self.pool.map(lambda i: preprocess(files[i : i + 1], spec, out[i : i + 1]), places))
        return out


class Tower(Stage):
    """Pixels to vectors."""

    given, made = "pixel_values", "image_embeds"

    def run(self, given: Any) -> Any:
        """float32 [n, 3, px, px] to [n, width]."""
        return self.model.encode_pixels(given)


def main() -> None:
    """Write the three models beside the repository's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repository", type=asked.folder)
    repository: Path = parser.parse_args().repository
    folder = repository / "clip_image" / "image"
    if not folder.is_dir():
        sys.exit(f"{repository} has no clip_image: clipperf export MODEL --layout triton --out DIR")
    with clipperf.load(folder) as model:
        assert model.pixels is not None
        pixels = TensorSpec("pixel_values", "float32", ("batch", *model.pixels.shape))
        width = model.embed_dim
    image = TensorSpec("image", "bytes", ("batch", 1))
    vectors = TensorSpec("image_embeds", "float32", ("batch", width))
    stages = {"Pixels": (image, pixels), "Tower": (pixels, vectors)}
    for stage, (given, made) in stages.items():
        target = repository / f"split_{stage.lower()}"
        (target / "1").mkdir(parents=True, exist_ok=True)
        (target / "1" / "model.py").write_text(MODEL_PY.replace("{stage}", stage))
        said = config("python", (given,), (made,), (BATCH,))
        (target / "config.pbtxt").write_text(said + ONE_ON_CPU)
    target = repository / "split_image"
    (target / "1").mkdir(parents=True, exist_ok=True)
    (target / "config.pbtxt").write_text(ENSEMBLE.format(batch=BATCH, width=width))
    print(*sorted(path.name for path in repository.iterdir()), sep="\n")


if __name__ == "__main__":
    asked.run(main)
