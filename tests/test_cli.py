"""The command line in real processes: exit codes, error lines, JSON, completion, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Cli
from report_data import cell, result, timed
from snapshot_data import help_of

import clipperf
from clipperf.bench.sweeps.ledger import MARK
from clipperf.commands.ray_options import with_address
from clipperf.commands.sweep_view import Waits
from clipperf.commands.sweep_view import shown as sweep_shown
from clipperf.system import files, store

MACHINE_HAS_GPU = Path("/dev/nvidiactl").exists()

# What is typed, the exit code, what the error must say, and the way out that it must name.
MISTAKES = [
    ("export nope", 2, "unknown model 'nope'", "clipperf models"),
    ("export ./nope", 2, "./nope", "there is no such file or folder"),
    ("export ViT-B-33", 2, "unknown model 'ViT-B-33'", "did you mean ViT-B-32"),
    ("export ViT-B-32 --pretrained nope", 2, "no tag 'nope'", "laion2b_s34b_b79k"),
    ("export ViT-B-32 --pretrained random:x", 2, "random:x", "whole number"),
    ("export ViT-B-32 --pretrained no.safetensors", 2, "no.safetensors", "no such file"),
    ("export clipperf-sample --pretrained x", 2, "brings its own", "leave --pretrained out"),
    ("export clipperf-sample --tower left", 2, "--tower left", "image, text or both"),
    ("export clipperf-sample --device tpu", 2, "'tpu'", "runs on cpu"),
    ("export clipperf-sample --device cuda", 2, "'cuda'", "onnx runs on cpu"),
    ("export clipperf-sample --runtime trt-rtx --device cpu", 2, "'cpu'", "runs on cuda"),
    ("export clipperf-sample --precision int3", 2, "int3", "choose from fp32, fp16"),
    ("profile --batch 0", 2, "--batch 0", "start at 1"),
    ("profile --batch 1,x", 2, "--batch 1,x", "1,8,32"),
    ("profile --batch ,", 2, "--batch ,", "1,8,32"),
    ("profile --tower text --tokens 1,8", 2, "--tokens 1", "which are 2"),
    ("profile --threads 0", 2, "--threads", "clipperf profile --help"),
    ("profile --runtime tensorflow", 2, "no runtime 'tensorflow'", "torch, torch-compile, onnx"),
    ("profile --runtime ,", 2, "--runtime", "at least one"),
    ("profile --precision int3", 2, "int3", "choose from"),
    ("profile --device tpu", 2, "tpu", "runs on cpu"),
    ("profile --pretrained openai", 2, "--pretrained", "needs a MODEL"),
    ("sweep no.toml --ray garbage", 2, "--ray garbage is no address", "HOST:PORT of"),
    ("sweep --ray 10.0.0.1 no.toml", 2, "--ray 10.0.0.1 is no address", "HOST:PORT of"),
    ("sweep --ray garbage", 2, "--ray garbage is no address", "HOST:PORT of"),
    ("eval clipperf-sample --ray 10.0.0.1", 2, "--ray 10.0.0.1 is no address", "HOST:PORT of"),
    ("embed sample --out no --ray garbage", 2, "--ray garbage is no address", "HOST:PORT of"),
    ("eval --batch 0", 2, "--batch", "clipperf eval --help"),
    ("eval --dataset no-such-folder", 2, "no-such-folder", "sample"),
    ("eval --precision int3", 2, "int3", "choose from"),
    ("profile --scenario sevrer --slo-ms 5", 2, "no scenario 'sevrer'", "choose from: "),
    ("embed sample --out=", 2, "--out is empty", "name a file or folder"),
    ("embed http://host/y.csv --out v", 2, "http://host/y.csv", "fetch the file first"),
    ("sweep plan.toml --out=", 2, "--out is empty", "name a file or folder"),
    ("export clipperf-sample --out=", 2, "--out is empty", "name a file or folder"),
    ("tune clipperf-sample --bundle=", 2, "--bundle is empty", "name a file or folder"),
    ("models --search qqqq", 2, "'qqqq'", "clipperf models"),
    ("report", 2, "no results", "clipperf profile"),
    ("report no.json", 2, "no.json", "there is no such file or folder"),
    ("size no.json --images-per-s 5", 2, "no.json", "there is no such file or folder"),
    ("results merge no.json --out x.json", 2, "no.json", "there is no such file or folder"),
    ("compare no.json no.json", 2, "no.json", "there is no such file or folder"),
    ("report --out no/a.html --format html", 2, "--out no/a.html", "there is no folder"),
    ("results merge a.json --out no/x.json", 2, "--out no/x.json", "there is no folder"),
    ("profile clipperf-sample --json no/x.json", 2, "--json no/x.json", "there is no folder"),
    ("embed sample --artifact ./no --out v", 2, "no: ", "there is no such file or folder"),
    ("size --images-per-s 5", 2, "no results", "clipperf profile"),
    ("frobnicate", 2, "No such command 'frobnicate'", "--help"),
    ("export", 2, "Missing argument", "clipperf export --help"),
    ("export clipperf-sample --nope", 2, "--nope", "clipperf export --help"),
]


@pytest.mark.parametrize(("typed", "code", "said", "fix"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_one_line_that_names_the_fix(
    cli: Cli, home: Path, typed: str, code: int, said: str, fix: str
) -> None:
    done = cli(*typed.split())
    assert done.returncode == code, done.stderr
    *progress, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert fix in line
    assert not done.stdout
    # Reading a dataset is announced before it can fail; nothing else is said.
    assert all(text.startswith("reading ") for text in progress)
    assert not list(home.glob("results/*")), "a result file was left"


def test_a_result_file_that_is_no_result_is_refused(cli: Cli, tmp_path: Path) -> None:
    for content in ("", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 99}'):
        path = tmp_path / "result.json"
        path.write_text(content)
        done = cli("report", path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {path}")
        assert len(done.stderr.splitlines()) == 1


def test_models_as_json(cli: Cli) -> None:
    models = {m["architecture"]: m for m in json.loads(cli("models", "--json", check=True).stdout)}
    assert len(models) > 100
    assert "laion2b_s32b_b79k" in {
        tag if isinstance(tag, str) else tag["tag"] for tag in models["ViT-H-14"]["tags"]
    }
    assert models["clipperf-sample"]["image_parameters"] > 0


def test_models_search(cli: Cli) -> None:
    found = json.loads(cli("models", "--search", "ViT-H-14", "--json", check=True).stdout)
    names = {m["architecture"] for m in found}
    assert {"ViT-H-14", "ViT-H-14-quickgelu"} <= names
    assert "ViT-B-32" not in names
    by_tag = json.loads(cli("models", "--search", "laion5b", "--json", check=True).stdout)
    assert by_tag
    assert all("laion5b" in json.dumps(m) for m in by_tag)
    assert "ViT-H-14" in cli("models", "--search", "ViT-H-14", check=True).stdout


@pytest.mark.parametrize("command", ["export", "profile", "eval", "tune"])
def test_help_names_every_kind_of_model_that_the_page_does(command: str) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition("\n## ")[0]
    helped = " ".join(help_of(command).split())
    for told, listed in (
        ("ARCHITECTURE::TAG", "`ViT-B-32::"),
        ("[hf-hub:]ORG/NAME", "`ORG/NAME`, `hf-hub:"),
        ("M-CLIP/NAME", "`M-CLIP/"),
        ("local-dir:FOLDER", "`local-dir:"),
        ("JSON file", ".json "),
        *((same, same) for same in ("open_clip_config.json", "save_pretrained", "clipperf-sample")),
    ):
        assert told in helped and listed in page, (told, listed)


def test_doctor_says_what_is_usable_and_how_to_fix_the_rest(cli: Cli) -> None:
    rows = json.loads(cli("doctor", "--json", check=True).stdout)
    by_key = {(row["runtime"], row["device"]): row for row in rows}
    assert by_key["onnx", "cpu"]["usable"] is True
    assert by_key["torch", "cpu"]["usable"] is True
    assert "simulated" not in {row["runtime"] for row in rows}
    for row in rows:
        assert row["detail"]
        assert bool(row["fix"]) != row["usable"], row
    if not MACHINE_HAS_GPU:
        assert by_key["torch", "cuda"]["usable"] is False
    table = cli("doctor", check=True).stdout
    assert all(row["runtime"] in table for row in rows)


def test_version(cli: Cli) -> None:
    assert cli("--version", check=True).stdout == f"clipperf {clipperf.__version__}\n"


def test_no_arguments_print_the_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "profile" in done.stdout + done.stderr
    assert "error:" not in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"), [("clipperf ", "profile"), ("clipperf do", "doctor")]
)
def test_shell_completion_answers_commands(home: Path, words: str, expected: str) -> None:
    script = Path(sys.executable).with_name("clipperf")
    if not script.exists():
        pytest.skip("clipperf is not installed as a script beside this Python")
    done = subprocess.run(
        [script],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "_CLIPPERF_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout.split()
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["models --json", "doctor --json", "--version"])
def test_a_closed_pipe_is_no_crash(home: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "clipperf", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        cwd=ROOT,
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


def test_control_c_exits_130_without_a_traceback(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "clipperf", "export", "clipperf-sample", "--tower", "image"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # A test run in the background of a shell ignores it, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("image tower: ")
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("interrupted")
    # The child that built the tower has gone too, and with it what it had begun.
    time.sleep(0.5)
    assert not re.search(r"\.tmp-", " ".join(str(p) for p in home.rglob("*")))


def test_an_error_is_one_line_of_bounded_length_whatever_was_typed(cli: Cli) -> None:
    for typed in ("x" * 100_000, "\x1b[31m\n\x07\u202e" * 10_000):
        done = cli("export", typed)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert line.startswith("error: unknown model '") and line.endswith("lists all")
        assert len(line) <= 2000 and line.isprintable()


# --- files of other versions ----------------------------------------------------------------


def test_results_of_another_version_do_not_stop_a_report(cli: Cli, home: Path) -> None:
    old = home / "results" / "20200101-000000-profile-abc.json"
    files.write_json(old, {"schema_version": 99, "kind": "profile"})
    stored = result([timed(cell(), [0.1] * 6)], schema_version=store.SCHEMA_VERSION)
    store.write_result(home / "results" / "20260101-000000-profile-def.json", stored)
    broken = home / "results" / "20250101-000000-profile-abd.json"
    broken.write_bytes(b"\x00\xff")
    for command in (["report"], ["size", "--images-per-s", "1"]):
        done = cli(*command, check=True)
        assert "left out: 1 results of another version of clipperf" in done.stderr
        assert f"left out: {broken}" in done.stderr
        assert len(done.stderr.splitlines()) == 2
        assert "M::w" in done.stdout
    noted = json.loads(cli("report", "--format", "json", check=True).stdout)["caveats"]
    assert any(broken.name in caveat for caveat in noted)
    assert cli("report", broken).returncode == 1
    done = cli("report", old)
    assert (
        done.returncode == 1 and "measure again, or use the clipperf that wrote it" in done.stderr
    )


def test_a_folder_of_another_version_is_not_called_something_else(cli: Cli, tmp_path: Path) -> None:
    files.write_json(tmp_path / "old" / "manifest.json", {"schema_version": 1})
    done = cli("export", "clipperf-sample", "--out", tmp_path / "old")
    assert done.returncode == 2 and "written by another version of clipperf" in done.stderr
    assert "choose another --out" in done.stderr


# --- --ray ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["--ray"], ["--ray=auto"]),
        (["plan.toml", "--ray", "--quiet"], ["plan.toml", "--ray=auto", "--quiet"]),
        (["--ray", "plan.toml"], ["--ray=auto", "plan.toml"]),
        (["--ray", "head:6379", "plan.toml"], ["--ray", "head:6379", "plan.toml"]),
        (["--ray", "[fe80::1]:6379"], ["--ray", "[fe80::1]:6379"]),
        (["--ray", "auto"], ["--ray", "auto"]),
        (["--ray=head:6379"], ["--ray=head:6379"]),
        (["--ray-store", "there"], ["--ray-store", "there"]),
    ],
)
def test_an_address_may_be_left_out(given: list[str], taken: list[str]) -> None:
    assert with_address(given) == taken


def test_what_cannot_be_done_on_a_cluster_is_refused(cli: Cli) -> None:
    done = cli("eval", "clipperf-sample", "--ray", "127.0.0.1:1", "--runtime", "best")
    assert done.returncode == 2 and "with --ray name runtimes" in done.stderr
    done = cli("eval", "clipperf-sample", "--ray-store", "there")
    assert done.returncode == 2 and "--ray-store is for --ray" in done.stderr
    done = cli("eval", "--ray", "--index-compat", "onnx:fp32", "onnx:int8")
    assert done.returncode == 2 and "leave out --ray" in done.stderr


def test_what_is_wrong_with_what_follows_ray_is_no_address(cli: Cli, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('models = ["clipperf-sample"]\nruntime = ["onnx"]\n')
    done = cli("sweep", "--ray", plan)
    assert done.returncode == 2 and "plan.toml" in done.stderr
    assert "'runtime'" in done.stderr and "is no address" not in done.stderr
    done = cli("sweep", "--ray", tmp_path / "plans.toml")
    assert done.returncode == 2 and f"--ray {tmp_path}/plans.toml is no address" in done.stderr


def test_a_sweep_that_another_command_writes_asks_no_cluster(cli: Cli, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text('models = ["clipperf-sample"]\nruntimes = ["onnx"]\n')
    words = ("sweep", plan, "--out", out, "--ray", "127.0.0.1:1")
    with files.locked(out / MARK):
        done = cli(*words)
    assert done.returncode == 1 and "another command is writing" in done.stderr
    out.rmdir()
    pytest.importorskip("ray")
    done = cli(*words)
    assert done.returncode == 1 and "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert not out.exists()


def test_each_view_of_a_sweep_says_what_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits(quiet=False, json_lines=False)
    waits("before it begins")
    with sweep_shown(quiet=False, json_lines=False) as waits.view:
        waits("in lines")
    assert capsys.readouterr().err.splitlines() == ["before it begins", "in lines"]
    waits = Waits(quiet=False, json_lines=True)
    waits("a machine")
    with sweep_shown(quiet=False, json_lines=True) as waits.view:
        waits("another")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"event": "waiting", "text": text} for text in ("a machine", "another")]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    waits = Waits(quiet=False, json_lines=False)
    with sweep_shown(quiet=False, json_lines=False) as waits.view:
        waits("above the bar")
    assert "above the bar" in capsys.readouterr().err
    quiet = Waits(quiet=True, json_lines=False)
    quiet("nothing")
    with sweep_shown(quiet=True, json_lines=False) as quiet.view:
        quiet("nothing")
    assert capsys.readouterr() == ("", "")
