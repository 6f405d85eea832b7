"""clipperf beside PyTorch, torch.compile, open_clip, optimum-onnx, sentence-transformers and
faster-clip: one shape (ViT-B-32), one set of seeded weights, one run, equal threads.

    python3 -m venv build/peers && build/peers/bin/pip install -r benchmarks/requirements-peers.txt
    python benchmarks/peers.py --json results/peers.json --markdown results/peers.md

Every candidate lives in a process of its own; they take turns in blocks of a sleep, a warm-up and
several timed calls. Before that their embeddings are compared with PyTorch's, and who gives other
ones is not timed. Leave the machine alone meanwhile: about 20 minutes on two cores, exports
included. `--quick` is a trial of the script; its figures mean little. `--work` keeps what is
prepared and exported, so that a second run starts with measuring. `--from results/peers.json`
prints the tables of a file again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers_candidates import EAGER, HERE, MODEL, OPEN_CLIP, make_export, ours, peers
from peers_measure import Bench, chosen_works, measure_memory, measure_side
from peers_table import selected, tables

from clipperf import units
from clipperf.bench import cost, meters
from clipperf.models import catalog
from clipperf.nouns.result import Environment
from clipperf.nouns.variant import SIDES
from clipperf.report.document import Document, Section
from clipperf.report.format import render
from clipperf.serialize import to_json
from clipperf.system import env
from clipperf.system.child import child_environment
from clipperf.system.files import write_json, write_text

PEERS_PYTHON = HERE.parent / "build" / "peers" / "bin" / "python"
INSTALL = (
    "python3 -m venv build/peers && "
    "build/peers/bin/pip install -r benchmarks/requirements-peers.txt"
)


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    if options.from_file:
        show(json.loads(options.from_file.read_text(encoding="utf-8")), options.markdown)
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = measured(options, (options.work or Path(scratch)).absolute())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, data)
    show(data, options.markdown)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write every raw figure here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--from", dest="from_file", type=Path, help="print the tables of a file")
    parser.add_argument("--work", type=Path, help="keep weights and exports in this folder")
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=6, help="below 6 there are no intervals")
    parser.add_argument("--only", action="append", help="candidates whose names hold this")
    parser.add_argument("--workload", action="append", help="workloads whose names hold this")
    parser.add_argument("--quick", action="store_true", help="two short blocks, no memory pass")
    return parser.parse_args()


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything that the tables are made of, as plain values."""
    elapsed_s = cost.stopwatch()
    busy = meters.busy_share()
    if busy is not None and busy > 0.1:
        say(f"other programs use {units.share(busy)} of the cores: the figures will suffer")
    entry = catalog.find(MODEL)
    data: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "model": MODEL,
        "threads": options.threads,
        "environment": to_json(env.capture()),
        "busy_share": busy,
        "image_flops": (entry.image_gflops or 0) * 1e9,
        "image_parameters": entry.image_parameters,
        **{key: {} for key in ("skipped", "exports")},
        **{key: [] for key in ("candidates", "checks", "speed", "memory", "roofline")},
    }
    inputs = work / "inputs"
    if not (inputs / "answers.npz").is_file():
        say("weights, pictures, texts and PyTorch's answers")
        python("peers_prepare.py", str(inputs))
    data["caption_tokens"] = json.loads((inputs / "caption_tokens.json").read_text())
    data["roofline"].append(roofline(options.threads))
    candidates, data["skipped"] = available(options, work)
    data["exports"] = {"torch": None} if not options.quick and not options.only else {}
    data["exports"] |= dict.fromkeys(c.export for c in candidates if c.export)
    for name in data["exports"]:
        say(f"export: {name}")
        record = make_export(
            name, work, str(options.peers_python), options.threads, child_environment
        )
        data["exports"][name] = record
        if "error" in record:
            say(f"export: {name} failed: {record['error']}")
            lost = [c for c in candidates if c.export == name]
            data["skipped"] |= {c.name: f"its export failed: {record['error']}" for c in lost}
            candidates = [c for c in candidates if c not in lost]
    data["precision"] = {c.name: c.precision for c in candidates}
    bench = Bench(work, str(options.peers_python), options.threads, options.blocks)
    if options.quick:
        bench = Bench(work, str(options.peers_python), options.threads, 2, 1, 0.0, 1.0, 0.05)
    works = chosen_works(options.workload)
    for side in SIDES:
        if any(one.side == side for one in works):
            for key, rows in measure_side(bench, candidates, side, works, say).items():
                data[key] += rows
    if not options.quick:
        data["memory"] = measure_memory(bench, candidates, works, say)
        data["roofline"].append(roofline(options.threads))
    data["settings"] = {k: v for k, v in vars(bench).items() if isinstance(v, int | float)}
    data["wall_s"] = elapsed_s()
    return data


def available(options: argparse.Namespace, work: Path) -> tuple[list[Any], dict[str, str]]:
    """The candidates to measure, and why others are left out."""
    mine, skipped = ours(work / "exports")
    candidates = [*peers(work / "exports"), *mine]
    if not options.peers_python.is_file():
        reason = f"no Python of the peers at {options.peers_python}; to make it: {INSTALL}"
        skipped |= {c.name: reason for c in candidates if not c.own}
        candidates = [c for c in candidates if c.own]
    names = selected([c.name for c in candidates], options.only)
    # Ratios are over these two.
    candidates = [c for c in candidates if c.name in (*names, EAGER, OPEN_CLIP)]
    for name, reason in skipped.items():
        say(f"{name}: left out: {reason}")
    return candidates, skipped


def roofline(threads: int) -> dict[str, float]:
    """The machine's ceilings, measured in a process of its own."""
    say("roofline")
    found = python("roofline.py", "--json", "--threads", str(threads))
    return dict(json.loads(found))


def python(script: str, *arguments: str) -> str:
    """Run a script of this folder in this Python; returns what it prints."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def show(data: dict[str, Any], markdown: Path | None) -> None:
    """Print the tables, and write them as Markdown where asked."""
    where = data["environment"]
    versions = {k: v for row in data["candidates"] for k, v in row.get("versions", {}).items()}
    tokens = data["caption_tokens"]
    caveats = (
        f"{data['threads']} threads, {where['created_utc']}, {data['command']}",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        f"captions: {len(tokens)}, {tokens[0]} to {tokens[-1]} tokens, "
        f"{sum(tokens) / len(tokens):.1f} on average",
    )
    title = f"clipperf and its peers, {data['model']}"
    section = Section("peers", "Results", "", tuple(tables(data)))
    machine = (("E1", Environment(**where)),)
    document = Document(title, (), caveats, (section,), machine, (), ())
    print(render(document, "text"))
    if markdown:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        write_text(markdown, render(document, "md"))


if __name__ == "__main__":
    main()
