"""A sweep's plan: a small TOML that says which cells there are, and what they may take. ::

models = ["ViT-B-32::openai", "clipperf-sample"]  # as the other commands take them
towers = ["image", "text"]
runtimes = ["torch", "onnx", "openvino"]
precisions = ["fp32", "int8"]
batches = [1, 8, 32]
threads = [2]                # by default all cores
tokens = [8, 77]             # lengths of texts, by default each model's context
inputs = ["float32"]         # what image towers are fed, or "uint8"
device = "cpu"               # by default cuda where a runtime needs it
scenarios = ["closed"]       # or single-stream, offline, server, from-files; [] for none
datasets = ["sample"]        # what eval takes for --dataset; by default none
quick = false                # shorter, wider intervals
timeout_s = 900              # of one step of a worker

[limits]                     # of one pass over a cell
seconds = 600
ram_gb = 8
vram_gb = 20

[server]                     # what the scenarios of these names need
slo_ms = 50
max_delay_ms = 2
max_batches = [32]

[from-files]
folder = "photos"            # relative to the plan, as datasets are
preprocess = ["exact"]
threads = [2]

[eval]
batch = 32
margin_pp = 1.0

[[exclude]]                  # cells for which all of these hold are left out;
runtime = "torch"            # where there are [[include]], only cells that one fits stay
batch = [8, 32]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from clipperf.bench.cost import UNLIMITED, Limits
from clipperf.bench.jobs import SCENARIOS
from clipperf.bench.sweeps.toml_table import TomlTable
from clipperf.errors import ArtifactError, UsageError
from clipperf.nouns.cell import CLOSED_LOOP, Cell
from clipperf.nouns.from_files import FROM_FILES
from clipperf.nouns.serving import SERVER, SERVING
from clipperf.nouns.variant import (
    BASELINE_PRECISION,
    BASELINE_RUNTIME,
    FLOATS,
    PIXEL_DTYPES,
    SIDES,
    PixelDtype,
    Side,
)
from clipperf.system.reading import read_small
from clipperf.text import quoted, shown
from clipperf.units import GIB

MOST_BYTES = 2**20
MOST_MS = 86_399_999
"""Below a day."""

CLOSED = "closed"
"""What users call the usual scenario."""
KNOWN = (CLOSED, *SERVING, FROM_FILES)

MEASURED = ("tower", "batch", "threads", "tokens", "scenario")
"""What rules say of measured cells alone; "dataset" is of evaluated ones."""
RULE_KEYS = ("model", "runtime", "precision", "input", "device", *MEASURED, "dataset")


@dataclass(frozen=True)
class Rule:
    """Cells for which all of it holds: for each key the values that fit; "*" in names is any."""

    wanted: Mapping[str, tuple[str | int, ...]]

    def fits(self, cell: Cell, dataset: str | None = None) -> bool:
        """Whether it is about a cell that is measured, or evaluated on a dataset."""
        mine = _facts(cell, dataset)
        return all(
            any(_like(mine.get(key), value) for value in values)
            for key, values in self.wanted.items()
        )


def _facts(cell: Cell, dataset: str | None) -> dict[str, str | int | None]:
    """What rules may say of a cell that is measured, or evaluated on a dataset, by their keys."""
    mine: dict[str, str | int | None] = {
        "model": cell.model_id,
        "runtime": cell.runtime,
        "precision": cell.precision,
        "input": cell.input,
        "device": cell.device,
        "dataset": dataset,
    }
    if dataset is None:
        scenario = CLOSED if cell.scenario == CLOSED_LOOP else cell.scenario
        mine |= {"tower": cell.side, "batch": cell.batch, "threads": cell.threads}
        mine |= {"tokens": cell.tokens, "scenario": scenario}
    return mine


def _like(mine: str | int | None, value: str | int) -> bool:
    if isinstance(mine, str) and isinstance(value, str):
        return fnmatchcase(mine, value)
    return mine == value and mine is not None


@dataclass(frozen=True)
class SweepPlan:
    """What a plan asks for, as it says it; None where it does not. See the module."""

    path: Path
    models: tuple[str, ...]
    text: str = field(default="", repr=False)
    towers: tuple[Side, ...] = SIDES
    runtimes: tuple[str, ...] = (BASELINE_RUNTIME, "onnx")
    precisions: tuple[str, ...] = (BASELINE_PRECISION,)
    batches: tuple[int, ...] = (8,)
    threads: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    inputs: tuple[PixelDtype, ...] = FLOATS
    device: str | None = None
    scenarios: tuple[str, ...] = (CLOSED,)
    datasets: tuple[str, ...] = ()
    quick: bool = False
    timeout_s: float = 900.0
    limits: Limits = UNLIMITED
    slo_ms: float | None = None
    max_delay_ms: float | None = None
    max_batches: tuple[int, ...] = (32,)
    files: str | None = None
    preprocess: tuple[str, ...] | None = None
    preprocess_threads: tuple[int, ...] | None = None
    eval_batch: int = 32
    margin: float = 0.01
    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()

    def keeps(self, cell: Cell, dataset: str | None = None) -> bool:
        """Whether the rules leave a cell in."""
        if self.include and not any(rule.fits(cell, dataset) for rule in self.include):
            return False
        return not any(rule.fits(cell, dataset) for rule in self.exclude)

    def check_rules(
        self, cells: Sequence[tuple[Cell, str | None]], devices: Collection[str]
    ) -> None:
        """Make sure that each value of each rule is one of some cell's.

        A plan may be for several machines: `devices` are those that its runtimes know.

        Raises:
            UsageError: one is of none; the message names it and what there is.
        """
        there: dict[str, dict[str | int, None]] = {"device": dict.fromkeys(sorted(devices))}
        for cell, dataset in cells:
            for key, value in _facts(cell, dataset).items():
                if value is not None:
                    there.setdefault(key, {})[value] = None
        for rule in (*self.include, *self.exclude):
            for key, value in ((k, v) for k, values in rule.wanted.items() for v in values):
                known = there.get(key, {})
                if not any(_like(each, value) for each in known):
                    listed = ", ".join(map(str, known)) or "none"
                    raise UsageError(
                        f"{self.path}: a rule's {key} = {quoted(value)} fits no cell; there are "
                        f"{listed}"
                    )


def read_plan(path: Path) -> SweepPlan:
    """What the TOML in a file asks for.

    Raises:
        UsageError: it is no TOML, has a key that is not known, or a value that cannot be; the
            message names the key and what it may be.
    """
    import tomllib

    try:
        text = read_small(path, MOST_BYTES).decode()
        found = tomllib.loads(text)
    except ArtifactError as exc:
        raise UsageError(f"no plan can be read: {exc}") from exc
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        raise UsageError(f"{shown(path)} is no TOML: {shown(exc)}") from exc
    top = TomlTable(str(shown(path)), found)
    limits, server, files, evals = map(top.table, ("limits", "server", "from-files", "eval"))
    margin_pp = evals.number("margin_pp", zero=True, most=100)
    plan = SweepPlan(
        path=path,
        text=text,
        models=top.names("models", ()),
        towers=top.some("towers", SIDES, SIDES),
        runtimes=top.names("runtimes", (BASELINE_RUNTIME, "onnx")),
        precisions=top.names("precisions", (BASELINE_PRECISION,)),
        batches=top.counts("batches", (8,)),
        threads=top.counts("threads", None),
        tokens=top.counts("tokens", None, least=2),
        inputs=top.some("inputs", PIXEL_DTYPES, FLOATS),
        device=top.word("device"),
        scenarios=_called(
            top.some("scenarios", (*_scenarios(), CLOSED_LOOP), (CLOSED,), empty=True)
        ),
        datasets=top.names("datasets", ()),
        quick=top.flag("quick"),
        timeout_s=top.number("timeout_s", most=86400) or 900.0,
        limits=Limits(
            seconds=limits.number("seconds"),
            ram_bytes=_bytes(limits.number("ram_gb")),
            vram_bytes=_bytes(limits.number("vram_gb")),
        ),
        slo_ms=server.number("slo_ms", most=MOST_MS),
        max_delay_ms=server.number("max_delay_ms", zero=True),
        max_batches=server.counts("max_batches", (32,)),
        files=files.word("folder"),
        preprocess=files.names("preprocess", ()) or None,
        preprocess_threads=files.counts("threads", None, least=0),
        eval_batch=evals.count("batch", 32),
        margin=0.01 if margin_pp is None else margin_pp / 100,
        include=_rules(top, "include"),
        exclude=_rules(top, "exclude"),
    )
    for table in (top, limits, server, files, evals):
        table.check_known()
    top.names("models", None)  # a key that is not known may be the misspelt one
    _check_whole(plan, top.where)
    return plan


def _scenarios() -> tuple[str, ...]:
    """What may be asked for: clipperf's own, and those of installed packages."""
    more = (name for name in SCENARIOS.names() if name not in (*KNOWN, CLOSED_LOOP))
    return (*KNOWN, *more)


def _called(scenarios: Sequence[str]) -> tuple[str, ...]:
    """Scenarios by the names that plans give them: results say "closed-loop" of "closed"."""
    found = {CLOSED if each == CLOSED_LOOP else each for each in scenarios}
    return tuple(each for each in _scenarios() if each in found)


def _check_whole(plan: SweepPlan, where: str) -> None:
    """Raise UsageError where one key needs another."""
    if SERVER in plan.scenarios and plan.slo_ms is None:
        raise UsageError(f'{where}: scenario "{SERVER}" needs slo_ms, such as 50, under [server]')
    if FROM_FILES in plan.scenarios and plan.files is None:
        raise UsageError(f'{where}: scenario "{FROM_FILES}" needs folder under [from-files]')
    if FROM_FILES in plan.scenarios and SIDES[0] not in plan.towers:
        towers = quoted(list(plan.towers))
        raise UsageError(
            f'{where}: scenario "{FROM_FILES}" reads images, and towers = {towers}: add '
            f'"{SIDES[0]}" to them, or leave the scenario out'
        )
    slo_ms, delay_ms = plan.slo_ms, plan.max_delay_ms
    if slo_ms is not None and delay_ms is not None and delay_ms >= slo_ms:
        raise UsageError(
            f"{where}: server: max_delay_ms = {delay_ms:g}: give milliseconds below slo_ms, which "
            f"is {slo_ms:g}"
        )
    if not plan.scenarios and not plan.datasets:
        raise UsageError(f"{where}: scenarios is empty and there are no datasets: nothing to do")


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * GIB)


def _rules(top: TomlTable, key: str) -> tuple[Rule, ...]:
    return tuple(map(_rule, top.tables(key)))


def _rule(table: TomlTable) -> Rule:
    wanted: dict[str, tuple[str | int, ...]] = {}
    for key in RULE_KEYS:
        numeric = key in ("batch", "threads", "tokens")
        values = table.counts(key, ()) if numeric else table.names(key, ())
        if key in table.found:
            wanted[key] = values
    if "scenario" in wanted:  # as results call it, too
        wanted["scenario"] = tuple(CLOSED if v == CLOSED_LOOP else v for v in wanted["scenario"])
    table.check_known()
    measured = [key for key in MEASURED if key in wanted]
    if "dataset" in wanted and measured:
        raise UsageError(
            f"{table.where}: {measured[0]} is of measured cells and dataset of evaluated ones: no "
            f"cell has both, make two rules of it"
        )
    if not wanted:
        raise UsageError(f"{table.where} is empty; say one of {', '.join(RULE_KEYS)}")
    return Rule(wanted)
