"""Layouts for other programs: what is refused, kept, exchanged and found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from clipperf.errors import ArtifactError, UsageError
from clipperf.export import deployment
from clipperf.export.deployment import DEPLOYMENTS, lay_out, read
from clipperf.export.exporter import chosen, chosen_all
from clipperf.nouns.variant import Variant
from clipperf.system import store
from clipperf.system.files import write_json

FP32 = Variant("onnx")

PACKAGE = """
from dataclasses import replace
from clipperf.export.deployment import Deployment
from clipperf.export.rewriting import write_graph

def write(made, variants, folder):
    (variant,) = variants
    write_graph(made, variant, "image", folder / "tower.onnx", ("image_embeds",))

MINE = Deployment(
    name="mine", reader="mine", write=write, needs=lambda variant, sides: [(variant, sides)]
)
"""


def test_a_layout_is_written_once_and_keeps_what_users_add(tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = lay_out("fastembed", tiny, ("image",), [FP32], out)
    assert not first.up_to_date
    assert sorted(first.record.files) == [
        "vision/config.json",
        "vision/model.onnx",
        "vision/preprocessor_config.json",
    ]
    names = [value.name for value in onnx.load(out / "vision/model.onnx").graph.input]
    assert names == ["pixel_values"]
    (out / "README.md").write_text("mine")
    written = (out / "vision/model.onnx").stat().st_mtime_ns
    again = lay_out("fastembed", tiny, ("image",), [FP32], out)
    assert again.up_to_date
    assert (out / "vision/model.onnx").stat().st_mtime_ns == written

    (out / "vision/config.json").write_text("{}")
    repaired = lay_out("fastembed", tiny, ("image",), [FP32], out)
    assert not repaired.up_to_date
    assert (out / "README.md").read_text() == "mine"
    assert read(out) == repaired.record
    assert not [path for path in tmp_path.iterdir() if path != out and path.name != "home"]

    with pytest.raises(UsageError, match="holds clipperf-sample for fastembed; choose another"):
        lay_out("transformers", tiny, ("image",), [FP32], out)
    # A failure leaves everything as it was.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "__version__", "another")
        broken = replace(DEPLOYMENTS.get("fastembed"), write=lambda *given: 1 / 0)
        patch.setattr(deployment.DEPLOYMENTS, "get", lambda name: broken)
        with pytest.raises(ZeroDivisionError):
            lay_out("fastembed", tiny, ("image",), [FP32], out)
    assert read(out) == repaired.record
    assert lay_out("fastembed", tiny, ("image",), [FP32], out).up_to_date


def test_an_artifact_that_changes_meanwhile_ends_it(tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = DEPLOYMENTS.get("fastembed")

    def replaced(made, variants, folder) -> None:
        own.write(made, variants, folder)
        (export,) = made.exports.values()
        tower = replace(export.manifest.towers[0], files={"image/model.onnx": "0" * 64})
        manifest = replace(export.manifest, towers=(tower,))
        write_json(export.folder / store.MANIFEST_NAME, manifest)

    with pytest.MonkeyPatch.context() as patch:
        changed = replace(own, write=replaced)
        patch.setattr(deployment.DEPLOYMENTS, "get", lambda name: changed)
        with pytest.raises(ArtifactError, match="was replaced meanwhile: run the same command"):
            lay_out("fastembed", tiny, ("image",), [FP32], out)
    assert not out.exists()


def test_what_it_depends_on_is_asked_once(tiny, tmp_path: Path) -> None:
    asked: list[int] = []
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        own = DEPLOYMENTS.get("fastembed")
        patched = replace(
            own,
            depends=lambda made, variants: (asked.append(1), len(asked))[1],
            write=lambda made, variants, folder: (
                seen.append(made.depends),
                own.write(made, variants, folder),
            )[0],
        )
        patch.setattr(deployment.DEPLOYMENTS, "get", lambda name: patched)
        lay_out("fastembed", tiny, ("image",), [FP32], tmp_path / "out")
    assert (asked, seen) == ([1], [1])


def test_a_folder_of_others_is_refused(tiny, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no layout of clipperf's; choose another --out"):
        lay_out("fastembed", tiny, ("image",), [FP32], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("layout", "variants", "said"),
    [
        ("nowhere", [FP32], "no layout 'nowhere'; choose from: fastembed, "),
        ("fastembed", [FP32, Variant("onnx", "fp16")], "holds one precision"),
        ("fastembed", [Variant("openvino")], "is for --runtime onnx"),
        ("fastembed", [replace(FP32, features=True)], "without --features"),
        ("transformers", [replace(FP32, pixel_dtype="uint8")], "without --input uint8"),
        (
            "fastembed",
            [Variant("onnx", "bf16")],
            "fastembed takes no bf16: .*; choose from fp32, fp16, int8, int8-row, int8-static$",
        ),
        ("fastembed", [Variant("onnx", "fp8")], "fastembed takes no fp8: .*; choose from fp32, "),
        ("triton", [Variant("onnx", "bf16")], "triton takes no bf16: .* in Triton alone; choose "),
        ("triton", [Variant("onnx", "int8-fp16")], "triton takes no int8-fp16: "),
        ("transformers", [Variant("onnx", "bf16")], "no file for bf16: choose from fp32, fp16"),
        (
            "transformers",
            [Variant("onnx", "int8-static")],
            "no file for int8-static, which --calibrate makes of int8: leave that out, or choose",
        ),
        (
            "transformers",
            [Variant("onnx", "int8"), Variant("onnx", "int8-row")],
            "int8 and int8-row would be the same file",
        ),
    ],
)
def test_what_a_layout_cannot_hold_is_said_before_any_work(
    tiny, tmp_path: Path, layout: str, variants: list[Variant], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        lay_out(layout, tiny, ("image",), variants, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "home" / "artifacts").exists()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_plans_for_a_gpu_are_taken_in_all_that_it_computes(precision: str) -> None:
    deployment._check_variants(DEPLOYMENTS.get("triton"), [Variant("trt", precision)])


def test_a_layout_of_a_package_is_found(tiny, checkpoints, tmp_path: Path, install) -> None:
    points = {"clipperf.deployment": {"mine": "laid_out_mine:MINE"}}
    install("laid_out_mine", PACKAGE, points, str(checkpoints))
    out = tmp_path / "out"
    assert "mine" in DEPLOYMENTS.names()
    laid = lay_out("mine", tiny, ("image",), [FP32], out)
    assert list(laid.record.files) == ["tower.onnx"]


def test_the_command_needs_a_folder(cli) -> None:
    done = cli("export", "clipperf-sample", "--layout", "transformers")
    assert (done.returncode, "--layout transformers needs --out" in done.stderr) == (2, True)


def test_an_option_is_for_those_that_take_it() -> None:
    both = [FP32, Variant("onnx", "int8")]
    first, second = chosen_all(both, {"--margin": 1.0, "--batch": None})
    assert first == chosen(FP32, {})
    assert second == chosen(both[1], {"--margin": 1.0})
    with pytest.raises(UsageError, match=r"^--margin is for"):
        chosen_all([FP32], {"--margin": 1.0})
    with pytest.raises(UsageError, match=r"^--batch is for"):
        chosen_all(both, {"--margin": 1.0, "--batch": (1, 8, 64)})
    _, fixed = chosen_all(both, {"--calibrate": "sample"})
    assert fixed.precision == "int8-static"
