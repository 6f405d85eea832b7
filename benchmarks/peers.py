"""clipperf beside PyTorch, transformers, open_clip, optimum-onnx and optimum-intel, infinity-emb,
fastembed, sentence-transformers and faster-clip: one shape (ViT-B-32), one set of seeded weights,
one run, equal threads.

    for name in peers peers-intel peers-infinity; do
        python3 -m venv build/$name
        build/$name/bin/pip install -r benchmarks/requirements-$name.txt
    done
    python benchmarks/peers.py --save

Every candidate lives in a process of its own; they take turns in blocks of a sleep, a warm-up and
several timed calls. Before that their embeddings are compared with PyTorch's, and who gives other
ones is not timed. A peer that takes twice as long as the fastest peer is timed in two blocks
only. Who cannot run here is left out with the reason.

Leave the machine alone meanwhile: about 25 minutes on two cores, exports not included. `--work`
keeps what is prepared and exported, so that a second run starts with measuring; `--export-only`
makes that beforehand. `--quick` is a trial of the script; its figures mean little. `--save` writes
results/peers-SETS.json and .md, named by the instruction sets that decide. `--from FILE.json`
prints the tables of a file again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import asked
from peers_candidates import EAGER, OPEN_CLIP, Candidate, able, ours, peers
from peers_make import HERE, make_export, wanted_exports, within_gate
from peers_measure import Bench, chosen_works, measure_memory, measure_side
from peers_prepare import MODEL
from peers_table import BUSY_SHARE, selected, tables

from clipperf import units
from clipperf.bench import cost, meters
from clipperf.engines import processor
from clipperf.models import catalog
from clipperf.nouns.result import Environment
from clipperf.nouns.variant import BF16_INSTRUCTIONS, INT8_INSTRUCTIONS, SIDES
from clipperf.report.document import Document, Section
from clipperf.report.format import render
from clipperf.serialize import to_json
from clipperf.system import env
from clipperf.system.child import child_environment
from clipperf.system.files import write_json, write_text


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    if options.from_file:
        show(json.loads(options.from_file.read_text(encoding="utf-8")), options.markdown)
        return
    if options.save:
        name = HERE.parent / "results" / f"peers-{deciding_sets(processor.instruction_sets())}"
        options.json = options.json or Path(f"{name}.json")
        options.markdown = options.markdown or Path(f"{name}.md")
    with tempfile.TemporaryDirectory() as scratch:
        data = measured(options, (options.work or Path(scratch)).absolute())
    if options.export_only:
        return
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, data)
    show(data, options.markdown)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write both files into results/")
    parser.add_argument("--json", type=Path, help="write every raw figure here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--from", dest="from_file", type=Path, help="print the tables of a file")
    parser.add_argument("--work", type=Path, help="keep weights and exports in this folder")
    parser.add_argument("--export-only", action="store_true", help="make them, measure nothing")
    parser.add_argument(
        "--environments",
        type=Path,
        default=HERE.parent / "build",
        help="the folder of the peers' environments; default: build",
    )
    parser.add_argument("--threads", type=asked.count, default=2)
    parser.add_argument(
        "--blocks", type=asked.count, default=6, help="below 6 there are no intervals"
    )
    parser.add_argument("--only", action="append", help="candidates whose names hold this")
    parser.add_argument("--workload", action="append", help="workloads whose names hold this")
    parser.add_argument("--quick", action="store_true", help="two short blocks, no memory pass")
    return parser.parse_args()


def deciding_sets(sets: list[str]) -> str:
    """The instruction sets that set the speed of a machine, for the name of a file."""
    matrix = [name for name in sets if name in ("amx_int8", "amx_bf16")]
    vector = [
        next((name for name in group if name in sets), "")
        for group in (INT8_INSTRUCTIONS, BF16_INSTRUCTIONS)
    ]
    return "-".join(matrix or list(filter(None, vector)) or sets[-1:] or ["unknown"])


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything that the tables are made of, as plain values."""
    elapsed_s = cost.stopwatch()
    busy = meters.busy_share()
    if busy is not None and busy > BUSY_SHARE:
        say(f"other programs use {units.share(busy)} of the cores: the figures will suffer")
    entry = catalog.find(MODEL)
    data: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "model": MODEL,
        "threads": options.threads,
        "environment": to_json(env.capture()),
        "kind": processor.kind(),
        "instruction_sets": processor.instruction_sets(),
        "busy_share": busy,
        "image_flops": (entry.image_gflops or 0) * 1e9,
        "image_parameters": entry.image_parameters,
        **{key: [] for key in ("candidates", "checks", "speed", "memory", "roofline")},
    }
    inputs = work / "inputs"
    if not all((inputs / name).is_file() for name in ("answers.npz", "text_operations.json")):
        say("weights, pictures, texts and PyTorch's answers")
        python("peers_prepare.py", str(inputs))
    for name in ("caption_tokens", "text_operations"):
        data[name] = json.loads((inputs / f"{name}.json").read_text(encoding="utf-8"))
    if not options.export_only:
        data["roofline"].append(roofline(options.threads))
    candidates, data["skipped"] = available(options, work)
    candidates = exported(options, work, candidates, data)
    for key in ("precision", "arithmetic", "pixels"):
        data[key] = {c.name: getattr(c, key) for c in candidates}
    data["gate"] = {c.name: within_gate(c) for c in candidates if c.ours}
    if options.export_only:
        return data
    bench = Bench(work, options.environments.absolute(), options.threads, options.blocks)
    if options.quick:
        bench = replace(
            bench, blocks=2, calls=1, block_s=0.0, block_max_s=1.0, sleep_s=0.05, few_blocks=2
        )
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


def available(options: argparse.Namespace, work: Path) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates to measure, and why others are left out."""
    everybody = [*peers(work / "exports"), *ours(work / "exports")]
    names = selected([c.name for c in everybody], options.only)
    # Ratios are over these two.
    wanted = [c for c in everybody if c.name in (*names, EAGER, OPEN_CLIP)]
    candidates, skipped = able(wanted, options.environments.absolute())
    for name, reason in skipped.items():
        say(f"{name}: left out: {reason}")
    return candidates, skipped


def exported(
    options: argparse.Namespace, work: Path, candidates: list[Candidate], data: dict[str, Any]
) -> list[Candidate]:
    """Make every export, into `data`; the candidates without those whose export failed."""
    wanted: dict[str, Candidate | None] = wanted_exports(candidates)
    if not options.quick and not options.only:
        wanted = {"torch": None, **wanted}
    data["exports"] = {}
    for name, one in wanted.items():
        say(f"export: {name}")
        record = make_export(
            name, one, work, options.environments.absolute(), child_environment(options.threads)
        )
        data["exports"][name] = record
        if "error" in record:
            say(f"export: {name} failed: {record['error']}")
            lost = [c for c in candidates if c.export == name]
            data["skipped"] |= {c.name: f"its export failed: {record['error']}" for c in lost}
            candidates = [c for c in candidates if c not in lost]
    return candidates


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
    versions = {
        f"{name} {version}"
        for row in data["candidates"]
        for name, version in row.get("versions", {}).items()
    }
    tokens = data["caption_tokens"]
    caveats = (
        f"{data['threads']} threads, {where['created_utc']}, {data['command']}",
        ", ".join(sorted(versions)),
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
    asked.run(main)
