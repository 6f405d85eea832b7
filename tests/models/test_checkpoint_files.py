"""Folders and shards as one checkpoint, and what a file is by what it holds."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import pytest

from clipperf.errors import UsageError, WeightsError
from clipperf.models import checkpoint_files, torchscript, weights, zoo

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

A, B = torch.arange(3.0), torch.arange(4.0).reshape(2, 2)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tensors in two files, and the list of them."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    save_file({"module.a": A}, folder / "model-00001-of-00002.safetensors")
    save_file({"module.b": B}, folder / "model-00002-of-00002.safetensors")
    places = {f"module.{n}": f"model-0000{i}-of-00002.safetensors" for n, i in (("a", 1), ("b", 2))}
    content = {"metadata": {"total_size": 28}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def test_shards_are_one_checkpoint(shards: Path, home: Path) -> None:
    found = checkpoint_files.find(shards)
    assert found.name == "model.safetensors.index.json"
    for path in (shards, found):
        state = weights.open_state_dict(path)
        assert state.keys() == {"a", "b"}
        assert torch.equal(state["a"], A) and torch.equal(state["b"], B)
    files = sorted(shards.glob("*"), key=lambda path: path.name != found.name)
    assert list(checkpoint_files.parts(found)) == files
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    before = checkpoint_files.digest(found)
    assert before == hashlib.sha256("".join(digests).encode()).hexdigest()
    save_file({"module.b": B + 1}, shards / "model-00002-of-00002.safetensors")
    assert checkpoint_files.digest(found) != before, "the list did not change, a shard did"


def test_shards_are_weights_of_an_architecture(shards: Path, home: Path) -> None:
    assert zoo.must_read("ViT-B-32", str(shards))
    spec = zoo.resolve("ViT-B-32", str(shards))
    digest = checkpoint_files.digest(checkpoint_files.find(shards))
    assert spec.id == f"ViT-B-32::model.safetensors.index.json@{digest[:8]}"
    assert zoo.weights_id(spec) == f"sha256:{digest}"
    assert not zoo.must_read("ViT-B-32", str(shards))


def test_a_missing_shard_and_a_missing_tensor_are_named(shards: Path) -> None:
    save_file({"module.c": B}, shards / "model-00002-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"lists module\.b, which model-00002-of-00002"):
        weights.open_state_dict(shards)
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"2 files, 1 of which are not there: model-00002"):
        weights.open_state_dict(shards)
    for content in ("{}", "[]", '{"weight_map": 3}', "{"):
        (shards / "model.safetensors.index.json").write_text(content)
        with pytest.raises(WeightsError, match="is no list of shards"):
            weights.open_state_dict(shards)


def test_a_folder_has_open_clips_order(tmp_path: Path) -> None:
    names = (
        *("only.safetensors", "model.pth", "pytorch_model.bin", "model.safetensors"),
        *("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
    )
    for name in names:  # each better than those before
        (tmp_path / name).touch()
        assert checkpoint_files.find(tmp_path).name == name


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "holds no checkpoint; looked for open_clip_model.safetensors, "),
        (("a.pt", "b.pt"), "holds several checkpoints: a.pt, b.pt"),
        ((".metadata", "__0_0.distcp"), "dcp_to_torch"),
    ],
)
def test_a_folder_without_one_checkpoint_is_refused(
    names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=said):
        zoo.resolve("ViT-B-32", str(tmp_path))


def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "weights.bin")
    torch.save({"a": A}, tmp_path / "weights")
    for name in ("weights.bin", "weights"):
        assert torch.equal(weights.open_state_dict(tmp_path / name)["a"], A)


def test_tensors_are_mapped_not_copied(tmp_path: Path) -> None:
    """What the process holds of its own does not grow by the weights' 64 MiB."""
    large = {"a": torch.zeros(16 * 2**20)}
    torch.save(large, tmp_path / "plain.pt")
    save_file(large, tmp_path / "plain.safetensors")
    write_archive(tmp_path / "jit.pt", large["a"])
    for name in ("plain.pt", "plain.safetensors", "jit.pt"):
        before = own_bytes()
        found = weights.open_state_dict(tmp_path / name)
        assert found["a"].numel() == 16 * 2**20
        assert own_bytes() - before < 16 * 2**20, name


def own_bytes() -> int:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


# --- TorchScript archives, written by hand -------------------------------------------------


def write_archive(path: Path, tensor: torch.Tensor, extra: bytes = b"") -> None:
    """A module with one parameter, as `torch.jit.save` lays it out."""
    begin = b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(("
    stored = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    size = tensor.numel().to_bytes(4, "little")
    shape = b"J" + size + b"tQK\x00(J" + size + b"t(K\x01t\x89ccollections\nOrderedDict\n)RtR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", begin + stored + shape + extra + b"ub.")
        archive.writestr("m/constants.pkl", pickle.dumps((), 2))
        archive.writestr("m/data/0", tensor.numpy().tobytes())


def test_an_archive_by_hand(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.pt", A)
    assert torchscript.is_archive(tmp_path / "m.pt")
    assert torch.equal(weights.open_state_dict(tmp_path / "m.pt")["a"], A)


@pytest.mark.parametrize("name", ["posix system", "builtins eval", "os popen", "torch load"])
def test_an_archive_that_names_anything_else_is_refused(name: str, tmp_path: Path) -> None:
    module, function = name.split()
    trap = tmp_path / "trap"
    said = f"touch {trap}".encode()
    call = f"c{module}\n{function}\n".encode() + b"(X" + len(said).to_bytes(4, "little") + said
    write_archive(tmp_path / "m.pt", A, b"X\x01\x00\x00\x00b" + call + b"tR")
    with pytest.raises(WeightsError, match=r"holds more than weights \(\w+\.\w+\); clipperf never"):
        weights.open_state_dict(tmp_path / "m.pt")
    assert not trap.exists()


def test_a_cut_archive_is_damaged(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.pt", torch.zeros(4096))
    content = (tmp_path / "m.pt").read_bytes()
    for share in (0.01, 0.5, 0.99):
        (tmp_path / "m.pt").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(WeightsError, match=r"m\.pt"):
            weights.open_state_dict(tmp_path / "m.pt")
