"""Branches of reparameterisable towers: joined for export, with the unjoined tower to compare."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("name", ["fastvit_t8", "mobileone_s0", "repvgg_a0", "repvit_m0_9"])
def test_outputs_stay(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = trained(timm.create_model(name, num_classes=0))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in model.modules())
    joined = fuse_branches(model, torch.zeros(2, 3, 64, 64))
    left = sum(isinstance(part, torch.nn.Conv2d) for part in model.modules())
    assert joined > 5 and left < convolutions
    with torch.inference_mode():
        after = model(images)
    assert (after - before).abs().max() <= 2e-5 * before.abs().max()
    assert (before[0] - before[1]).abs().max() > 1e-4 * before.abs().max()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_has_no_branches_is_left_alone() -> None:
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    before = dict(plain.state_dict())
    assert fuse_branches(plain, torch.zeros(1, 3, 4, 4)) == 0
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
        assert trace.export_onnx(tower, tmp_path / f"{again}.onnx", key=key) == 29
        graph = onnx.load(str(tmp_path / f"{again}.onnx"), load_external_data=False).graph
        assert Counter(node.op_type for node in graph.node)["Conv"] == 97
        found = open_session(tmp_path / f"{again}.onnx", threads=1).run(pixels.numpy())
        cosines = (found * unjoined).sum(1) / np.linalg.norm(found, axis=1)
        cosines /= np.linalg.norm(unjoined, axis=1)
        assert cosines.min() > 0.99999


# --- by hand -------------------------------------------------------------------------------


class Twice(torch.nn.Module):
    """3x + x as a convolution and a shortcut; `factor` is what fusing them comes to."""

    def __init__(self, factor: float = 4.0) -> None:
        super().__init__()
        self.branch = torch.nn.Conv2d(1, 1, 1, bias=False)
        torch.nn.init.constant_(self.branch.weight, 3.0)
        self.factor = factor
        self.one: Any = None

    def forward(self, x: Any) -> Any:
        return self.branch(x) + x if self.one is None else self.one(x)

    def reparameterize(self) -> None:
        self.one = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.one.weight.data = self.branch.weight.data * 0 + self.factor
        del self.branch


class Instead(Twice):
    """Gives what to use in its place."""

    reparameterize = None  # type: ignore[assignment]

    def fuse(self) -> Any:
        Twice.reparameterize(self)
        return self.one


class Failing(Twice):
    def reparameterize(self) -> None:
        super().reparameterize()
        raise RuntimeError("half done")


class Nothing(torch.nn.Module):
    """Names a method, and has nothing to fuse."""

    def forward(self, x: Any) -> Any:
        return x

    def fuse(self) -> Any:
        return self


def net(*parts: Any) -> Any:
    return torch.nn.Sequential(*parts).eval().requires_grad_(False)


def test_branches_by_hand() -> None:
    x = torch.tensor([[[[1.0, -2.0]]]])
    module = net(Twice(), torch.nn.Sequential(Instead(), Nothing()))
    assert fuse_branches(module, x) == 2
    weights = {name: weight.flatten().tolist() for name, weight in module.state_dict().items()}
    assert weights == {"0.one.weight": [4.0], "1.0.weight": [4.0]}
    assert {w.dtype for w in module.state_dict().values()} == {torch.float32}
    assert module(x).flatten().tolist() == [16.0, -32.0]
    assert not any(part.training for part in module.modules())
    assert not any(weight.requires_grad for weight in module.parameters())
    assert fuse_branches(module, x) == 0


def test_a_part_that_cannot_be_fused_stays_alone() -> None:
    module = net(Failing(), Twice())
    assert fuse_branches(module, torch.ones(1, 1, 2, 2)) == 1
    assert isinstance(module[0].branch, torch.nn.Conv2d) and module[0].one is None
    assert module(torch.ones(1, 1, 1, 1)).item() == 16


def test_what_would_give_other_embeddings_is_taken_back() -> None:
    module = net(Twice(), Twice(factor=4.5))
    before = copy.deepcopy(module.state_dict())
    # Zeros, which the example is, would not tell.
    assert fuse_branches(module, torch.zeros(1, 1, 2, 2)) == 0
    assert module.state_dict().keys() == before.keys()
    assert module(torch.ones(1, 1, 1, 1)).item() == 16
