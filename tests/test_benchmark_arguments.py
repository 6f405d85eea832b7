"""The scripts of benchmarks/: help is help, and what cannot be is refused before any work."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def ended(name: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of a script; it runs in this process, since some import torch."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return caught.value.code


SCRIPTS = (
    *(
        "batch_neighbours",
        "cut_texts",
        "embed",
        "embed_ray",
        "engine_builds",
        "export_cost",
        "forks",
    ),
    *("kernels", "lean", "load", "peers", "peers_exports", "peers_prepare", "preprocess"),
    *(
        "probe",
        "ray_overhead",
        "retrieval",
        "roofline",
        "serving",
        "serving_split",
        "sizing_queue",
        "sizing_shown",
    ),
)


def test_every_script_that_takes_arguments_is_looked_at() -> None:
    takes = {path.stem for path in FOLDER.glob("*.py") if ".parse_args()" in path.read_text()}
    assert takes - {"gpu"} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_all_that_it_prints(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(name, ("--help",), monkeypatch) == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("lean", ("nonsense",), "nonsense"),
        ("load", ("--model", "nonsense"), "nonsense"),
        ("load", ("--rounds", "0"), "'0' is no whole number from 1 on"),
        ("kernels", ("--model", "nonsense"), "nonsense"),
        ("kernels", ("--batch", "x"), "'x' is no whole number from 1 on"),
        ("kernels", ("--batch", "8,0"), "'0' is no whole number from 1 on"),
        ("export_cost", ("nonsense",), "nonsense"),
        ("batch_neighbours", ("nonsense",), "nonsense"),
        ("batch_neighbours", ("--samples", "0"), "'0' is no whole number from 1 on"),
        ("batch_neighbours", ("--batch", "0"), "'0' is no whole number from 1 on"),
        ("ray_overhead", ("--cells", "0"), "'0' is no whole number from 1 on"),
        ("ray_overhead", ("--nodes", "1,x"), "'x' is no whole number from 1 on"),
        ("embed_ray", ("--nodes", "1,x"), "'x' is no whole number from 1 on"),
        ("embed_ray", ("--cost-s", "0"), "'0' is no number of seconds above 0"),
        ("roofline", ("--threads", "0"), "'0' is no whole number from 1 on"),
        ("preprocess", ("/nonexistent.jpg",), "there is no file at '/nonexistent.jpg'"),
        ("cut_texts", ("--runtime", "tort"), "'tort': choose from"),
        ("embed", ("--folder", ""), "there is no folder at ''"),
        ("serving", (".", "--seconds", "nan"), "'nan' is no number of seconds above 0"),
        ("peers_exports", ("nonsense", "a", "b"), "invalid choice: 'nonsense'"),
        ("peers_prepare", (), "the following arguments are required: folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_printed(
    name: str,
    words: tuple[str, ...],
    said: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(name, words, monkeypatch) == 2
    printed = capsys.readouterr()
    assert not printed.out and said in printed.err and "Traceback" not in printed.err
