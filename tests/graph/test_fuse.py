"""Branches of reparameterisable towers: joined for export, with the unjoined tower to compare."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from clipperf.engines.onnxruntime import open_session
from clipperf.graph import trace
from clipperf.graph.fuse import fuse_branches
from clipperf.models import zoo
from clipperf.models.family import family_of


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """With statistics in its batch norms as training leaves them: none is the identity."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(part.bias, 0, 0.1, generator=generator)
    return module.eval()


@pytest.mark.parametrize("name", ["fastvit_t8", "mobileone_s0"])
def test_outputs_stay(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = trained(timm.create_model(name, num_classes=0))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in model.modules())
    gone = fuse_branches(model)
    left = sum(isinstance(part, torch.nn.Conv2d) for part in model.modules())
    assert convolutions - gone == left and gone > 0
    with torch.inference_mode():
        after = model(images)
    assert (after - before).abs().max() <= 2e-5 * before.abs().max()
    assert (before[0] - before[1]).abs().max() > 1e-3 * before.abs().max()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_has_no_branches_is_left_alone() -> None:
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    before = dict(plain.state_dict())
    assert fuse_branches(plain) == 0
    assert all(value is before[name] or torch.equal(value, before[name]) for name, value in
               plain.state_dict().items())  # fmt: skip


def test_a_mobileclip_is_exported_without_them(home: Path, tmp_path: Path) -> None:
    """161 convolutions with a branch each, and with batch norms that stand alone; 97 without."""
    spec = zoo.resolve("MobileCLIP2-S0", "random")
    family = family_of(spec)
    pixels = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    key = None
    for again in (False, True):  # traced, and from the graph that was kept
        tower = family.build(spec, "image", False)
        trained(tower.module)
        with torch.inference_mode():
            unjoined = tower.module(pixels).numpy()
        key = trace.graph_key(tower, False, "fp32", family.config(spec))
        trace.export_onnx(tower, tmp_path / f"{again}.onnx", key=key)
        graph = onnx.load(str(tmp_path / f"{again}.onnx"), load_external_data=False).graph
        assert Counter(node.op_type for node in graph.node)["Conv"] == 97
        found = open_session(tmp_path / f"{again}.onnx", threads=1).run(pixels.numpy())
        cosines = (found * unjoined).sum(1) / np.linalg.norm(found, axis=1)
        cosines /= np.linalg.norm(unjoined, axis=1)
        assert cosines.min() > 0.99999
