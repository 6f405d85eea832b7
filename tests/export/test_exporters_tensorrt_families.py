"""Engines of models of transformers and of M-CLIP, at a reduced size, for one target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, assert_usable

from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.system import store

pytest.importorskip("transformers", reason="the models are transformers' own")
import transformers_folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not flavours.installed("trt-rtx"),
        reason="TensorRT for RTX is not installed: pip install 'clipperf[trt-rtx]'",
    ),
]


@pytest.mark.parametrize("kind", [*transformers_folders.CLASSES, "xlm-roberta", "bert"])
def test_both_towers_build(kind: str, cli: Cli, tmp_path: Path) -> None:
    folder, sides = tmp_path / kind, ["image", "text"]
    if kind in transformers_folders.CLASSES:
        transformers_folders.save(kind, folder)
    else:  # M-CLIP; its image towers are open_clip's
        transformers_folders.save_student(kind, folder)
        sides = ["text"]
    words = ("--runtime", "trt-rtx", "--precision", "fp16", "--target", "sm89", "--json")
    side = () if len(sides) == 2 else ("--tower", "text")
    said = json.loads(cli("export", folder, *words, *side, check=True, timeout=600).stdout)
    assert said["built"] == sides
    assert_usable(Path(said["folder"]))
    for tower in store.read_manifest(Path(said["folder"])).towers:
        plan = Path(said["folder"]) / tower.path
        assert plan_file.check(plan) == []
        assert plan_file.read(plan).targets == ("sm89",)
