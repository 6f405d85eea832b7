"""Every checksum of the store, read from the disk, and the command that mends what is damaged."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import stored

from clipperf.nouns.artifact import TensorSpec
from clipperf.report.store import verified_json, verified_table
from clipperf.system import files, store
from clipperf.system.housekeeping.contents import entries
from clipperf.system.housekeeping.verify import COLLECT, Verified, again, elsewhere, verify
from clipperf.system.sealed import is_sealed, sealed, unsealed


def checked() -> Verified:
    found = entries()
    return verify([*found, *elsewhere(found)])


def altered(path: Path) -> None:
    """One bit of a file is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture
def full(home: Path) -> dict[str, Path]:
    folder = stored.artifact()
    return {
        "artifact": folder,
        "tower": folder / "text" / "model.onnx",
        "settings": folder / "preprocess.json",
        "manifest": folder / store.MANIFEST_NAME,
        "tuning": stored.tuning(folder),
        "result": stored.result(),
        **stored.caches(),
    }


def test_a_whole_store_is_whole(full: dict[str, Path]) -> None:
    store.cached_sha256(full["tower"])
    stored.dead_staging(full["artifact"])
    (store.home() / "datasets" / "flowers").mkdir(parents=True)
    found = checked()
    assert found.damaged == []
    assert found.checked == {
        "artifact": 1,
        "graph": 1,
        "embeddings": 2,
        "cache": 1,
        "tuning": 1,
        "result": 1,
        "note": 1,
    }
    towers = sum(p.stat().st_size for p in full["artifact"].rglob("model.onnx"))
    assert found.bytes_read["artifact"] == towers + full["settings"].stat().st_size
    assert sorted(found.unchecked.values()) == [1, 1, 1]  # kernels, staging, a dataset
    table = verified_table(found, store.home())
    assert "all of it is whole" in table.title


AGAIN = f"clipperf export {stored.MODEL} --runtime onnx --precision fp32"
TUNE = f"clipperf tune {stored.MODEL}"
CUT = {"tower": 5, "manifest": 100, "result": 50, "tuning": 50, "graph": 20, "probe": 31}


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("tower", "text/model.onnx was altered", AGAIN),
        ("settings", "preprocess.json was altered", AGAIN),
        ("graph", "0123.onnx is not what was kept", COLLECT),
        ("embeddings", "part.npy is not what was kept", COLLECT),
        ("probe", "0123.npy is not what was kept", COLLECT),
        ("compiled", "openvino-0123 is not what was kept", COLLECT),
    ],
)
def test_one_bit_is_noticed(full: dict[str, Path], name: str, said: str, fix: str) -> None:
    altered(full[name])
    (damage,) = checked().damaged
    assert damage.problems[0].startswith(said)
    assert damage.fix == fix


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_is_noticed(full: dict[str, Path], name: str) -> None:
    full[name].write_bytes(full[name].read_bytes()[: CUT[name]])
    found = {each.entry.path for each in checked().damaged}
    named = full["artifact"] if name in ("tower", "manifest") else full[name]
    # The tuning names the artifact whose manifest is gone.
    assert found == ({named, full["tuning"]} if name == "manifest" else {named})


def test_what_is_missing_is_noticed(full: dict[str, Path]) -> None:
    full["tower"].unlink()
    (damage,) = checked().damaged
    assert damage.problems == ("text/model.onnx is missing",)


def test_a_tuning_without_its_artifact(full: dict[str, Path], tmp_path: Path) -> None:
    from clipperf.system.housekeeping.references import note_tuning

    outside = stored.tuning(full["artifact"], tmp_path / "tuned.json")
    note_tuning(outside)
    stored.change_manifest(
        full["artifact"],
        towers=tuple(
            dataclasses.replace(tower, key="another")
            for tower in store.read_manifest(full["artifact"]).towers
        ),
    )
    found = {each.entry.path: each for each in checked().damaged}
    assert found.keys() == {full["tuning"], outside}
    assert "exported anew" in found[outside].problems[0]
    full["artifact"].rename(tmp_path / "moved")
    found = {each.entry.path: each for each in checked().damaged}
    assert found.keys() == {full["tuning"], outside}
    assert "not there" in found[outside].problems[0]
    assert {each.fix for each in found.values()} == {TUNE}


def test_damage_that_changed_no_time_is_found_and_told_to_the_next_export(
    full: dict[str, Path],
) -> None:
    """As a disk loses bits: size and times are as they were, so the digest is remembered."""
    manifest = store.read_manifest(full["artifact"])
    right = files.sha256_file(full["tower"])
    altered(full["tower"])
    store.remember_sha256(full["tower"], right)
    assert store.check_files(full["artifact"], manifest, content=True) == []
    (damage,) = checked().damaged
    assert damage.entry.path == full["artifact"]
    (problem,) = store.check_files(full["artifact"], manifest, content=True)
    assert problem.startswith("text/model.onnx was altered")


def test_other_versions_are_not_damage(full: dict[str, Path]) -> None:
    for name in ("manifest", "result", "tuning"):
        data = json.loads(full[name].read_text())
        full[name].write_text(json.dumps({**data, "schema_version": 99}))
    found = checked()
    assert found.damaged == []
    assert sum("another version" in why for why in found.unchecked) == 3


def test_damaged_notes_are_collected(full: dict[str, Path]) -> None:
    (store.home() / "digests.json").write_text("{")
    (damage,) = checked().damaged
    assert damage.fix == COLLECT


def test_json_has_it_all(full: dict[str, Path]) -> None:
    altered(full["graph"])
    told = json.loads(json.dumps(verified_json(checked(), store.home())))
    (damage,) = told["damaged"]
    assert damage["path"] == str(full["graph"])
    assert damage["fix"] == COLLECT
    assert told["checked"]["artifact"] == 1


def test_an_artifact_that_is_replaced_meanwhile_is_whole(home: Path) -> None:
    """A process exchanges the folder without a pause; each of its states is whole."""
    folder = stored.artifact(content=b"x" * 100_000)
    code = """
        import itertools, shutil, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import stored
        from clipperf.system import files, store
        folder = Path(sys.argv[2])
        towers = store.read_manifest(folder).towers
        for i in itertools.count():
            with files.locked(folder), files.staged(folder) as staging:
                shutil.copytree(folder, staging, dirs_exist_ok=True)
                (staging / "preprocess.json").write_text(str(i))
                digests = files.sha256_files(staging, ["preprocess.json"])
                stored.change_manifest(staging, files=digests)
            if i == 0:
                print("up", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(Path(stored.__file__).parent)]
    with subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline()
            looked = [checked() for _ in range(30)]
        finally:
            writer.kill()
    assert [each.damaged for each in looked] == [[]] * 30
    assert sum(each.checked.get("artifact", 0) for each in looked) > 10


def test_the_command_that_mends_is_the_one_that_made_it(home: Path, tmp_path: Path) -> None:
    folder = stored.artifact(sides=("image",), precision="int8")
    manifest = store.read_manifest(folder)
    (tower,) = manifest.towers
    pixels = (TensorSpec("in", "uint8", ("batch", 3, 224, 224)),)
    odd = dataclasses.replace(
        tower, normalized=True, inputs=pixels, options={"calibrate": "sample"}
    )
    assert again(dataclasses.replace(manifest, towers=(odd,))) == (
        "clipperf export ViT-B-32::openai --runtime onnx --precision int8 --tower image "
        "--normalize --input uint8 (with the options that it had: calibrate sample)"
    )
    own = dataclasses.replace(
        manifest.spec,
        id="ViT-B-32::my weights.pt@0123abcd@320px@64tokens",
        pretrained=str(tmp_path / "my weights.pt"),
    )
    words = shlex.split(again(dataclasses.replace(manifest, spec=own)))
    assert words[:8] == [
        *("clipperf", "export", "ViT-B-32", "--pretrained", str(tmp_path / "my weights.pt")),
        *("--image-size", "320", "--context-length"),
    ]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 2**20, 2**20 + 1])
def test_seals(tmp_path: Path, size: int) -> None:
    data, path = bytes(range(256)) * (size // 256) + b"x" * (size % 256), tmp_path / "sealed"
    for mark in (b"", b"\xc2\x3e\x20"):
        content = sealed(data, mark)
        assert unsealed(content, mark) == data
        path.write_bytes(content)
        assert is_sealed(path, mark)
        for wrong in (content[:-1], content + b"x", content[1:], b""):
            path.write_bytes(wrong)
            assert not is_sealed(path, mark)
            assert unsealed(wrong, mark) is None
    assert not is_sealed(tmp_path / "absent")
