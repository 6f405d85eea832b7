"""int8 towers made for a CPU with VNNI, on one without: noted, warned of, shown."""

from __future__ import annotations

import json
import platform
import shutil
import warnings
from pathlib import Path

import pytest

import clipperf
from clipperf.errors import AccuracyWarning
from clipperf.export.exporter import Below
from clipperf.export.exporters import quantized
from clipperf.graph import quantize
from clipperf.inspect import artifact as inspect
from clipperf.inspect import doctor
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.system import env

NONE = frozenset({"avx2"})
VNNI = frozenset({"avx2", "avx_vnni"})


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Sets this machine's CPU."""

    def become(flags: frozenset[str], machine: str = "x86_64") -> None:
        monkeypatch.setattr(env, "cpu_flags", lambda: flags)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return become


@pytest.fixture
def artifact(sample_artifact: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Copies of the sample whose manifest notes so many weight bits for the text tower."""

    def noting(bits: str | None) -> Path:
        folder = Path(shutil.copytree(sample_artifact, tmp_path / f"bits-{bits}"))
        manifest = json.loads((folder / "manifest.json").read_text())
        for tower in manifest["towers"]:
            if tower["side"] == "text" and bits is not None:
                tower["weight_bits"] = int(bits)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return noting


def warned(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clipperf.load(folder, threads=1).close()
    return [str(w.message) for w in caught if issubclass(w.category, AccuracyWarning)]


def test_weights_for_vnni_are_warned_of_where_there_is_none(cpu, artifact) -> None:  # type: ignore[no-untyped-def]
    folder = artifact("8")
    cpu(NONE)
    (message,) = warned(folder)
    assert str(folder / "text" / "model.onnx") in message
    assert "export it again on this machine (clipperf export MODEL --precision int8)" in message
    found = inspect.inspect(folder)
    assert "VNNI" in found.facts["text: accuracy here"]
    assert found.runs_here and not found.problems


@pytest.mark.parametrize(
    ("bits", "flags", "machine"),
    [
        ("8", VNNI, "x86_64"),
        ("8", frozenset({"avx512_vnni"}), "AMD64"),
        ("8", frozenset({"asimd"}), "aarch64"),
        ("8", frozenset(), "x86_64"),  # a system that does not say what its CPU has
        ("7", NONE, "x86_64"),
        (None, NONE, "x86_64"),
    ],
)
def test_what_is_exact_is_not_warned_of(cpu, artifact, bits, flags, machine) -> None:  # type: ignore[no-untyped-def]
    cpu(flags, machine)
    folder = artifact(bits)
    assert warned(folder) == []
    assert "text: accuracy here" not in inspect.inspect(folder).facts


@pytest.mark.parametrize(
    ("flags", "machine", "bits", "words"),
    [
        (NONE, "x86_64", "7", "no VNNI"),
        (frozenset(), "AMD64", "7", "no VNNI"),
        (VNNI, "x86_64", "8", "exact"),
        (frozenset(), "arm64", "8", "exact"),
    ],
)
def test_the_export_notes_the_bits_and_the_doctor_says_why(
    cpu, tmp_path: Path, flags, machine, bits, words
) -> None:  # type: ignore[no-untyped-def]
    cpu(flags, machine)
    assert quantize.safe_weight_max() == {"7": 63, "8": 127}[bits]
    assert quantize.weight_bits("dynamic") == quantize.weight_bits("static") == int(bits)
    assert quantize.weight_bits("fp8") is None
    assert words in doctor.machine()["8-bit integers"]


def test_other_bits_are_another_artifact(cpu) -> None:  # type: ignore[no-untyped-def]
    def key() -> str:
        spec = zoo.resolve("clipperf-sample")
        return quantized.key(spec, "text", Variant("onnx", "int8"), Below("source"))

    cpu(NONE)
    here = key()
    cpu(VNNI)
    assert key() != here
