"""`clipperf eval`: what accuracy they keep."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from clipperf.commands import crossing
from clipperf.commands.data_options import Against, Language, SkipUnreadable, Split
from clipperf.commands.model_options import ContextLength, ImageSize, Models, Pretrained
from clipperf.commands.options import (
    Device,
    Inputs,
    JsonFile,
    Precisions,
    Quiet,
    Runtimes,
    Threads,
    command_line,
    names,
    open_target,
    pixel_dtypes,
    print_json,
    print_tables,
    prints_json,
    tell_lines,
)
from clipperf.commands.ray_options import (
    Ray,
    RayStore,
    check_evaluation,
    machines_of,
)
from clipperf.errors import UsageError
from clipperf.system.terminal import say, tell
from clipperf.text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from clipperf.evals.datasets import Dataset
    from clipperf.evals.evaluate import Failure
    from clipperf.evals.published import PublishedSet
    from clipperf.evals.suites import Wanted
    from clipperf.nouns.result import ResultFile

EXAMPLES = (
    "clipperf eval",
    "clipperf eval clipperf-sample --precision fp32,fp16",
    "clipperf eval ViT-B-32 --pretrained laion2b_s34b_b79k --dataset ./photos",
    "clipperf eval --suite clip-as-service",
    "clipperf eval --index-compat onnx:int8 onnx:fp32 --margin 1pp",
    "clipperf eval ViT-B-32 ViT-L-14 --dataset /shared/photos --ray",
)


SAMPLE = "sample"
USUAL = ("onnx", None, "float32", None, None, None, None, False)


def command(
    models: Models = None,
    pretrained: Pretrained = None,
    image_size: ImageSize = None,
    context_length: ContextLength = None,
    runtime: Runtimes = "onnx",
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="sample, the default; a folder of class folders, or of images with a table of "
            "captions or labels; a WebDataset; what Hugging Face's save_to_disk wrote; Karpathy's "
            "splits; a zip or tar; the TOML of an evaluation of your own; or a published name such "
            "as vtab/cifar10.",
        ),
    ] = None,
    precision: Precisions = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="What to do with the dataset, with commas: zeroshot, retrieval, or one that is "
            "done only where it is asked for: linear-probe, few-shot, geolocation, bias, lexicon. "
            "By default all others that it has data for.",
        ),
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Probe what image towers compute before their projection, as the CLIP paper does "
            "with its ViTs, and not the embeddings: torch, onnx and openvino.",
        ),
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="All datasets of a published table that are on this machine, in place of "
            "--dataset: clip-as-service, clip-paper (Table 4), clip-paper-linear-probe (Table 3), "
            "clip-paper-shift (Table 16), datacomp38; or of a folder of datasets.",
        ),
    ] = None,
    split: Split = None,
    language: Language = None,
    skip_unreadable: SkipUnreadable = False,
    robustness: Annotated[
        str | None,
        typer.Option(
            "--robustness",
            help="A CSV of models' accuracies on imagenet1k and shifted sets, to which the line "
            "is fitted that predicts those of a suite. By default open_clip's published table.",
        ),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            "--margin",
            help="Percentage points that may be lost, such as 0.5pp: the command fails where a "
            "figure is not shown to lose less. Without it verdicts go by 1pp and nothing fails.",
        ),
    ] = None,
    against: Against = None,
    index_compat: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045 - typer reads the annotation at run time
        typer.Option(
            "--index-compat",
            metavar="A B",
            help="Can A search what B has embedded? Each is RUNTIME:PRECISION or an artifact "
            "folder; in place of --runtime and --precision.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images embedded at once.")] = 32,
    input_: Inputs = "float32",
    device: Device = None,
    threads: Threads = None,
    ray: Ray = None,
    ray_store: RayStore = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Check zero-shot and retrieval accuracy of each runtime against PyTorch fp32."""
    from clipperf.bench import prepare
    from clipperf.bench.best import BEST, Choice, best_for
    from clipperf.bench.scoring import Asked, evaluate_away
    from clipperf.evals import evaluate
    from clipperf.evals.against import beside, check_models, whose_prompts, why_nothing
    from clipperf.evals.datasets import load_dataset
    from clipperf.evals.figures import OwnTable, figures_of
    from clipperf.evals.parts import with_tasks
    from clipperf.evals.robustness import (
        BUNDLED,
        bundled_points,
        check_shifted,
        read_points,
        robustness_of,
    )
    from clipperf.evals.suites import TASKS_OF, evaluated, wanted_in
    from clipperf.evals.task import check_features_used
    from clipperf.evals.verdicts import MARGIN, not_equivalent, parse_margin
    from clipperf.nouns.model import Sizes
    from clipperf.nouns.variant import BASELINE_PRECISION, BASELINE_RUNTIME, SIDES
    from clipperf.report.against import against_table
    from clipperf.report.bias import score_tables
    from clipperf.report.robustness import robustness_table
    from clipperf.report.suite import suite_table
    from clipperf.system import store
    from clipperf.system.env import available_cores
    from clipperf.system.housekeeping.in_use import using
    from clipperf.system.progress import progress
    from clipperf.system.targets import expanded
    from clipperf.text import shown

    for name, value in (("--dataset", dataset), ("--suite", suite)):
        if value == "":
            raise UsageError(f"{name} is empty: name one, or leave it out for the bundled sample")
    allowed = MARGIN if margin is None else parse_margin(margin)
    sizes = Sizes(image_size, context_length)
    options: dict[str, Any] = {"skip_unreadable": skip_unreadable, "language": language}
    options |= {"split": split, "among_others": suite is not None}
    check_evaluation(ray, ray_store, device, runtime, index_compat)
    if index_compat is not None:
        given = (runtime, precision, input_, suite, against, task, robustness, features)
        if given != USUAL:
            raise UsageError(
                "--index-compat says what runs, and takes one dataset: leave out --runtime, "
                "--precision, --input, --suite, --task, --against, --robustness and --features"
            )
        cores = crossing.Load(device, threads or available_cores(), batch)
        model = crossing.Model(models or (), pretrained, sizes)
        bound = None if margin is None else allowed
        rest = (dataset or SAMPLE, options, cores, prepare.model_request, bound, json, quiet)
        raise typer.Exit(crossing.run(index_compat, model, *rest))
    _check_together(suite, dataset, robustness, against, json)
    figures = None if against is None else figures_of(against)
    specs = prepare.choose_models(models or (), pretrained, sizes)
    if figures is not None and against is not None:
        check_models(figures, specs, against)
    runtimes = names(runtime, "--runtime")
    asked = None if precision is None else names(precision, "--precision")
    choice: Choice[None] | None = None
    if runtime == BEST:
        with using(), progress(quiet) as bar:
            pixels = pixel_dtypes(input_, SIDES)
            wanted = (specs, SIDES, pixels, (1, batch), asked, device, bar.stage)
            choice = best_for(*wanted, features=bool(features))
        runtimes, asked = (choice.taken.runtime,), asked or (choice.taken.precision,)
    precisions = asked or (BASELINE_PRECISION,)
    devices = prepare.choose_devices([*dict.fromkeys((*runtimes, BASELINE_RUNTIME))], device)
    # Before a large dataset is read; with --ray the machines are asked.
    if ray is None:
        prepare.check_usable(devices)
    prepare.check_precisions(runtimes, precisions)
    named = BASELINE_RUNTIME in runtimes
    baselines = prepare.baseline_precisions(devices[BASELINE_RUNTIME], precisions) if named else ()
    inputs = prepare.choose_inputs(runtimes, pixel_dtypes(input_, SIDES))
    if features:
        prepare.check_features(runtimes)
    tasks = TASKS_OF.get(suite or "", ()) if task is None else names(task, "--task")
    prompts: dict[str, str] = {}
    rows: list[Wanted] = [] if suite is None else wanted_in(suite)
    if robustness is not None:
        check_shifted([row.dataset for row in rows])
    points = bundled_points() if robustness is None else read_points(expanded(robustness))
    with (
        progress(quiet, total=1) as bar,
        machines_of(ray, ray_store, devices, bar.stage) as machines,
        open_target(json, "eval") as target,
    ):

        def load(given: str | Path | PublishedSet) -> Dataset:
            bar.stage(f"reading dataset {shown(given)}")
            found = load_dataset(given, on_stage=bar.stage, **options)
            data = with_tasks(
                found,
                tasks,
                lambda split, part: load_dataset(given, **{**options, "split": split}, part=part),
            )
            if features:
                check_features_used(data)
            return data

        def run(data: Dataset, path: Path | None) -> tuple[ResultFile, list[Failure]]:
            prompts[data.name] = whose_prompts(data)
            if machines is not None:
                cores = machines.environments[0].cores
                wanted = Asked(devices, precisions, baselines, inputs, threads or cores, batch,
                               allowed, features, command_line())  # fmt: skip
                return evaluate_away(machines, specs, data, wanted, path, bar.stage)
            return evaluate.evaluate(
                specs,
                devices,
                data,
                partial(prepare.model_request, features=features),
                precisions=precisions,
                baseline_precisions=baselines,
                inputs=inputs,
                threads=threads or available_cores(),
                batch=batch,
                margin=allowed,
                command=command_line(),
                path=path,
                on_stage=bar.stage,
                progress=bar.at,
            )

        result: ResultFile | None
        if suite is None:
            result, failures = run(load(dataset or SAMPLE), target)
        else:
            path = target or store.new_result_path("eval")
            rows, result, failures = evaluated(rows, load, run, path)
    for failure in failures:
        say(f"failed: {failure.label}: {one_line(failure.reason)}")
    if prints_json(json):
        if result is not None:
            print_json(result)
    elif suite is not None:
        tables = [suite_table(suite, rows, result)]
        above = robustness_of(result.scores, points) if result else []
        if above:
            tables.append(robustness_table(above, robustness or BUNDLED))
        print_tables(*tables, write=tell)
    elif result is not None and result.scores:
        print_tables(*score_tables([result]), write=tell)
    unlike = ""
    if result is not None and result.scores and not prints_json(json):
        if figures is not None and against is not None:
            near = beside(result.scores, specs, figures, prompts)
            if near or not isinstance(figures, OwnTable):
                print_tables(against_table(near, against), write=tell)
            else:
                unlike = f"--against {against}: {why_nothing(figures, result.scores, specs)}"
        tell_lines("", *([] if choice is None else choice.lines()), f"result file: {result.path}")
    if unlike:
        say(one_line(unlike))
    short = [] if margin is None else not_equivalent(result.scores if result else ())
    for line in short:
        say(f"not equivalent: {one_line(line)}")
    raise typer.Exit(1 if failures or short or unlike else 0)


def _check_together(
    suite: str | None,
    dataset: str | None,
    robustness: str | None,
    against: str | None,
    json: Path | None,
) -> None:
    """Raise UsageError where one option makes another mean nothing."""
    if suite is not None and dataset is not None:
        raise UsageError("--suite says which datasets there are: leave out --dataset")
    if robustness is not None and suite is None:
        raise UsageError("--robustness is of the datasets of a suite: give --suite, too")
    for name, value in (("--against", against), ("--robustness", robustness)):
        if value is not None and prints_json(json):
            said = f"{name} prints a table, and --json - prints JSON"
            raise UsageError(f"{said} in place of tables: give --json FILE")
