"""Kill commands at random moments and see that nothing is lost; exits with 1 where something is.

Usage: python tools/kills.py [--kills 200] [--in-a-row 3] [--seed 0] [--only NAME] [--folder DIR]

Exports into a folder with a tower and a user's files, changes of its preprocessing, builds of an
engine, profiles, evaluations, tunings, sweeps and embeddings of a dataset are started with a full
store or an empty one, and SIGKILL hits the whole family, the parent alone or a child alone; then
the same command is started and killed again, up to so many times in a row. After each kill the
artifact and the engine must be whole, the user's files be there, the result file and the tuning be
readable and every shard of vectors that has a record be that of a run which nobody killed; the
same command must at last succeed and leave no staging. What a sweep had finished it must not do
again, and sweeps and shards must end with the files of a run that nobody killed.

`--only embed-ray` kills embeddings on a Ray cluster of two nodes, which is started on this machine
and outlives the commands; nothing of a command may be left on it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from breaking import BUILD, EMBED, MODEL, TUNE, Place, error_lines

from clipperf.engines.tensorrt import flavours
from clipperf.system.temporaries import PREFIX

COMMANDS = {
    "export": f"export {MODEL} --tower text --quiet --out OUT",
    "preprocess": f"export {MODEL} --tower image --preprocess draft --quiet --out OUT",
    "build": f"{BUILD} --target sm89",
    "profile": f"profile {MODEL} --tower text --runtime onnx --batch 1 --quick --quiet --json JSON",
    "sweep": "sweep PLAN --quiet --out SWEEP",
    "eval": f"eval {MODEL} --runtime onnx --precision fp32 --dataset FEW --quiet --json JSON",
    "tune": TUNE,
    "embed": EMBED,
    "embed-ray": f"{EMBED} --ray CLUSTER --ray-store CROSSING",
}
TURNS = (
    *("preprocess", "export", "embed", "sweep", "profile", "build"),
    *("embed", "preprocess", "eval", "sweep", "tune"),
)
"""In a change of the preprocessing, which takes a second, a folder is exchanged as in an export."""

CLUSTERED = "embed-ray"
WHOM = ("family", "parent", "child")
GONE_S = 20.0


def main() -> int:
    """Kill, look, repeat; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--in-a-row", type=int, default=3, help="kills before a run to the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS, help="kill this command alone")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    with contextlib.ExitStack() as held:
        folder = options.folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        template = Place(folder / "template")
        if not template.home.exists():
            template.build()
        turns = tuple(
            name
            for name in TURNS
            if options.only in (None, name) and (name != "build" or flavours.installed("trt-rtx"))
        )
        place, in_a_row = Place(folder / "place", template.root), options.in_a_row
        if options.only == CLUSTERED:
            turns = (CLUSTERED,)
            place.cluster = held.enter_context(nodes(folder))
        return kill_all(place, options.kills, options.seed, turns, in_a_row)


@contextlib.contextmanager
def nodes(folder: Path) -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a store each."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from ray_nodes import node, started

    with started([node(folder / f"node-{number}") for number in range(2)]) as cluster:
        yield cluster.address


def kill_all(
    place: Place, kills: int, seed: int, turns: Sequence[str] = TURNS, in_a_row: int = 1
) -> int:
    """Kill so many commands, in turns; prints what came of it."""
    chance = random.Random(seed)
    whole: set[str] = set()
    longest: dict[str, float] = {}
    counts: Counter[str] = Counter()
    done = rounds = problems = 0
    while done < kills:
        name = turns[rounds % len(turns)]
        rounds += 1
        if name not in longest:
            longest[name] = duration(place, name)
            if name == "sweep":
                whole = set(place.swept("uninterrupted"))
        fresh = chance.random() < 0.2 and name == "export"
        place.problems = []
        place.reset(fresh=fresh)
        times = min(in_a_row, kills - done)
        for number in range(done, done + times):
            whom = chance.choice(WHOM)
            before = place.swept("before")
            hit = kill(place, name, whom, chance.uniform(0.0, longest[name]))
            place.look("after the kill")
            if name == "sweep":
                compare_sweeps(place, before, None)
            counts[f"{name}, {whom}{', empty store' if fresh else ''}"] += 1
            counts["struck a running command"] += hit
            said = f"{len(place.problems)} problems" if place.problems else "stands"
            print(f"kill {number} ({name}, {whom}): {said}", flush=True)
        done += times
        finished = place.swept("after the kills")
        again = place.run(COMMANDS[name])
        if again.returncode:
            place.problems.append(f"the next run: exit {again.returncode}: {again.stderr[-300:]}")
        place.look("after the next run")
        if name == "sweep":
            compare_sweeps(place, finished, whole)
        place.look_for_leftovers()
        if name.startswith("embed"):
            place.look_at_all_vectors()
        if name == CLUSTERED:
            place.problems += left_on_nodes(place.root.parent)
        for problem in place.problems:
            print(f"round {rounds} ({name}): {problem}", flush=True)
        problems += len(place.problems)
    for what, count in sorted(counts.items()):
        print(f"{count:5d}  {what}")
    print(f"{kills} kills, {problems} problems, {rounds} runs to the end, seed {seed}")
    return 1 if problems else 0


def left_on_nodes(folder: Path) -> list[str]:
    """What temporary files the last command has left in the stores of the nodes."""
    found = [path for path in folder.glob("node-*/**/.*") if path.name.startswith(PREFIX)]
    return [f"left over: {path.relative_to(folder)}" for path in found]


def compare_sweeps(place: Place, finished: dict[str, int], whole: set[str] | None) -> None:
    """Note what a sweep did again that it had finished, and how its end is another than whole."""
    now = place.swept("after it was started again")
    place.problems += [
        f"done again: {name}" for name, at in finished.items() if now.get(name) != at
    ]
    if whole is not None:
        place.problems += [f"not as uninterrupted: {name}" for name in sorted(now.keys() ^ whole)]


def duration(place: Place, name: str) -> float:
    """How long a command takes when nobody kills it; what it leaves is there."""
    words = COMMANDS[name]
    place.reset()
    start = time.monotonic()
    done = place.run(words)
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr}")
    return time.monotonic() - start


def kill(place: Place, name: str, whom: str, after_s: float) -> bool:
    """Start a command and kill it, or part of it, some seconds later; whether it was running."""
    with subprocess.Popen(
        place.command(COMMANDS[name]),
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        time.sleep(after_s)
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
        targets = {"family": family, "parent": family[:1], "child": family[1:][:1]}[whom]
        running = process.poll() is None and bool(targets)
        for target in targets:
            with contextlib.suppress(psutil.NoSuchProcess):
                target.kill()
        _, stderr = process.communicate(timeout=600)
        _, alive = psutil.wait_procs(family, timeout=GONE_S)
        if alive:
            place.problems.append(f"{len(alive)} processes outlive the command")
        # In a profile or an evaluation it is a failed cell, and no error of the command.
        fatal = whom == "child" and COMMANDS[name].startswith("export")
        if running and fatal and process.returncode:
            place.problems += error_lines(stderr)
    return running


if __name__ == "__main__":
    sys.exit(main())
