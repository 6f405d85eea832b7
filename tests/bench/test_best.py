"""`--runtime best`: the first candidate that passes, what came before it, and what is said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Become, Cli
from processors import AMX, VNNI

from clipperf.bench import best as module
from clipperf.bench import profile as bench
from clipperf.bench.best import best, best_for
from clipperf.bench.profile import Sweep, best_of
from clipperf.engines import contract, processor
from clipperf.engines.candidates import Candidate, candidates
from clipperf.engines.contract import Availability
from clipperf.errors import (
    ClipperfError,
    ExportError,
    MissingDependencyError,
    ParityError,
    StorageError,
    UnsupportedError,
    UsageError,
    WeightsError,
)
from clipperf.export.derived import QuantizeSettings, as_expected, check_expected
from clipperf.export.exporter import chosen
from clipperf.models import zoo
from clipperf.nouns.artifact import Artifact, Quantization
from clipperf.nouns.variant import Variant
from clipperf.system import store

SPEC = zoo.resolve("clipperf-sample")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with both runtimes of the CPU, of which nothing was measured."""
    monkeypatch.setattr(module, "usable_devices", lambda *_: {"onnx": "cpu", "openvino": "cpu"})
    monkeypatch.setattr("clipperf.engines.processor.kind", lambda: None)


def test_the_first_that_passes_is_taken_and_the_others_are_said(become: Become) -> None:
    become(AMX)
    asked: list[Candidate] = []

    def make(each: Candidate) -> str:
        asked.append(each)
        failures: list[ClipperfError] = [
            UnsupportedError("no bf16 here"),
            ParityError("cosine\n0.9"),
            MissingDependencyError("x"),
        ]
        if len(asked) <= 3:
            raise failures[len(asked) - 1]
        return "made"

    found = best(make)
    wanted = candidates({"onnx": "cpu", "openvino": "cpu"})
    assert asked == wanted[:4] and found.taken == wanted[3] and found.made == "made"
    assert [each.candidate for each in found.refused] == wanted[:3]
    assert found.others == tuple(wanted[4:])
    lines = found.lines()
    assert lines[1] == f"not taken: {wanted[1].runtime} {wanted[1].precision}: cosine | 0.9"
    assert lines[3].startswith(f"best: {found.taken.runtime} {found.taken.precision}, expected")
    assert lines[4] == "behind it: " + ", ".join(each.label for each in wanted[4:])


def test_what_the_processor_lacks_is_said_where_it_would_come_first(become: Become) -> None:
    become(VNNI)

    def make(each: Candidate) -> None:
        if each.runtime == "openvino":
            processor.check(each.precision)

    found = best(make)
    (first, *_) = found.refused
    assert first.candidate.precision == "int8-bf16" and "takes a processor with" in first.reason
    assert "bf16" not in {each.precision for each in found.others}, "nor is it what comes next"


def test_the_measured_figure_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Candidate("onnx", "int8", "cpu", 2.27)
    monkeypatch.setattr(module, "candidates", lambda *_: [known])
    monkeypatch.setattr(module, "kind", lambda: "AVX2")
    found = best(lambda each: None)
    assert "2.27 times PyTorch in fp32 on AVX2 processors" in found.lines()[0]
    assert known.label == "onnx int8 (2.27x)"


@pytest.mark.parametrize("error", [WeightsError("w"), StorageError("s"), UsageError("u")])
def test_what_is_no_fault_of_a_candidate_ends_it(error: ClipperfError) -> None:
    asked = []

    def make(each: Candidate) -> None:
        asked.append(each)
        raise error

    with pytest.raises(type(error)):
        best(make)
    assert len(asked) == 1


def test_nothing_that_passes_says_why_of_each() -> None:
    def make(each: Candidate) -> None:
        raise ParityError(f"{each.runtime} drifted")

    with pytest.raises(ExportError, match=r"onnx int8: onnx drifted; .*openvino fp32: openvino"):
        best(make, precisions=["int8", "fp32"])
    with pytest.raises(UsageError, match="name one with --runtime"):
        best(make, fits=lambda each: False)


def test_a_profile_takes_what_all_models_have(monkeypatch: pytest.MonkeyPatch) -> None:
    other = zoo.resolve("ViT-B-32", "random")
    made: list[tuple[str, Variant]] = []

    def artifact_folder(
        spec: object, sides: object, variant: Variant, *_: object, **more: bool
    ) -> Path:
        assert more == {"as_expected": True}
        made.append((spec.id, variant))  # type: ignore[attr-defined]
        if spec == other and variant.precision == "int8":
            raise ParityError("too far")
        if spec.id == "gone":  # type: ignore[attr-defined]
            raise WeightsError("none")
        return Path()

    monkeypatch.setattr(bench.prepare, "artifact_folder", artifact_folder)
    sweep = Sweep((SPEC, other), ("torch",), ("text",), (4, 1), inputs=("float32", "uint8"))
    found, choice = best_of(sweep, ("int8", "fp32"), lambda stage: None)
    assert [each.candidate.label for each in choice.refused] == ["onnx int8", "openvino int8"]
    assert (found.runtimes, found.precisions) == (("torch", "onnx"), ("int8", "fp32"))
    assert {variant.pixel_dtype for _, variant in made} == {"float32", "uint8"}


def test_a_precision_of_a_package_that_is_missing_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clipperf.bench import tune

    gone = Availability(False, "openvino is not installed", "pip install 'clipperf[openvino]'")
    known = contract.get("openvino")
    monkeypatch.setattr(tune, "usable", lambda *_: {"onnx": "cpu"})
    monkeypatch.setattr(tune, "deployable", lambda: ["onnx", "openvino"])
    fake = dataclasses.replace(known, availability=lambda device: gone)
    get = contract.get
    monkeypatch.setattr(contract, "get", lambda name: fake if name == "openvino" else get(name))
    with pytest.raises(MissingDependencyError) as caught:
        tune.usable_devices(None, ["bf16"], None)
    assert str(caught.value) == (
        "precision bf16 is openvino's: openvino is not installed. To use it: "
        "pip install 'clipperf[openvino]'"
    )
    assert tune.usable_devices(None, ["int8"], None) == {"onnx": "cpu"}
    with pytest.raises(UsageError, match="no precision 'int7' in onnx"):
        tune.usable_devices(None, ["int7"], None)


def test_a_tower_that_keeps_too_many_layers_is_not_what_was_expected(
    sample_artifact: Path,
) -> None:
    """A quarter of 8 layers is 2: a tower of before with 3 is refused, whatever its margin."""
    usual = chosen(Variant("onnx", "int8"), {"--margin": 0.0})
    assert as_expected(usual).settings == QuantizeSettings(margin=0.0, most_kept=0.25)
    assert as_expected(Variant("onnx", "fp32")) == Variant("onnx", "fp32")
    (tower, *_) = store.read_manifest(sample_artifact).towers

    def kept(count: int) -> Artifact:
        names = tuple("abcdefgh"[:count])
        found = Quantization(8, names, "fp32", 10, 0.999, 0.0, 0.1)
        return dataclasses.replace(tower, quantization=found)

    check_expected([tower, kept(2)])
    with pytest.raises(ExportError, match="3 of its 8 layers stay in fp32, of which at most 25%"):
        check_expected([kept(3)])


def test_what_is_slow_on_a_cpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "candidates", lambda *_: [Candidate("onnx", "fp8", "cpu")])
    said = best(lambda each: None).lines()
    assert "its speed on processors of this kind is not known" in said[0]
    assert said[1] == "fp8 is a GPU's, and slow on a CPU: use it for checks"


def test_features_are_given_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def artifact_folder(
        spec: object, sides: object, variant: Variant, *_: object, **more: bool
    ) -> Path:
        made.append(variant.runtime)
        if variant.precision == "int8":
            raise ParityError("too far")
        return Path()

    monkeypatch.setattr(bench.prepare, "artifact_folder", artifact_folder)
    few = SimpleNamespace(get=lambda name: SimpleNamespace(features=name == "onnx"))
    monkeypatch.setattr(module, "contract", few)
    given = ([SPEC], ("text",), ("float32",), (1, 1), ("int8", "fp32"), None, lambda stage: None)
    for features, runtimes in ((False, ["onnx", "openvino", "onnx"]), (True, ["onnx", "onnx"])):
        made.clear()
        best_for(*given, features=features)  # type: ignore[arg-type]
        assert made == runtimes


def test_weights_that_cannot_be_had_are_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def artifact_folder(*_: object, **__: object) -> Path:
        raise WeightsError("none")

    monkeypatch.setattr(bench.prepare, "artifact_folder", artifact_folder)
    sweep = Sweep((SPEC,), ("torch",), ("text",), (1,))
    found, choice = best_of(sweep, None, lambda stage: None)
    assert found.runtimes == ("torch", choice.taken.runtime) and not choice.refused
    assert found.precisions == (choice.taken.precision,)


def test_from_the_command_line(cli: Cli, sample_artifact: Path) -> None:
    """fp32 alone, which is quick: ONNX Runtime or OpenVINO, whichever was faster on its kind."""
    words = ("clipperf-sample", "--tower", "text", "--precision", "fp32")
    done = cli("export", *words, "--runtime", "best", check=True, home=sample_artifact.parents[3])
    assert "best: " in done.stdout and "expected first here" in done.stdout
    assert "behind it: " in done.stdout and "clipperf tune measures" in done.stdout
    options = ("--runtime", "best", "--json", "-q")
    said = cli("export", *words, *options, check=True, home=sample_artifact.parents[3]).stdout
    data = json.loads(said)
    assert data["best"]["taken"]["precision"] == "fp32" and data["up_to_date"]
    assert data["best"]["taken"]["runtime"] == data["manifest"]["runtime"]
    out = ("--json", "-", "-q", "--quick", "--batch", 1, "--threads", 1)
    rows = json.loads(
        cli("profile", *words, *out, check=True, home=sample_artifact.parents[3]).stdout
    )
    runtimes = {row["cell"]["runtime"] for row in rows["measurements"]}
    assert runtimes == {"torch", data["best"]["taken"]["runtime"]}


@pytest.mark.slow
def test_eval_judges_what_best_takes(cli: Cli, home: Path, best_store: Path, samples: str) -> None:
    """Whatever it is on this processor, its accuracy stands beside PyTorch's."""
    shutil.copytree(best_store, home)
    done = cli("export", "clipperf-sample", "--runtime", "best", "--json", "-q", check=True)
    taken = json.loads(done.stdout)["best"]["taken"]
    out = ("eval", "clipperf-sample", "--runtime", "best", "--dataset", samples, "--json", "-")
    scores = json.loads(cli(*out, check=True).stdout)["scores"]
    cells = {(each["cell"]["runtime"], each["cell"]["precision"]) for each in scores}
    assert cells == {("torch", "fp32"), (taken["runtime"], taken["precision"])}
    refused = cli("eval", "clipperf-sample", "--runtime", "best,onnx")
    assert refused.returncode == 2 and "best" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "clipperf-sample", "--runtime", "best"), "leave --runtime out"),
        (
            ("export", "clipperf-sample", "--runtime", "best", "--layout", "triton", "--out", "x"),
            "name that in the place of --runtime best",
        ),
        (
            ("export", "clipperf-sample", "--tower", "text", "--preprocess", "draft"),
            "--preprocess is for images: leave it out, or add --tower both",
        ),
        (
            ("export", "clipperf-sample", "--tower", "text", "--features"),
            "--features is for images",
        ),
        (
            ("export", "clipperf-sample", "--preprocess", "turbo"),
            "--preprocess 'turbo': choose from exact, fast, draft",
        ),
        (("export", "clipperf-sample", "--out", ""), " is empty: name a file or folder"),
        (("inspect", ""), " is empty: name a file or folder"),
        (("profile", "--from-files", ""), "a path is empty: name a file or folder"),
        (
            ("export", "clipperf-sample", "--precision", "int8", "--calibrate", "/none/such"),
            "no dataset at /none/such",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli(*words)
    assert done.returncode == 2 and said in " ".join(done.stderr.split())


@pytest.mark.parametrize("option", [("--batch", "1:2:4"), ("--keep-failed",), ("--opt-level", 2)])
def test_options_of_a_named_runtime_are_refused(cli: Cli, option: tuple[object, ...]) -> None:
    done = cli("export", "clipperf-sample", "--runtime", "best", *option)
    assert done.returncode == 2
    assert f"leave {option[0]} out, or name the runtime" in " ".join(done.stderr.split())
