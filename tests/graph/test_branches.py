"""Branches that are fused: by hand, in timm's own networks, and never where it would be wrong."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
onnx = pytest.importorskip("onnx")

from toy_models import TEXT, spec_of  # noqa: E402
from toy_models import timm as timm_tower  # noqa: E402

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.export.judge import parity  # noqa: E402
from clipperf.graph import kept, trace  # noqa: E402
from clipperf.graph.branches import fuse_branches  # noqa: E402
from clipperf.models.open_clip import build_from_config  # noqa: E402
from clipperf.nouns.model import Tower  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")


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


def shaken(module: Any) -> Any:
    """Batch norms as after training."""
    generator = torch.Generator().manual_seed(0)
    for part in module.eval().requires_grad_(False).modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var, part.weight, part.bias):
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.3)
    return module


def layers(module: Any) -> int:
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d)
    return sum(isinstance(part, kinds) for part in module.modules())


NETS = [
    ("fastvit_t8", {}),
    ("mobileone_s1", {}),
    ("repvgg_a0", {}),
    ("repghostnet_050", {}),
    ("repvit_m0_9", {"num_classes": 0}),
]


@pytest.mark.parametrize(("name", "options"), NETS)
def test_timms_networks(name: str, options: dict[str, Any]) -> None:
    """Those that timm knows how to fuse, exact to rounding."""
    torch.manual_seed(0)
    module = shaken(timm.create_model(name, **options))
    x = torch.randn(2, 3, 64, 64)
    before = layers(module)
    with torch.no_grad():
        expected = module(x)
        assert fuse_branches(module, x) > 5
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert layers(module) < 0.8 * before
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}


# --- exported ------------------------------------------------------------------------------

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": timm_tower("fastvit_t8", timm_pool="avg", timm_proj=None),
    "text_cfg": TEXT,
}


def tower_of(seed: int) -> Tower:
    tower = build_from_config(spec_of("toy-clip", f"random:{seed}"), CONFIG, "image")
    shaken(tower.module)
    return tower


def convolutions(path: Path) -> int:
    return Counter(node.op_type for node in onnx.load(path).graph.node)["Conv"]


def test_towers_are_exported_fused_and_traced_once(
    tmp_path: Path, home: Path, monkeypatch: Any
) -> None:
    """Against the tower that was not fused; fused weights go into the graph that was kept."""
    inputs = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    traced = []
    whole = trace._traced
    monkeypatch.setattr(trace, "_plain", None)
    monkeypatch.setattr(trace, "_traced", lambda *a, **k: traced.append(1) or whole(*a, **k))
    for seed in (1, 2):
        tower = tower_of(seed)
        with torch.inference_mode():
            expected = tower.module(inputs).numpy()
        key = trace.graph_key(tower, False, "fp32", CONFIG)
        path = tmp_path / f"{seed}.onnx"
        assert trace.export_onnx(tower, path, "fp32", key) > 10
        found = parity.measure(open_session(path, 1), inputs.numpy(), expected, "fp32")
        assert found.passed and found.min_cosine > 0.999999, parity.explain(found, "fused")
        assert kept.kept(key) is not None
    assert traced == [1]
    monkeypatch.setattr(trace, "fuse_branches", lambda *given: 0)
    trace.export_onnx(tower_of(2), tmp_path / "plain.onnx")
    assert convolutions(tmp_path / "2.onnx") < 0.7 * convolutions(tmp_path / "plain.onnx")
    found, plain = (open_session(tmp_path / f"{n}.onnx", 1).run(inputs.numpy()) for n in (2, "plain"))
    np.testing.assert_allclose(found, plain, atol=1e-4 * np.abs(plain).max())
