"""Run commands into streams that are closed, full, gone or of a narrow encoding.

    PYTHONPATH=. python tools/broken_streams.py [--making]

Prints what each command did with each stream, and ends with 1 where there was a traceback, an exit
code other than the one that `clipperf.system.terminal` promises, or a control character that no
stream should get. With --making commands run that write files, which takes a minute or two. The
store is one of its own, in a temporary folder.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

STREAMS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("", {}),
    "stdout closed": (">&-", {}),
    "stdout full": (">/dev/full", {}),
    "stdout gone": ("| head -c 1 >/dev/null", {}),
    "stderr closed": ("2>&-", {}),
    "stderr full": ("2>/dev/full", {}),
    "stderr gone": ("2> >(head -c 1 >/dev/null)", {}),
    "all closed": ("<&- >&- 2>&-", {}),
    "ascii": ("", {"PYTHONIOENCODING": "ascii"}),
    "latin-1": ("", {"PYTHONIOENCODING": "latin-1"}),
    "C locale": ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
}
LOST = ("stdout closed", "stdout full", "all closed")
"""Streams that make a command fail whose work it is to print."""

COMMANDS = ("models", "export", "profile", "eval", "tune", "inspect", "doctor", "report", "size")
PRINTING = [
    "--help",
    "--version",
    *(f"{name} --help" for name in COMMANDS),
    "models --search ViT-B",
    "models --search ViT-B --json",
    "doctor",
    "doctor --json",
    "inspect {artifact}",
    "inspect {artifact} --json",
    *(f"report {{results}} --format {name}" for name in ("text", "md", "csv", "json", "html")),
    "size {results} --images-per-s 5",
    "size {results} --images-per-s 5 --json",
]
MAKING = [
    "export clipperf-sample --tower image --out {artifact}",
    "export clipperf-sample --tower image --out {artifact} --json",
    "report {results} --format html --out {folder}/report.html",
    "profile clipperf-sample --runtime onnx --tower image --batch 1 --quick --json {folder}/p.json",
    "tune clipperf-sample --tower text --runtime onnx --precision fp32 --batch 4 --threads 1 "
    "--tokens 8 --minutes 0.05 --out {folder}/tuned.json",
]
WRONG = ["report {folder}/none.json", "inspect {folder}/none", "models --search qqqq", "nonsense"]


def run(words: str, stream: str, store: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command into a stream, under bash."""
    redirect, variables = STREAMS[stream]
    line = f"{shlex.quote(sys.executable)} -m clipperf {words} {redirect}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        env={**os.environ, "CLIPPERF_HOME": store, **variables},
    )


def judged(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """What is wrong with an ending: "" for nothing."""
    said = done.stdout + done.stderr
    if b"Traceback" in said or b"Exception ignored" in said:
        return "traceback"
    if done.returncode != code:
        return f"rc {done.returncode}, not {code}"
    control = set(said) & ({*range(0x20), 0x7F} - {0x0A, 0x0D})
    return f"control characters {sorted(control)}" if control else ""


def main() -> int:
    """Try every command with every stream; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        names = {
            "folder": folder,
            "artifact": f"{folder}/sample",
            "results": f"{folder}/results.json",
        }
        first = (
            MAKING[0],
            "profile clipperf-sample --runtime onnx --tower image --batch 1 --quick "
            "--json {results}",
        )
        for words in first:
            done = run(words.format(**names), "plain", folder)
            if done.returncode:
                print(done.stderr.decode())
                return 1
        bad = 0
        kinds = [(PRINTING, 0, 1), (WRONG, None, None)]
        kinds += [(MAKING, 0, 0)] if "--making" in sys.argv else []
        for commands, code, lost in kinds:
            for words in commands:
                typed = words.format(**names)
                usual = run(typed, "plain", folder).returncode if code is None else code
                for stream in STREAMS:
                    expected = lost if lost is not None and stream in LOST else usual
                    wrong = judged(run(typed, stream, folder), expected)
                    bad += bool(wrong)
                    place = str(Path(folder))
                    shown = typed.replace(place, "")
                    print(f"{shown:60.60}  {stream:14}  {wrong or 'ok'}", flush=True)
        print(f"{bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
