"""`clipperf profile`: what towers cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.commands.data_options import SkipUnreadable
from clipperf.commands.endpoint_options import (
    Connections,
    EndpointUrl,
    ProtocolName,
    ServedAs,
    endpoint_target,
    refuse_without,
)
from clipperf.commands.instance_options import Devices, Instances, side_by_side
from clipperf.commands.memory_options import RamWithin, VramWithin, within
from clipperf.commands.model_options import ContextLength, ImageSize, Models, Pretrained
from clipperf.commands.options import (
    PRECISION_NAMES,
    Inputs,
    JsonFile,
    Quiet,
    Threads,
    TowerChoice,
    command_line,
    names,
    numbers,
    open_target,
    pixel_dtypes,
    print_json,
    print_tables,
    prints_json,
    sides,
    tell_lines,
)
from clipperf.commands.serving_options import (
    CLOSED,
    Batches,
    LatencyBound,
    MaxBatch,
    MaxDelayMs,
    Rate,
    ScenarioChoice,
    offered,
)
from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.from_files import FROM_FILES, FileWork
from clipperf.system.terminal import tell

if TYPE_CHECKING:
    from clipperf.bench.cost import Limits
    from clipperf.nouns.result import ResultFile

EXAMPLES = (
    "clipperf profile",
    "clipperf profile ViT-B-32 --pretrained random --runtime torch,onnx --batch 1,8,32",
    "clipperf profile --tower text --tokens 8,77 --json profile.json",
    "clipperf profile ViT-B-32 --pretrained random --compare-published",
    "clipperf profile ViT-B-32 --batch 1,8,32,128 --ram-gb 4",
    "clipperf profile ViT-B-32 --runtime onnx --instances 1,2,4",
    "clipperf profile --from-files ./photos --batch 1,8",
    "clipperf profile ViT-B-32 --runtime onnx --scenario server --slo-ms 50",
    "clipperf profile ViT-B-32 --endpoint http://localhost:8000 --scenario server --slo-ms 50",
)


USUAL = ("torch", "onnx")
"""The runtimes where nothing can be said of the machine that measures."""


def command(
    models: Models = None,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--runtime",
            help="Runtimes, with commas: torch,onnx. clipperf doctor lists all. Default: torch and "
            "what export --runtime best takes.",
        ),
    ] = None,
    batch: Batches = None,
    tower: TowerChoice = "both",
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--precision",
            help=f"{PRECISION_NAMES}. Default: fp32; without --runtime, the best's.",
        ),
    ] = None,
    tokens: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tokens", help="Lengths of texts; default: the model's context."),
    ] = None,
    input_: Inputs = "float32",
    device: Devices = None,
    threads: Threads = None,
    instances: Instances = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter, wider intervals; fine for a first look.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds that one step of a worker may take.")
    ] = 900.0,
    compare_published: Annotated[
        bool, typer.Option("--compare-published", help="Beside the CLIP-as-service figures.")
    ] = False,
    from_files: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from-files",
            metavar="FOLDER",
            help="Embed the images of a folder instead, and show where the time goes from file to "
            "vector: decoding, resizing, the engine, and how long it waits. With --endpoint: send "
            "these, up to 256 of them.",
        ),
    ] = None,
    preprocess: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--preprocess",
            help="With --from-files: how pixels are made, with commas: exact,fast,draft. Default: "
            "all that are installed.",
        ),
    ] = None,
    preprocess_threads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--preprocess-threads",
            help="With --from-files: on how many threads, with commas; 0: by the caller, before "
            "the engine runs. Default: all cores.",
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    scenario: ScenarioChoice = CLOSED,
    slo_ms: LatencyBound = None,
    max_batch: MaxBatch = None,
    max_delay_ms: MaxDelayMs = None,
    rate: Rate = None,
    ram_gb: RamWithin = None,
    vram_gb: VramWithin = None,
    endpoint: EndpointUrl = None,
    protocol: ProtocolName = None,
    served_as: ServedAs = None,
    connections: Connections = None,
    launcher: Annotated[str, typer.Option("--launcher", hidden=True)] = "local",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure disk, peak RAM and VRAM, load time, latency and throughput of each tower."""
    from dataclasses import replace
    from functools import partial

    from clipperf.bench import cost, prepare
    from clipperf.bench.best import BEST, Choice
    from clipperf.bench.endpoints import profile_endpoint
    from clipperf.bench.jobs import LAUNCHERS
    from clipperf.bench.profile import Sweep, best_of, failures
    from clipperf.bench.profile import profile as run
    from clipperf.nouns.model import Sizes
    from clipperf.nouns.variant import BASELINE_PRECISION, FLOATS
    from clipperf.system.env import available_cores
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.progress import progress

    if not 0 < timeout <= 86400:
        raise UsageError(f"--timeout {timeout}: give seconds above 0, up to a day")
    runtime = None if runtime == BEST else runtime  # which nobody has to say
    asked = None if precision is None else names(precision, "--precision")
    scenario, batches, serving = offered(
        *(scenario, batch, slo_ms, max_batch, max_delay_ms, quick, endpoint is not None, rate)
    )
    driven = FROM_FILES if from_files is not None else scenario
    bounds = within(ram_gb, vram_gb, driven, batches)
    counts, device, places = side_by_side(instances, device, driven)
    sizes = Sizes(image_size, context_length)
    refuse_without(endpoint, protocol=protocol, served_as=served_as, connections=connections)
    choice: Choice[None] | None = None
    if endpoint is not None:
        ours: dict[str, object] = {"--runtime": runtime, "--precision": precision}
        ours |= {"--device": device, "--threads": threads, "--input": input_ != FLOATS[0]}
        ours |= {"--preprocess": preprocess, "--preprocess-threads": preprocess_threads}
        ours |= {"--compare-published": compare_published}
        served = endpoint_target(
            *(endpoint, models, pretrained, sizes, scenario, batches, serving, tower, tokens),
            *(from_files, skip_unreadable, protocol, served_as, connections, ours),
        )
        measure, rows = partial(profile_endpoint, served), served.rows
    else:
        files = _files(from_files, preprocess, preprocess_threads, max(batches), skip_unreadable)
        if files is not None:
            tower = _images_alone(tower, tokens, compare_published, scenario)
            scenario = FROM_FILES
        if serving is not None:
            _check_serving(scenario, compare_published, LAUNCHERS.get(launcher).here)
        sweep = Sweep(
            specs=tuple(prepare.choose_models(models or (), pretrained, sizes)),
            runtimes=USUAL if runtime is None else names(runtime, "--runtime"),
            sides=sides(tower),
            batches=batches,
            precisions=asked or (BASELINE_PRECISION,),
            device=device,
            threads=threads or available_cores(),
            tokens=numbers(tokens, "--tokens") if tokens else None,
            inputs=pixel_dtypes(input_, sides(tower)),
            scenario=scenario,
            files=files,
            serving=serving,
            within=bounds,
            instances=counts,
            places=places,
            divided=threads is None,
        )
        if runtime is None and LAUNCHERS.get(launcher).here:
            with using(), progress(quiet) as bar:
                sweep, choice = best_of(sweep, asked, bar.stage)
        measure, rows = partial(run, sweep), sweep.rows
    with open_target(json, "profile") as target, progress(quiet, total=rows) as bar:

        def on_event(event: Any) -> None:
            (bar.done if event.kind == "measured" else bar.stage)(event.text)

        preset = cost.PRESETS["quick" if quick else "default"]
        settings = replace(preset, timeout_s=timeout)
        result = measure(
            settings,
            launcher=launcher,
            command=command_line(),
            path=target,
            on_event=on_event,
        )
    if prints_json(json):
        print_json(result)
    else:
        _tell(result, compare_published, scenario == CLOSED_LOOP, bounds)
        tell_lines("", *([] if choice is None else choice.lines()), f"result file: {result.path}")
    raise typer.Exit(1 if failures(result) else 0)


def _tell(result: ResultFile, compare_published: bool, gpus: bool, bounds: Limits) -> None:
    """Print the tables of what was measured; `bounds` are those of the largest batches."""
    from clipperf.bench.cost import UNLIMITED
    from clipperf.models.published import basic_statistics
    from clipperf.report.from_files import files_table
    from clipperf.report.gpu import gpu_table
    from clipperf.report.instances import instances_table
    from clipperf.report.largest import largest_of, largest_table, unmeasured, without_line
    from clipperf.report.published import published_table
    from clipperf.report.records import labels_of, merge
    from clipperf.report.serving import serving_table
    from clipperf.report.tables import cost_table

    published = published_table([result], basic_statistics()) if compare_published else None
    limits = (bounds.ram_bytes, bounds.vram_bytes)
    found = largest_of([result], *limits) if bounds != UNLIMITED else ()
    lines = largest_table(found, labels_of([result]))
    main = files_table([result]) or serving_table([result]) or cost_table([result])
    meters = gpu_table([result]) if gpus else None
    beside = instances_table(merge([result]), labels_of([result]))
    tables = (main, beside, lines, meters, published)
    print_tables(*(table for table in tables if table is not None), write=tell)
    said = [without_line(found) if lines is None else "", unmeasured(found, *limits)]
    tell_lines(*filter(None, said))


def _files(
    folder: str | None, methods: str | None, threads: str | None, batch: int, skip: bool
) -> FileWork | None:
    """What --from-files and the options beside it ask for."""
    if folder is None:
        given: dict[str, object] = {"--preprocess": methods, "--preprocess-threads": threads}
        given["--skip-unreadable"] = skip or None
        alone = next((name for name, value in given.items() if value is not None), None)
        if alone is not None:
            raise UsageError(f"{alone} says how files are read: give --from-files FOLDER, too")
        return None
    from clipperf.bench.file_work import file_work

    return file_work(
        folder,
        None if methods is None else names(methods, "--preprocess"),
        None if threads is None else numbers(threads, "--preprocess-threads", least=0),
        batch=batch,
        skip_unreadable=skip,
    )


def _check_serving(scenario: str, compare_published: bool, here: bool) -> None:
    """Whether inputs can be offered, before anything is exported; raises what speaks against it."""
    from clipperf.bench import loadgen

    if compare_published:
        raise UsageError(
            f"no figures of --scenario {scenario} are published: leave out --compare-published"
        )
    if here:
        loadgen.check()


def _images_alone(tower: str, tokens: str | None, compare_published: bool, scenario: str) -> str:
    """The tower that reads files; raises UsageError where something asked for is another's."""
    if tower == "text":
        raise UsageError("--from-files is for image towers: leave out --tower text")
    if tokens is not None:
        raise UsageError("--from-files is for image towers: leave out --tokens")
    if compare_published:
        raise UsageError("no figures from files are published: leave out --compare-published")
    if scenario != CLOSED_LOOP:
        raise UsageError(f"--from-files is a scenario of its own: leave out --scenario {scenario}")
    return "image"
