"""Where a model's weights come from: an open_clip tag, a file, or seeded noise.

What files hold is `checkpoint_files`' matter, and where in them the weights are `checkpoints`'.
"""

from __future__ import annotations

import contextlib
import functools
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import ArtifactError, StorageError, UsageError, WeightsError
from clipperf.models import catalog, checkpoint_files, checkpoints, hub
from clipperf.models.family import CatalogEntry
from clipperf.models.published import normal
from clipperf.system.files import read_json, write_json
from clipperf.system.processes import page_out
from clipperf.system.store import home
from clipperf.system.targets import existing, expanded
from clipperf.text import shown

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".index.json", ".pt", ".pth", ".bin", ".ckpt")
"""What ends in one of these is a file, also where it is missing."""


def named(name: str, pretrained: str | None) -> tuple[str, str | None]:
    """A model's name without the weights behind ``::``, and these, or those of ``--pretrained``.

    Raises:
        UsageError: both are given, and differ.
    """
    model, _, own = name.partition("::")
    if own and pretrained and own != pretrained:
        raise UsageError(
            f"{name} already names its weights: leave --pretrained out, which says {pretrained}"
        )
    return model, own or pretrained


def parse(pretrained: str, entry: CatalogEntry) -> tuple[str, str]:
    """Split a ``--pretrained`` value into (label for the model id, canonical value).

    Raises:
        UsageError: neither a tag of this architecture, nor a file or a folder, nor
            ``random[:SEED]``.
    """
    noise = seeded(pretrained)
    if noise is not None:
        return noise, noise
    path = None if normal(pretrained) in map(normal, entry.tags) else file_of(pretrained)
    if path is not None:
        return label_of(path), str(path)
    tag = catalog.tag_of(entry, pretrained)
    return tag, tag


def seeded(pretrained: str) -> str | None:
    """The canonical value of ``random[:SEED]``, None for other values; raises UsageError."""
    if pretrained != "random" and not pretrained.startswith("random:"):
        return None
    seed = pretrained.partition(":")[2] or "0"
    if not seed.isdecimal() or int(seed) >= 2**63:
        raise UsageError(f"--pretrained {pretrained}: the seed is a whole number below 2**63")
    return f"random:{int(seed)}"


def file_of(pretrained: str) -> Path | None:
    """The checkpoint that a ``--pretrained`` value names, in a folder the one that it holds.

    None where nothing of that name is there.

    Raises:
        UsageError: what looks like a file is missing, or a folder holds no checkpoint.
    """
    path = existing(pretrained)
    if path is not None and path.is_dir():
        try:
            return checkpoint_files.find(path)
        except WeightsError as exc:
            raise UsageError(f"--pretrained {pretrained}: {exc}") from exc
    if path is not None and path.is_file():
        return path
    if pretrained.endswith(SUFFIXES):
        expanded(pretrained)  # which a working directory that is gone may be the reason for
        raise UsageError(f"--pretrained {shown(pretrained)}: there is no such file")
    return None


def label_of(path: Path) -> str:
    """What a checkpoint is called in a model's id.

    Two may share a file name; their results must not be taken for one model's.
    """
    return f"{path.name}@{checkpoint_files.digest(path)[:8]}"


def is_file(pretrained: str) -> bool:
    """Whether a canonical `pretrained` value is a path."""
    return Path(pretrained).is_absolute()


def known(architecture: str, pretrained: str) -> Path | None:
    """The local file of a path, or of a tag that was fetched before; None for other tags."""
    if is_file(pretrained):
        return Path(pretrained)
    found = _fetched().get(f"{architecture}::{pretrained}")
    return Path(found) if isinstance(found, str) and found else None


def _fetched() -> dict[str, Any]:
    """The note of past downloads; empty where it is missing or damaged."""
    try:
        noted = read_json(home() / "fetched.json")
    except ArtifactError:
        return {}
    return noted if isinstance(noted, dict) else {}


def locate(architecture: str, pretrained: str) -> Path:
    """The local file of a tag (fetched through open_clip) or of a path.

    Raises:
        WeightsError: the hub cannot be reached; the message names the alternatives.
    """
    path = known(architecture, pretrained)
    if path is not None and (path.is_file() or is_file(pretrained)):
        return path
    path = _fetch(architecture, pretrained)
    with contextlib.suppress(StorageError):  # then the hub's client is asked again next time
        noted = {**_fetched(), f"{architecture}::{pretrained}": str(path)}
        write_json(home() / "fetched.json", noted)
    return path


def _fetch(architecture: str, tag: str) -> Path:
    source = "the hub"

    def advice(reason: str) -> str:
        return (
            f"the weights {architecture}::{tag} cannot be fetched from {source} ({reason}). "
            f"Without network, either copy the checkpoint here and pass "
            f"--pretrained FILE.safetensors (or .pt), or size the architecture with "
            f"--pretrained random"
        )

    with hub.asked(advice):
        from open_clip.pretrained import download_pretrained, get_pretrained_cfg

        config = get_pretrained_cfg(architecture, tag)
        if not config:
            raise WeightsError(f"open_clip knows no weights {tag!r} for {architecture}")
        source = str(config.get("hf_hub") or config.get("url"))
        return Path(download_pretrained(config))


def open_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by the model's own names; see `checkpoints.opened`."""
    return checkpoints.opened(path).tensors


def are_openais(path: Path) -> bool:
    """Whether a checkpoint carries the marks of OpenAI's files; raises as `checkpoints.opened`."""
    return _said(path)[0]


def chosen_in(path: Path) -> dict[str, str]:
    """What had to be chosen in a checkpoint, as `Tower.assumptions`; raises likewise."""
    return dict(_said(path)[1])


def _said(path: Path) -> tuple[bool, dict[str, str]]:
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError:
        changed_ns = 0  # which opening it will say
    return _read_once(path, changed_ns)


@functools.lru_cache(maxsize=1)
def _read_once(path: Path, changed_ns: int) -> tuple[bool, dict[str, str]]:
    """Asked several times for each tower; a file of the old format is read whole for it."""
    del changed_ns
    found = checkpoints.opened(path)
    return found.openais, found.assumptions


def as_fp32(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of floats in fp32, itself where it is; any other as it is."""
    import torch

    if not tensor.is_floating_point() or tensor.dtype == torch.float32:
        return tensor
    copy = tensor.to(torch.float32)
    let_go(tensor)
    return copy


def let_go(tensor: torch.Tensor) -> None:
    """Give back the RAM of a checkpoint's tensor of which there is a copy now.

    Its file stays mapped as long as any other tensor of it is in use.
    """
    if tensor.is_contiguous():
        page_out(tensor.data_ptr(), tensor.nbytes)


def fill_random(module: torch.nn.Module, prefix: str, seed: int) -> None:
    """Give every parameter seeded values, in place; parameters that are shared stay shared.

    Each tensor is drawn from its own generator, seeded by its name, so that a tower's weights do
    not depend on the other tower. Matrices get a normal of variance 1 / fan-in, which keeps
    activations of deep towers in fp16's range; norms start as the identity.
    """
    import torch

    filled: dict[int, torch.nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        if id(parameter) not in filled:
            value = _random_tensor(f"{prefix}{name}", leaf, parameter.shape, seed)
            filled[id(parameter)] = torch.nn.Parameter(value, requires_grad=False)
        setattr(module.get_submodule(owner), leaf, filled[id(parameter)])


_FEW_INPUTS = 8
"""Colour channels and depthwise kernels have fewer inputs; the others' weights sum to zero."""


def _random_tensor(name: str, leaf: str, shape: torch.Size, seed: int) -> torch.Tensor:
    import torch

    if len(shape) < 2 and "embed" not in leaf and "token" not in leaf:
        constant = 1.0 if leaf in ("weight", "gamma", "scale") else 0.0
        return torch.full(tuple(shape), constant)
    if leaf == "gamma" and len(shape) == 3:
        # The layer scale of a convolutional net (MobileCLIP-S*) without norms that hold activations
        # back: at 1 they grow to 1e6 in twenty blocks.
        return torch.full(tuple(shape), 0.1)
    # Embeddings have no fan-in; a projection applied as x @ W has it on its first axis.
    inputs = 0 if leaf in ("proj", "text_projection") else 1
    own_name = ".".join(name.split(".")[-2:])
    embedding = len(shape) < 4 and ("embed" in own_name or "token" in own_name)
    if embedding:
        std = 0.02
    else:
        std = max(1, math.prod(shape) // shape[1 - inputs]) ** -0.5
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    value = torch.empty(tuple(shape)).normal_(0.0, std, generator=generator)
    if not embedding and shape[inputs] >= _FEW_INPUTS:
        # Rectified activations share a positive mean. Passed on, it would drown what tells one
        # input from another: embeddings of a random RN50 would have cosines of 0.9995.
        value -= value.mean(inputs, keepdim=True)
    return value
