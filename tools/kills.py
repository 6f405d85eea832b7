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

With `--ray` it is sweeps, evaluations and embeddings on a Ray cluster of two nodes with a store
each, which is started on this machine and outlives the commands. There SIGKILL hits a worker of Ray
or what that has started on a node, too, and now and then a whole node, which is started again: the
command must then go on and end well. When the same command has ended at last, nothing of those that
were killed may be left on the nodes or in the shared place.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import clustered
import psutil
from breaking import BUILD, EMBED, GONE_S, MODEL, TUNE, Place, error_lines
from clustered import Clustered

from clipperf.engines.tensorrt import flavours

EVAL = f"eval {MODEL} --runtime onnx --precision fp32 --dataset FEW --quiet --json JSON"
COMMANDS = {
    "export": f"export {MODEL} --tower text --quiet --out OUT",
    "preprocess": f"export {MODEL} --tower image --preprocess draft --quiet --out OUT",
    "build": f"{BUILD} --target sm89",
    "profile": f"profile {MODEL} --tower text --runtime onnx --batch 1 --quick --quiet --json JSON",
    "sweep": "sweep PLAN --quiet --out SWEEP",
    "eval": EVAL,
    "tune": TUNE,
    "embed": EMBED,
    "sweep-ray": "sweep BRIEF --quiet --out SWEEP --ray CLUSTER",
    "eval-ray": f"{EVAL} --ray CLUSTER --ray-store CROSSING",
    "embed-ray": f"{EMBED} --ray CLUSTER --ray-store CROSSING",
}
TURNS = (
    *("preprocess", "export", "embed", "sweep", "profile", "build"),
    *("embed", "preprocess", "eval", "sweep", "tune"),
)
"""In a change of the preprocessing, which takes a second, a folder is exchanged as in an export."""

RAY_TURNS = ("sweep-ray", "embed-ray", "sweep-ray", "eval-ray", "embed-ray")
WHOM = {"family": 1, "parent": 1, "child": 1}
RAY_WHOM = {**WHOM, "worker": 2, "node": 0.5}
"""Whom a kill hits, and how often."""


def main() -> int:
    """Kill, look, repeat; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how many, default: 200")
    parser.add_argument(
        "--in-a-row", type=int, default=3, help="before a run to the end; default: 3"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random; default: 0")
    parser.add_argument("--only", choices=COMMANDS, help="kill this command alone")
    parser.add_argument("--ray", action="store_true", help="kill commands on a Ray cluster")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    if options.kills < 1 or options.in_a_row < 1:
        parser.error("--kills and --in-a-row are numbers of kills, from 1 on")
    with contextlib.ExitStack() as held:
        folder = options.folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        template = Place(folder / "template")
        if not template.home.exists():
            template.build()
        place, in_a_row = Place(folder / "place", template.root), options.in_a_row
        on_ray = options.ray or options.only in RAY_TURNS
        turns = tuple(
            name
            for name in (RAY_TURNS if on_ray else TURNS)
            if options.only in (None, name) and (name != "build" or flavours.installed("trt-rtx"))
        )
        if not turns:
            parser.error(f"nothing to kill: --only {options.only}")
        cluster = held.enter_context(clustered.started(folder)) if on_ray else None
        return kill_all(place, options.kills, options.seed, turns, in_a_row, cluster)


def kill_all(
    place: Place,
    kills: int,
    seed: int,
    turns: Sequence[str] = TURNS,
    in_a_row: int = 1,
    cluster: Clustered | None = None,
) -> int:
    """Kill so many commands, in turns; prints what came of it."""
    chance, begun_s = random.Random(seed), time.monotonic()
    whole: dict[str, Whole] = {}
    counts: Counter[str] = Counter()
    done = rounds = problems = 0
    if cluster is not None:
        cluster.prepare(place)
    while done < kills:
        name = turns[rounds % len(turns)]
        rounds += 1
        if name not in whole:
            whole[name] = uninterrupted(place, name)
        fresh = chance.random() < 0.2 and name in ("export", "sweep-ray")
        place.problems = []
        place.reset(fresh=fresh)
        if cluster is not None and fresh:
            cluster.empty()
        times = min(in_a_row, kills - done)
        for number in range(done, done + times):
            weights = WHOM if cluster is None else RAY_WHOM
            (whom,) = chance.choices([*weights], [*weights.values()])
            before = place.swept("before")
            hit = kill(place, name, whom, chance, whole[name].lasts_s, cluster)
            place.look("after the kill")
            if name.startswith("sweep"):
                compare_sweeps(place, before, None)
            counts[f"{name}, {whom}{', empty store' if fresh else ''}"] += 1
            counts["struck a running command"] += hit
            said = f"{len(place.problems)} problems" if place.problems else "stands"
            print(f"kill {number} ({name}, {whom}): {said}", flush=True)
        done += times
        run_to_end(place, name, whole[name], cluster)
        for problem in place.problems:
            print(f"round {rounds} ({name}): {problem}", flush=True)
        problems += len(place.problems)
    for what, count in sorted(counts.items()):
        print(f"{count:5d}  {what}")
    print(f"{kills} kills, {problems} problems, {rounds} runs to the end, seed {seed}")
    print(f"took {time.monotonic() - begun_s:.0f} s")
    return 1 if problems else 0


def run_to_end(place: Place, name: str, whole: Whole, cluster: Clustered | None) -> None:
    """Give the same command again and note what is not as if nobody had killed it."""
    finished = place.swept("after the kills")
    again = place.run(COMMANDS[name])
    if again.returncode:
        place.problems.append(f"the next run: exit {again.returncode}: {again.stderr[-300:]}")
    place.look("after the next run")
    if name.startswith("sweep"):
        compare_sweeps(place, finished, whole.files)
    if name.startswith("eval") and place.scored() != whole.scores:
        place.problems.append("not the scores of a run that nobody killed")
    place.look_for_leftovers()
    if name.startswith("embed"):
        place.look_at_all_vectors()
    if cluster is not None:
        place.problems += [*cluster.at_work(), *cluster.left(place.root), *cluster.damaged()]


def compare_sweeps(place: Place, finished: dict[str, int], whole: set[str] | None) -> None:
    """Note what a sweep did again that it had finished, and how its end is another than whole."""
    now = place.swept("after it was started again")
    place.problems += [
        f"done again: {name}" for name, at in finished.items() if now.get(name) != at
    ]
    if whole is not None:
        place.problems += [f"not as uninterrupted: {name}" for name in sorted(now.keys() ^ whole)]


@dataclass(frozen=True)
class Whole:
    """What a command comes to that nobody kills: seconds, files of a sweep, scores."""

    lasts_s: float
    files: set[str]
    scores: set[tuple[str, ...]]


def uninterrupted(place: Place, name: str) -> Whole:
    """Run a command to its end."""
    words = COMMANDS[name]
    place.reset()
    start = time.monotonic()
    done = place.run(words)
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr}")
    lasts_s = time.monotonic() - start
    return Whole(lasts_s, set(place.swept("uninterrupted")), place.scored())


def kill(
    place: Place,
    name: str,
    whom: str,
    chance: random.Random,
    lasts_s: float,
    cluster: Clustered | None = None,
) -> bool:
    """Start a command and kill it, or part of it, some time later; whether it was running."""
    with subprocess.Popen(
        place.command(COMMANDS[name]),
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        time.sleep(chance.uniform(0.0, lasts_s))
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
        running = process.poll() is None
        far = cluster is not None and whom not in ("family", "parent")
        if cluster is not None and far:
            running = cluster.strike(whom, chance) and running
        else:
            targets = {"family": family, "parent": family[:1], "child": family[1:2]}[whom]
            running = running and bool(targets)
            for target in targets:
                with contextlib.suppress(psutil.NoSuchProcess):
                    target.kill()
        _, stderr = process.communicate(timeout=600)
        _, alive = psutil.wait_procs(family, timeout=GONE_S)
        if alive:
            place.problems.append(f"{len(alive)} processes outlive the command")
        # In a profile or an evaluation it is a failed cell, and no error of the command.
        is_cell = whom == "child" and COMMANDS[name].startswith(("profile", "eval"))
        fatal = whom == "child" and COMMANDS[name].startswith("export")
        if running and fatal and process.returncode:
            place.problems += error_lines(stderr)
        if far and process.returncode and not is_cell:
            said = f"exit {process.returncode}: {stderr[-500:]}"
            place.problems.append(f"a {whom} on a node was killed: {said}")
    if cluster is not None:
        place.problems += cluster.at_work()
    return running


if __name__ == "__main__":
    sys.exit(main())
