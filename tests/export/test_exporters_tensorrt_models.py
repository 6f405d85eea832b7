"""Real models at full size, random weights, fp16: engines of their towers for three targets.

The sample does the same in `test_exporters_tensorrt`. RN50's text tower is that of ViT-B-32 but for
the width of its embeddings, so one of them is built. No seconds are asserted: they depend on the
machine's load, which peak RSS does not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, assert_usable

from clipperf.engines.profiles import whole
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.system import files, store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not flavours.installed("trt-rtx"),
        reason="TensorRT for RTX is not installed: pip install 'clipperf[trt-rtx]'",
    ),
]

TARGETS = ("sm86", "sm89", "sm120")
PEAK_RATIO = 6
"""Peak RSS of a build over the plan's bytes, at most; 4.8 was measured for ViT-B-32."""

SHAPES = {
    "RN50": ("image", (3, 224, 224), 77, 1024),
    "ViT-B-32": ("both", (3, 224, 224), 77, 512),
}
"""The towers that are built, pixels, tokens and width of the embeddings."""


def export(cli: Cli, model: str, *args: str) -> dict[str, Any]:
    command = ("export", model, "--pretrained", "random", "--runtime", "trt-rtx")
    said = cli(*command, "--precision", "fp16", "--json", *args, check=True, timeout=1200).stdout
    return dict(json.loads(said))


def graph_sha256(source: Path, side: str) -> str:
    """That of the file, or with weights beside it that of what sha256sum says of both."""
    found = sorted((source / side).iterdir())
    if len(found) == 1:
        return files.sha256_file(found[0])
    assert [path.name for path in found] == ["model.onnx", "model.onnx.data"]
    lines = "".join(f"{files.sha256_file(path)}  {side}/{path.name}\n" for path in found)
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("model", SHAPES)
def test_towers_build_for_three_targets(model: str, cli: Cli) -> None:
    tower, pixels, context, width = SHAPES[model]
    said = export(cli, model, "--target", ",".join(TARGETS), "--tower", tower)
    assert said["built"] == (["image", "text"] if tower == "both" else [tower])
    folder = Path(said["folder"])
    assert_usable(folder)
    manifest = store.read_manifest(folder)
    parameters = {
        "image": manifest.spec.image_parameters,
        "text": manifest.spec.text_parameters,
    }
    ((source, _),) = [x for x in store.find_artifacts() if x[1].runtime == "onnx"]
    for tower in manifest.towers:
        plan = folder / tower.path
        info = plan_file.read(plan)
        assert plan_file.check(plan) == []
        assert (info.flavour, info.precision, info.side) == ("trt-rtx", "fp16", tower.side)
        assert info.targets == TARGETS and info.model_id == manifest.spec.id
        assert info.onnx_sha256 == graph_sha256(source, tower.side)
        rest = pixels if tower.side == "image" else (context,)
        shapes = whole(info.profile)
        shortest = pixels if tower.side == "image" else (8,)
        assert (shapes.min, shapes.max) == ((1, *shortest), (64, *rest))
        # Three batches of images; texts of each usual length and of the longest.
        assert len(info.profile) == (3 if tower.side == "image" else 6)
        assert tower.outputs[0].shape == ("batch", width)
        assert tower.build_s == info.build_s > 0
        assert tower.peak_rss_bytes == info.peak_rss_bytes is not None
        count = parameters[tower.side]
        assert count is not None and info.plan_bytes > 1.9 * count, "two bytes a weight"
    if model == "ViT-B-32":  # its ONNX tower is there already
        one = export(cli, model, "--target", "sm89", "--tower", "image")
        assert one["folder"] != said["folder"]
        info = plan_file.read(Path(one["folder"]) / "image/model.plan")
        assert info.targets == ("sm89",)
        assert info.peak_rss_bytes is not None
        assert info.peak_rss_bytes <= PEAK_RATIO * info.plan_bytes
