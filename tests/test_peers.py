"""benchmarks/peers.py: turns, tables from canned figures, refusals, and that its parts compile."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from processors import AMX, AVX2, BF16, VNNI

from clipperf.report.table import Table
from clipperf.serialize import to_json
from clipperf.system import env

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted([*FOLDER.glob("peers*.py"), FOLDER / "roofline.py"])


def script(name: str) -> Iterator[ModuleType]:
    """A script of the benchmarks as a module, its folder on the path as when it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module(name)


@pytest.fixture(scope="module")
def table() -> Iterator[ModuleType]:
    yield from script("peers_table")


@pytest.fixture(scope="module")
def measure() -> Iterator[ModuleType]:
    yield from script("peers_measure")


@pytest.fixture(scope="module")
def candidates() -> Iterator[ModuleType]:
    yield from script("peers_candidates")


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    yield from script("peers_make")


def speed_row(work: str, candidate: str, call_s: float, blocks: int = 6) -> dict[str, Any]:
    return {"work": work, "candidate": candidate, "blocks": [[call_s] * 3] * blocks}


INT8, DRAFT = "clipperf onnx int8", "clipperf onnx int8, draft pixels as uint8"


@pytest.fixture
def data() -> dict[str, Any]:
    """Eager takes 0.4 s for 8 images, clipperf 0.1 s, optimum 0.25 s in fp32 and 0.05 s in int8."""
    images, texts, jpegs = "images, batch 8", "texts of 8 tokens, batch 64", "JPEG to embedding"
    arithmetic = {
        "PyTorch eager": "fp32", "PyTorch eager bf16": "bf16", "open_clip": "fp32",
        "optimum-onnx": "fp32", "optimum-onnx int8": "int8",
        INT8: "int8", f"{INT8}, 2 streams": "int8", DRAFT: "int8", "clipperf onnx fp32": "fp32",
    }  # fmt: skip
    return {
        "environment": {"cpu": "some processor"},
        "kind": "VNNI",
        "instruction_sets": ["avx2", "avx512_vnni", "avx512_bf16"],
        "speed": [
            speed_row(images, "PyTorch eager", 0.4),
            speed_row(images, "PyTorch eager bf16", 0.2),
            speed_row(images, INT8, 0.1),
            speed_row(images, "optimum-onnx", 0.25, blocks=2) | {"stopped": True},
            speed_row(images, "optimum-onnx int8", 0.05),
            speed_row("images, batch 1", "PyTorch eager", 0.06),
            speed_row("images, batch 1", "clipperf onnx fp32", 0.02),
            speed_row("images, batch 1", f"{INT8}, 2 streams", 0.01),
            speed_row("images, batch 32", INT8, 0.2),
            speed_row(texts, "PyTorch eager", 2.0),
            speed_row(texts, INT8, 0.1),
            {"work": texts, "candidate": "optimum-onnx", "blocks": [], "error": "it died"},
            speed_row(f"{jpegs}, batch 8", "open_clip", 0.5),
            speed_row(f"{jpegs}, batch 8", INT8, 0.2),
            speed_row(f"{jpegs}, batch 8", DRAFT, 0.1),
        ],
        "precision": arithmetic,
        "arithmetic": arithmetic,
        "pixels": {name: "draft" if name == DRAFT else "exact" for name in arithmetic},
        "gate": {
            name: {"image": True, "text": True} for name in arithmetic if name.startswith("clip")
        },
        "roofline": [
            {"fp32_torch_flops": 8e11, "bf16_torch_flops": 1e12, "int8_ort_flops": 1e12,
             "read_B": 1e10, "copy_B": 9e9},
            {"fp32_torch_flops": 7e11, "bf16_torch_flops": 9e11, "int8_ort_flops": 2e12,
             "read_B": 9e9, "copy_B": 8e9},
        ],
        "image_flops": 1e10,
        "text_operations": {"short": 1e9},
        "image_parameters": 100_000_000,
        "settings": {"few_blocks": 2, "hopeless": 2.0, "blocks": 6},
        "skipped": {"clipperf openvino int8": "openvino is not installed"},
        "candidates": [{"candidate": "faster-clip", "side": "image", "error": "no wheel"}],
        "checks": [
            {"candidate": "torch.compile", "kind": "image", "texts": "", "least": 0.9999,
             "min_cosine": 0.5, "passed": False},
        ],
        "memory": [
            {"candidate": INT8, "side": "image", "rss_bare_bytes": 20_000_000,
             "rss_load_bytes": 200_000_000, "rss_run_bytes": 261_000_000,
             "weight_bytes": 100_000_000, "load_s": 0.5},
            {"candidate": "open_clip", "side": "image", "error": "killed"},
        ],
        "exports": {
            "optimum": {"seconds": 30.0, "rss_bytes": 2**30, "anonymous_bytes": 2**29},
            "optimum-towers": {"seconds": 99.0, "rss_bytes": 2**30, "anonymous_bytes": 2**29,
                               "busy_share": 0.6},
            "torch": {"error": "no disk"},
        },
    }  # fmt: skip


def cells(report: Table, *starts: str) -> tuple[str, ...]:
    """The one row whose first cells are these."""
    (row,) = [row for row in report.texts if row[: len(starts)] == starts]
    return row[len(starts) :]


def test_turns_go_forwards_and_backwards(measure: ModuleType) -> None:
    assert list(measure.turns(["a", "b", "c"], 3)) == [
        *[(0, "a"), (0, "b"), (0, "c")],
        *[(1, "c"), (1, "b"), (1, "a")],
        *[(2, "a"), (2, "b"), (2, "c")],
    ]


def test_speed_table(table: ModuleType, data: dict[str, Any]) -> None:
    report = table.speed(data)
    rate, ratio, arithmetic, share = cells(report, "images, batch 8", INT8)
    assert rate == "80.0 [80.0, 80.0]"
    assert ratio == "4.00x [4.00, 4.00]"
    # 8 images of 1e10 operations in 0.1 s are 8e11 a second; the better int8 peak is 2e12.
    assert (arithmetic, share) == ("int8", "40.0 %")
    assert cells(report, "images, batch 8", "PyTorch eager")[2:] == ("fp32", "25.0 %")
    # 8e10 operations in 0.2 s, of 1e12 a second in bf16.
    assert cells(report, "images, batch 8", "PyTorch eager bf16")[2:] == ("bf16", "40.0 %")
    short = cells(report, "texts of 8 tokens, batch 64", INT8)
    # 64 texts of 1e9 operations in 0.1 s are 6.4e11 a second.
    assert short[1].startswith("20.00x") and short[2:] == ("int8", "32.0 %")
    assert "it died" in cells(report, "texts of 8 tokens, batch 64", "optimum-onnx")[0]


def test_what_was_not_counted_has_no_share(table: ModuleType, data: dict[str, Any]) -> None:
    data["text_operations"] = {}
    for run in data["roofline"]:
        del run["bf16_torch_flops"]
    report = table.speed(data)
    assert cells(report, "texts of 8 tokens, batch 64", INT8)[2:] == ("-", "-")
    assert cells(report, "images, batch 8", "PyTorch eager bf16")[2:] == ("-", "-")
    assert "does not multiply it" in table.roofline(data).caveats[-1]


def test_a_peer_that_was_stopped_early_has_no_interval(
    table: ModuleType, data: dict[str, Any]
) -> None:
    report = table.speed(data)
    assert cells(report, "images, batch 8", "optimum-onnx")[:2] == ("32.0", "1.60x")
    note = "rates of peers without an interval are of 2 blocks, the others of 6: they took 2 times"
    assert any(caveat.startswith(note) for caveat in report.caveats)


def test_overview_has_a_column_for_each_measured_workload(
    table: ModuleType, data: dict[str, Any]
) -> None:
    images, short = "images, batch 8", "texts of 8 tokens, batch 64"
    data["speed"] = [row for row in data["speed"] if row["work"] in (images, short)]
    report = table.overview(data)
    assert report.names == ("runtime", images, short)
    assert cells(report, INT8) == ("80.0 (4.00x)", "640 (20.00x)")
    assert cells(report, "optimum-onnx") == ("32.0 (1.60x)", "-")


def test_instruction_sets_stand_beside_every_table(table: ModuleType, data: dict[str, Any]) -> None:
    said = "processor: some processor, instruction sets: avx2, avx512_vnni, avx512_bf16"
    made = table.tables(data)
    assert len(made) == 6 and all(one.caveats[0] == said for one in made)


def test_who_is_left_out_is_named_with_the_reason(table: ModuleType, data: dict[str, Any]) -> None:
    notes = "\n".join(table.speed(data).caveats)
    assert "clipperf openvino int8: openvino is not installed" in notes
    assert "faster-clip, image: no wheel" in notes
    assert "torch.compile, image: its embeddings differ" in notes and "0.5000" in notes


def test_goals(table: ModuleType, data: dict[str, Any]) -> None:
    report = table.goals(data)
    over_eager = cells(report, "images over PyTorch eager", "images, batch 8")
    assert over_eager == (
        "4.5x",
        "4.00x [4.00, 4.00]",
        "missed by 11.1 %",
        f"{INT8} / PyTorch eager",
    )
    best = cells(report, "images over PyTorch's best (bf16, compiled)", "images, batch 8")
    assert best == (
        "3.5x", "2.00x [2.00, 2.00]", "missed by 42.9 %", f"{INT8} / PyTorch eager bf16"
    )  # fmt: skip
    # 32 images of 1e10 operations in 0.2 s are 1.6e12 a second, of 2e12 at most.
    share = cells(report, "images, share of the limit of the arithmetic used", "images, batch 32")
    assert share == ("75 %", "80.0 %", "met", f"{INT8} / int8 limit")
    # One image at once: streams do not count.
    one = cells(report, "images over PyTorch eager", "images, batch 1")
    assert one[1:] == (
        "3.00x [3.00, 3.00]", "missed by 33.3 %", "clipperf onnx fp32 / PyTorch eager"
    )  # fmt: skip
    short = ("texts of 8 tokens over PyTorch eager", "texts of 8 tokens, batch 64")
    assert cells(report, *short)[:2] == ("40x", "20.00x [20.00, 20.00]")
    # Exact pixels and draft ones have goals of their own.
    jpeg = "JPEG to embedding, batch 8"
    exact = cells(report, "JPEG to embedding over open_clip, exact", jpeg)
    assert exact == ("3x", "2.50x [2.50, 2.50]", "missed by 16.7 %", f"{INT8} / open_clip")
    draft = cells(report, "JPEG to embedding over open_clip, draft", jpeg)
    assert draft == ("4x", "5.00x [5.00, 5.00]", "met", f"{DRAFT} / open_clip")
    others = "over every other peer's best"
    assert cells(report, others, "images, batch 8")[1:] == (
        "0.50x [0.50, 0.50]", "missed by 66.7 %", f"{INT8} / optimum-onnx int8"
    )  # fmt: skip
    assert cells(report, others, jpeg)[3] == f"{INT8} / open_clip"
    # Without a peer nothing is compared, and what was not measured at all has no row.
    assert cells(report, others, short[1])[2] == "not measured"
    assert not [row for row in report.texts if row[1] == "captions, batch 64"]
    # 261 MB at the highest, 100 MB of them weights: 11 MB more than the 150 MB allowed.
    ram = cells(report, "peak RAM over weights", f"{INT8}, image")
    assert ram == ("+150 MB", "+161 MB", "missed by 11 MB", "-")


@pytest.mark.parametrize(
    ("kind", "over_eager", "over_best", "share"),
    [
        ("AMX", "8x", "2x", "60 %"),
        ("VNNI", "4.5x", "3.5x", "75 %"),
        ("AVX2", "2.7x", "2.5x", "85 %"),
    ],
)
def test_goals_are_those_of_the_kind_of_processor(
    table: ModuleType, data: dict[str, Any], kind: str, over_eager: str, over_best: str, share: str
) -> None:
    report = table.goals({**data, "kind": kind})
    assert cells(report, "images over PyTorch eager", "images, batch 8")[0] == over_eager
    best = "images over PyTorch's best (bf16, compiled)"
    assert cells(report, best, "images, batch 8")[0] == over_best
    limit = "images, share of the limit of the arithmetic used"
    assert cells(report, limit, "images, batch 32")[0] == share
    assert report.caveats[0] == f"of a processor with {kind}"


def test_other_processors_have_no_goals_but_ram(table: ModuleType, data: dict[str, Any]) -> None:
    report = table.goals({**data, "kind": None})
    assert [row[0] for row in report.texts] == ["peak RAM over weights"]
    assert report.caveats[0] == "no goals are set for this kind of processor"


def test_a_tower_that_failed_its_gate_reaches_no_goal(
    table: ModuleType, data: dict[str, Any]
) -> None:
    data["gate"][INT8]["image"] = False
    report = table.goals(data)
    goal = cells(report, "images over PyTorch eager", "images, batch 8")
    assert goal == ("4.5x", "-", "not measured", "-")
    # Its text tower is another matter.
    short = ("texts of 8 tokens over PyTorch eager", "texts of 8 tokens, batch 64")
    assert cells(report, *short)[1].startswith("20.00x")


def test_memory_exports_and_roofline(table: ModuleType, data: dict[str, Any]) -> None:
    assert cells(table.memory(data), "open_clip", "image")[0] == "failed: killed"
    assert cells(table.exports(data), "optimum") == ("30.0", "1024", "512")
    assert cells(table.exports(data), "optimum-towers") == ("-", "1024", "512")
    assert "no disk" in cells(table.exports(data), "torch")[0]
    ceilings = table.roofline(data)
    assert cells(ceilings, "GEMM int8") == ("2000 GOP/s",)
    assert cells(ceilings, "GEMM bf16") == ("1000 GFLOP/s",)
    # fp32, one image: 1e10 / 8e11 = 12.5 ms of arithmetic, 4e8 / 1e10 = 40 ms of reading.
    assert cells(ceilings, "images, batch 1, fp32, at most") == ("25.0 /s",)
    assert cells(ceilings, "images, batch 8, fp32, at most") == ("80.0 /s",)
    # bf16: 10 ms of arithmetic, 2e8 / 1e10 = 20 ms of reading; 8 images take 80 ms.
    assert cells(ceilings, "images, batch 1, bf16, at most") == ("50.0 /s",)
    assert cells(ceilings, "images, batch 8, bf16, at most") == ("100 /s",)


# --- who takes part --------------------------------------------------------------------------


def test_every_peer_takes_part(candidates: ModuleType, tmp_path: Path) -> None:
    everybody = [*candidates.peers(tmp_path), *candidates.ours(tmp_path)]
    names = [one.name for one in everybody]
    assert len(set(names)) == len(names)
    assert {
        "PyTorch eager", "PyTorch eager bf16", "torch.compile", "torch.compile bf16", "open_clip",
        "transformers, SDPA", "transformers, SDPA, bf16", "sentence-transformers", "infinity-emb",
        "faster-clip", "fastembed", "optimum-onnx, 77 tokens", "optimum-onnx, a graph a tower",
        "optimum-onnx int8, a graph a tower", "optimum-intel int8, a graph a tower",
    } == {one.name for one in everybody if not one.ours}  # fmt: skip
    assert set(names).issuperset(candidates.PYTORCH)
    assert {one.precision for one in everybody}.issubset(candidates.LEAST_COSINE)
    streams = {one.name for one in everybody if one.options.get("load", {}).get("streams") == 2}
    assert "clipperf openvino int8-bf16, 2 streams" in streams and len(streams) == 5


def test_the_limit_is_that_of_what_is_multiplied(candidates: ModuleType, tmp_path: Path) -> None:
    found = {one.name: one.arithmetic for one in candidates.ours(tmp_path)}
    assert found["clipperf onnx fp32"] == found["clipperf openvino int8w"] == "fp32"
    assert found["clipperf openvino bf16"] == "bf16"
    assert found["clipperf openvino int8"] == found["clipperf openvino int8-bf16"] == "int8"


@pytest.mark.parametrize(
    ("flags", "precision"), [(BF16, "int8-bf16"), (VNNI, "int8"), (AVX2, "int8")]
)
def test_fast_pixels_are_those_of_the_best_of_eight_bits(
    candidates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    precision: str,
) -> None:
    monkeypatch.setattr(env, "cpu_flags", lambda: frozenset(flags))
    fast = {one.name: one for one in candidates.ours(tmp_path) if one.pixels != "exact"}
    start = f"clipperf openvino {precision}"
    assert {name for name in fast if "openvino" in name} == {
        f"{start}, fast pixels as uint8", f"{start}, draft pixels as uint8",
        f"{start}, draft pixels as uint8, 2 streams",
    }  # fmt: skip
    assert {one.kinds for one in fast.values()} == {("jpeg",)}


def test_who_lacks_something_is_skipped_with_the_reason(
    candidates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "cpu_flags", lambda: frozenset(AVX2))
    python = tmp_path / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    everybody = [*candidates.peers(tmp_path), *candidates.ours(tmp_path)]
    kept, skipped = candidates.able(everybody, tmp_path)
    names = {one.name for one in kept}
    assert {"PyTorch eager", "open_clip", "fastembed", "optimum-onnx, 77 tokens"} <= names
    assert not names.intersection(skipped) and len(names) + len(skipped) == len(everybody)
    for name in ("PyTorch eager bf16", "transformers, SDPA, bf16", "clipperf openvino bf16"):
        reason = "this processor refuses it: bf16 takes a processor with avx512_bf16 or amx_bf16"
        assert skipped[name].startswith(reason)
    intel = skipped["optimum-intel int8, a graph a tower"]
    assert f"there is no {tmp_path}/peers-intel/bin/python" in intel
    assert f"{tmp_path}/peers-intel/bin/pip install -r benchmarks/requirements-peers-intel" in intel
    assert "requirements-peers-infinity.txt" in skipped["infinity-emb"]


def test_a_module_that_is_not_there_is_named_with_its_extra(
    candidates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peers_environments

    monkeypatch.setattr(peers_environments.importlib.util, "find_spec", lambda name: None)
    one = candidates.Candidate("x", "x", modules=("transformers",))
    assert candidates.missing(one, tmp_path) == (
        "transformers is not installed: pip install 'clipperf[eval]'"
    )


def test_every_environment_has_its_list_of_packages(candidates: ModuleType, tmp_path: Path) -> None:
    from peers_environments import ENVIRONMENTS, OWN

    homes = {one.home for one in candidates.peers(tmp_path)}
    assert homes == {OWN, *ENVIRONMENTS}
    for name, requirements in ENVIRONMENTS.items():
        text = (FOLDER / requirements).read_text(encoding="utf-8")
        assert f"build/{name}/bin/pip install -r benchmarks/{requirements}" in text


# --- exports ---------------------------------------------------------------------------------


def test_exports_come_behind_those_that_they_start_from(
    candidates: ModuleType, make: ModuleType, tmp_path: Path
) -> None:
    some = [one for one in candidates.peers(tmp_path) if one.name == "fastembed"]
    assert list(make.wanted_exports(some)) == ["optimum-towers", "fastembed"]


def test_export_commands_of_each_kind(
    candidates: ModuleType, make: ModuleType, tmp_path: Path
) -> None:
    ours = {one.export: one for one in candidates.ours(tmp_path)}

    def commands(export: str) -> list[list[str]]:
        return list(make.export_commands(export, ours[export], tmp_path, tmp_path / "envs"))

    bf16 = commands("clipperf-openvino-bf16")
    assert len(bf16) == 2 and bf16[0][1:4] == ["-m", "clipperf", "export"]
    assert bf16[0][bf16[0].index("--pretrained") + 1].endswith("open_clip.safetensors")
    assert "--keep-failed" not in bf16[0]
    int8 = commands("clipperf-onnx-int8-uint8")
    assert len(int8) == 1 and int8[0][int8[0].index("--input") + 1] == "uint8"
    assert int8[0][int8[0].index("--pretrained") + 1] == "random:0"
    assert int8[0][int8[0].index("--tower") + 1] == "image" and int8[0][-1] == "--keep-failed"
    (intel,) = [one for one in candidates.peers(tmp_path) if one.home == "peers-intel"]
    ((python, script, *rest),) = make.export_commands(intel.export, intel, tmp_path, tmp_path)
    assert python == str(tmp_path / "peers-intel" / "bin" / "python")
    assert script.endswith("peers_exports.py") and rest[0] == "optimum-intel-int8"


def test_gate_is_read_off_the_manifests(
    candidates: ModuleType, make: ModuleType, tmp_path: Path
) -> None:
    one = candidates.clipperf_one(tmp_path, "onnx", "int8")
    for side, passed in (("image", False), ("text", True)):
        folder = tmp_path / one.export / side
        folder.mkdir(parents=True)
        towers = {"towers": [{"disk_bytes": 7, "parity": {"passed": passed}}]}
        (folder / "manifest.json").write_text(json.dumps(towers))
    assert make.within_gate(one) == {"image": False, "text": True}
    assert make.weight_bytes(one, "text") == 7


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (AMX, "amx_int8-amx_bf16"),
        (BF16, "avx512_vnni-avx512_bf16"),
        (VNNI, "avx512_vnni"),
        (AVX2, "avx2"),
        ((), "unknown"),
    ],
)
def test_results_are_named_by_what_decides(
    measure: ModuleType, flags: tuple[str, ...], name: str
) -> None:
    import peers

    assert peers.deciding_sets(list(flags)) == name


# --- the file, the workers -------------------------------------------------------------------


def test_tables_of_a_file_are_printed_again(
    table: ModuleType, data: dict[str, Any], tmp_path: Path
) -> None:
    whole = {
        "environment": to_json(env.capture()),
        "threads": 2,
        "command": "x",
        "caption_tokens": [10, 12],
    }
    (tmp_path / "a.json").write_text(json.dumps({"model": "M", **data, **whole}))
    out = tmp_path / "a.md"
    done = run("peers.py", "--from", str(tmp_path / "a.json"), "--markdown", str(out))
    assert done.returncode == 0, done.stderr
    assert "Goals" in done.stdout
    assert "captions: 2, 10 to 12 tokens, 11.0 on average" in " ".join(done.stdout.split())
    assert "| images, batch 8 | PyTorch eager |" in out.read_text()


def test_worker_refuses_other_answers(measure: ModuleType, tmp_path: Path) -> None:
    """A candidate with other embeddings than the reference fails its check, an equal one passes."""
    rng = np.random.default_rng(0)
    right = rng.standard_normal((16, 4)).astype(np.float32)
    wrong = right + rng.standard_normal(right.shape)
    (tmp_path / "inputs" / "images").mkdir(parents=True)
    np.savez(tmp_path / "inputs" / "answers.npz", image=right)
    np.save(tmp_path / "inputs" / "pixels.npy", right)
    (tmp_path / "inputs" / "texts.json").write_text("{}")
    (tmp_path / "echo.py").write_text(
        "PACKAGES = ('numpy',)\n"
        "def open(setup):\n"
        "    plus = setup.options['plus']\n"
        "    return {'image': lambda inputs: inputs.pixels + plus}\n"
    )
    from peers_candidates import WORKS, Candidate

    bench = measure.Bench(tmp_path, tmp_path, blocks=2, calls=3, sleep_s=0.0, block_s=0.0)
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join([str(tmp_path), str(FOLDER), str(FOLDER.parent)])
        patch.setattr(measure, "peers_environment", lambda env, *_: {**env, "PYTHONPATH": path})
        plus = {"same": 0.0, "other": (wrong - right).tolist()}
        some = [Candidate(k, "echo", options={"plus": v}) for k, v in plus.items()]
        said: list[str] = []
        found = measure.measure_side(bench, some, "image", WORKS[:1], said.append)
    assert [check["passed"] for check in found["checks"]] == [True, False]
    assert any("REFUSED" in line for line in said)
    (row,) = found["speed"]
    assert row["candidate"] == "same" and [len(block) for block in row["blocks"]] == [3, 3]


class Scripted:
    """A worker whose calls take a given time."""

    def __init__(self, call_s: float) -> None:
        self.call_s = call_s
        self.blocks = 0

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        self.blocks += 1
        return {"samples": [self.call_s] * fields["calls"]}


def test_hopeless_peers_stop_early(measure: ModuleType, tmp_path: Path) -> None:
    """Three times as long as the fastest peer; nobody that goals are over, none of clipperf's."""
    from peers_candidates import WORKS

    peers = {
        "PyTorch eager": 9.0, "torch.compile": 4.0, "PyTorch eager bf16": 3.0, "slow": 3.0,
        "fast": 1.0, "near": 1.9,
    }  # fmt: skip
    times = {**peers, "clipperf x": 9.0}
    workers = {name: Scripted(call_s) for name, call_s in times.items()}
    bench = measure.Bench(tmp_path, tmp_path)
    rows = measure.measure_work(bench, WORKS[0], list(times), workers, list(peers))
    blocks = {row["candidate"]: len(row["blocks"]) for row in rows}
    assert blocks == {**dict.fromkeys(times, 6), "torch.compile": 2, "slow": 2}
    stopped = [row["candidate"] for row in rows if row.get("stopped")]
    assert stopped == ["torch.compile", "slow"]
    assert {name: worker.blocks for name, worker in workers.items()} == blocks


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parts_compile(script: Path) -> None:
    compile(script.read_text(encoding="utf-8"), str(script), "exec")


@pytest.mark.parametrize("name", ["peers.py", "roofline.py"])
def test_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
