"""How runtimes and precisions are found: clipperf's own by their files, others in packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Install

from clipperf.engines import contract
from clipperf.errors import UsageError
from clipperf.nouns.variant import PRECISIONS

TOY = """
import numpy as np
from clipperf.engines.contract import Availability, Runtime
from clipperf.nouns.variant import FLOAT16, Precision

class Engine:
    def __init__(self, request):
        self.dim = request.spec.embed_dim
    def run(self, array):
        return np.ones((len(array), self.dim), np.float32)
    def close(self):
        pass

HALF = Precision("toy16", "fp16", FLOAT16, FLOAT16, 0.9)
PRECISIONS = ("fp32", "toy16")
RUNTIME = Runtime("toy", None, PRECISIONS, ("cpu",), lambda d: Availability(True, "toy 1"), Engine)
"""


def test_the_file_of_a_runtime_bears_its_name() -> None:
    for name in (*contract.RUNTIMES.own(), "simulated"):
        assert contract.get(name).name == name
    assert "simulated" not in contract.names()


def test_an_unknown_runtime_is_told_what_there_is() -> None:
    with pytest.raises(
        UsageError, match=r"no runtime 'tort'; choose from: torch, torch-compile, onnx"
    ):
        contract.get("tort")


@pytest.mark.slow
def test_a_runtime_and_a_precision_from_an_installed_package_are_measured(
    install: Install, cli: Cli, tmp_path: Path
) -> None:
    points = {
        "clipperf.runtime": {"toy": "toy_runtime:RUNTIME"},
        "clipperf.precision": {"toy16": "toy_runtime:HALF"},
    }
    install("toy_runtime", TOY, points)
    out = tmp_path / "profile.json"
    done = cli(
        *("profile", "--runtime", "torch,toy", "--precision", "toy16", "--tower", "image"),
        *("--quick", "--batch", 1, "--json", out),
        check=True,
    )
    assert "toy toy16" in done.stdout
    rows = json.loads(out.read_text())["measurements"]
    measured = {(r["cell"]["runtime"], r["cell"]["precision"], r["status"]) for r in rows}
    assert measured == {("torch", "fp32", "ok"), ("toy", "toy16", "ok")}
    assert any(row["runtime"] == "toy" for row in json.loads(cli("doctor", "--json").stdout))


def test_a_broken_package_is_named_and_stops_nobody_else(install: Install, cli: Cli) -> None:
    kinds = ("runtime", "exporter", "family", "task", "metric", "format")
    points = {f"clipperf.{kind}": {"broken": f"broken:{kind.upper()}"} for kind in kinds}
    install("broken", "raise RuntimeError('no luck')", points)
    assert cli("export", "clipperf-sample", "--tower", "image").returncode == 0
    done = cli("profile", "--runtime", "broken")
    assert done.returncode == 2
    said = "the runtime 'broken' of the installed package broken cannot be loaded: no luck"
    assert said in done.stderr and "Traceback" not in done.stderr
    done = cli("export", "nobody", check=False)
    assert "unknown model 'nobody'" in done.stderr and "Traceback" not in done.stderr


def test_an_entry_point_under_another_name_is_refused(install: Install) -> None:
    install("toy_runtime", TOY, {"clipperf.runtime": {"other": "toy_runtime:RUNTIME"}})
    with pytest.raises(UsageError, match="is no runtime of that name"):
        contract.get("other")


def test_every_precision_has_a_graph_that_can_be_traced() -> None:
    for row in PRECISIONS.rows:
        assert PRECISIONS.get(row.graph).graph == row.graph
        assert row.fixed is None or PRECISIONS.get(row.fixed).fixed == row.fixed
    assert [row.name for row in PRECISIONS.rows if row.is_baseline] == ["fp32"]
