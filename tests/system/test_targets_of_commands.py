"""Where commands write when they are given links and devices, and what they say of a home."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from conftest import Cli
from report_data import cell, result, timed

import clipperf
from clipperf.system import store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices and links")


def test_a_report_goes_through_a_link_and_into_a_device(cli: Cli, tmp_path: Path) -> None:
    measured = tmp_path / "profile.json"
    rows = [timed(cell(runtime="onnx"), [0.1] * 6)]
    store.write_result(measured, result(rows, schema_version=store.SCHEMA_VERSION))
    (tmp_path / "reports").mkdir()
    (tmp_path / "link.md").symlink_to("reports/latest.md")
    cli("report", measured, "--format", "md", "--out", tmp_path / "link.md", check=True)
    assert (tmp_path / "link.md").is_symlink()
    assert "onnx" in (tmp_path / "reports" / "latest.md").read_text()
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making devices needs root")
    cli("report", measured, "--format", "md", "--out", null, check=True)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_model_is_served_to_a_user_without_a_home(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPPERF_HOME", "~no-such-user/x")
    assert store.cache_folder() is None
    with clipperf.load(sample_artifact, threads=1) as model:
        assert model.encode_texts(["a cat"]).shape == (1, 192)


@pytest.mark.parametrize(
    "words",
    [
        ("export", "clipperf-sample", "--out=~no-such-user/x"),
        ("report", "~no-such-user/x.json"),
        ("inspect", "~no-such-user/x"),
        ("export", "clipperf-sample"),
        ("report",),
    ],
)
def test_the_home_of_nobody_is_one_line(cli: Cli, home: Path, words: tuple[str, ...]) -> None:
    given = "~no-such-user/" in words[-1]
    done = cli(*words, home=home if given else "~no-such-user/home")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ~no-such-user/") and "write the path in full" in last
