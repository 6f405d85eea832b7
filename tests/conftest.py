"""Fixtures that several test modules share."""

from __future__ import annotations

import csv
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from filelock import FileLock
from packages import write_package

from clipperf import registry
from clipperf.evals.place import SAMPLE
from clipperf.export.make import make
from clipperf.models import sample, zoo
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Variant
from clipperf.system import env, gpus, store
from clipperf.system.temporaries import PREFIX

# Started with nohup or in a script's background, tests would inherit that SIGHUP or SIGINT is
# ignored, and so would what they send it to.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300

WEIGHTS = "model.safetensors"
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SITECUSTOMIZE = """
import os
from pathlib import Path
if "CLIPPERF_TEST_SAMPLE" in os.environ:
    from clipperf.models import sample
    sample.folder = lambda: Path(os.environ["CLIPPERF_TEST_SAMPLE"])
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

LONG_FILES = tuple(
    f"{name}.py"
    for name in (
        *("test_readme", "test_demo", "test_exporters_tensorrt", "test_deployments_triton"),
        *("test_exporters_onnx", "test_first_gpu_run", "test_deploying", "test_finders"),
        *("test_launchers_ray", "test_exporters_tensorrt_families", "test_deployments_tools"),
        *("test_uint8", "test_exporters_tensorrt_models", "test_tune", "test_exporters_quantized"),
        *("test_openvino", "test_evaluate", "test_make", "test_tensorrt_rules", "test_suites"),
        *("test_profile_beside", "test_machines", "test_best", "test_profile", "test_kept"),
        *("test_exporter_features", "test_families_mclip", "test_tensorrt_parser", "test_sample"),
    )
)
"""Those that take minutes, the longest first: two processes that share the files end together."""

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
"""Where its user has a token, Ray would ask for it of clusters that tests start without one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files."""
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test with a longer limit of its own reach it: `faulthandler_timeout` ends processes."""
    own, usual = item.get_closest_marker("timeout"), float(item.config.getini("timeout"))
    if own is not None and own.args[0] > usual:
        file = item.config.stash[fault_handler_stderr_fd_key]
        later_s = float(item.config.getini("faulthandler_timeout")) - usual
        faulthandler.dump_traceback_later(own.args[0] + later_s, exit=True, file=file)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of this test alone."""
    path = tmp_path / "home"
    monkeypatch.setenv("CLIPPERF_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def common(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes among which the tests are shared out: it has what they copy."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def made_once(common: Path) -> Callable[[Variant], Path]:
    """The folder of the sample in a variant, both towers, made once for all processes; copy it."""

    def made(variant: Variant) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLIPPERF_HOME", str(common / "store"))
            return make(zoo.resolve("clipperf-sample"), ("image", "text"), variant).folder

    return made


@pytest.fixture(scope="session")
def sample_artifact(
    made_once: Callable[[Variant], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundled sample exported once, both towers in fp32.

    Read it, copy it, derive defaults into its store; a test that changes or counts what is there
    takes a `store_of` it.
    """
    return store_of(
        made_once(Variant("onnx")), tmp_path_factory.mktemp("session-home"), graphs=True
    )


@pytest.fixture(scope="session")
def sample_in(made_once: Callable[[Variant], Path], sample_artifact: Path) -> Callable[[str], Path]:
    """`sample_in("int8")` is the sample in a precision, in the store of `sample_artifact`."""

    def made(precision: str) -> Path:
        variant, home = Variant("onnx", precision), sample_artifact.parents[3]
        first = made_once(variant)
        if not (home / first.relative_to(first.parents[3])).exists():
            store_of(first, home)
        with pytest.MonkeyPatch.context() as patch:  # of one that is there a tower may be missing
            patch.setenv("CLIPPERF_HOME", str(home))
            return make(zoo.resolve("clipperf-sample"), ("image", "text"), variant).folder

    return made


@pytest.fixture(scope="session")
def best_store(sample_artifact: Path, common: Path) -> Path:
    """A store to copy, in which the sample is in what is best here, too, made as a user does."""

    def fill(home: Path) -> None:
        store_of(sample_artifact, home, graphs=True)
        words = ("export", "clipperf-sample", "--runtime", "best", "--quiet")
        done = subprocess.run(
            [sys.executable, "-m", "clipperf", *words],
            capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT,
            env={**os.environ, "CLIPPERF_HOME": str(home)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return once(common, "best", fill)


@pytest.fixture(scope="session")
def layouts_store(sample_artifact: Path, common: Path) -> Path:
    """A store to copy that has whatever `--layout transformers` takes in fp32, fp16 and int8."""
    from clipperf.export.deployment import lay_out

    def fill(home: Path) -> None:
        store_of(sample_artifact, home, graphs=True)
        variants = [Variant("onnx", precision) for precision in ("fp32", "fp16", "int8")]
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as out:
            patch.setenv("CLIPPERF_HOME", str(home))
            spec = zoo.resolve("clipperf-sample")
            lay_out("transformers", spec, ("image", "text"), variants, Path(out) / "laid")

    return once(common, "layouts", fill)


@pytest.fixture
def cli(home: Path) -> Cli:
    """`cli("models", "--json")` runs the command line in a process of its own."""

    def run(*args: object, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "clipperf", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=options.pop("timeout", TIMEOUT_S),
            cwd=ROOT,
            env={**os.environ, "CLIPPERF_HOME": str(options.pop("home", home))},
            **options,
        )
        assert not check or done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
        return done

    return run


Become = Callable[[Sequence[str]], None]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """`become(flags)` makes this machine's processor one that has these instruction sets."""

    def given(flags: Sequence[str]) -> None:
        monkeypatch.setattr(env, "cpu_flags", lambda: frozenset(flags))

    return given


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(name, code, points)`: a package of one module, for this test and its processes.

    `points` are the package's entry points by group and name; more arguments are folders to
    import from.
    """
    site = tmp_path / "site-packages"

    def package(name: str, code: str, points: dict[str, dict[str, str]], *also: str) -> None:
        sections = (
            "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in named.items())])
            for group, named in points.items()
        )
        write_package(site, name, code, "\n".join(sections) + "\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(site), *also, str(ROOT))))
        monkeypatch.syspath_prepend(str(site))
        registry.entry_points.cache_clear()

    yield package
    registry.entry_points.cache_clear()


@pytest.fixture
def clip_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, which is skipped where it is not installed.

    Its `accuracy` makes a float of an array [1], which numpy refuses from 2.4 on; only there, the
    same hits are counted in its place.
    """
    import numpy as np

    reason = "the package clip-benchmark is not installed"
    module = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification", reason=reason)

    def accuracy(output: Any, target: Any, topk: Sequence[int] = (1,)) -> list[float]:
        best = output.topk(max(topk), 1, True, True)[1]
        return [(best[:, :k] == target[:, None]).any(1).double().mean().item() for k in topk]

    try:
        float(np.ones(1))
    except TypeError:
        monkeypatch.setattr(module, "accuracy", accuracy)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 24 captioned images of the bundled sample."""
    folder = tmp_path_factory.mktemp("samples")
    with zipfile.ZipFile(SAMPLE) as archive:
        archive.extractall(folder / "all")
    images = sorted((folder / "all" / "images").iterdir())[::66][:24]
    (folder / "few").mkdir()
    with (folder / "few" / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i, image in enumerate(images):
            image.rename(folder / "few" / image.name)
            rows.writerow([image.name, f"drawing {i}"])
    return str(folder / "few")


# --- a tiny model in the place of the sample ----------------------------------------------


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders "a" and "b": one tiny architecture with two sets of weights of equal size."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("checkpoints")
    (root / "sitecustomize.py").write_text(SITECUSTOMIZE)
    preprocess = {**sample.config()["preprocess_cfg"], "size": 32}
    for seed, name in enumerate(("a", "b")):
        (root / name).mkdir()
        torch.manual_seed(seed)
        state = open_clip.CLIP(**TINY).state_dict()  # type: ignore[arg-type]
        save_file({key: value.half() for key, value in state.items()}, root / name / WEIGHTS)
        config = {"model_cfg": {**TINY, "quick_gelu": False}, "preprocess_cfg": preprocess}
        (root / name / "open_clip_config.json").write_text(json.dumps(config))
        for file in ("eval.zip", *sample.NOTICES):
            (root / name / file).symlink_to(sample.folder() / file)
    return root


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModelSpec:
    """Let the tiny model in `folder` be the sample."""
    monkeypatch.setenv("CLIPPERF_TEST_SAMPLE", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder.parent), str(ROOT))))
    monkeypatch.setattr(sample, "folder", lambda: Path(os.environ["CLIPPERF_TEST_SAMPLE"]))
    return zoo.resolve(sample.NAME)


@pytest.fixture
def tiny(checkpoints: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelSpec]:
    """The tiny model "a" in the place of the sample, and an empty store."""
    yield use(monkeypatch, checkpoints / "a")
    monkeypatch.undo()


@pytest.fixture(scope="session")
def exported_once(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the image tower of "a"."""
    root = tmp_path_factory.mktemp("tiny-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(root))
        make(use(patch, checkpoints / "a"), ("image",), Variant("onnx"))
    return root


@pytest.fixture(scope="module")
def toy_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The architectures of `toy_models` are open_clip's, and PyTorch has one thread."""
    import torch
    from toy_models import registered

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with registered(tmp_path_factory.mktemp("model_configs")):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", mount], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def once(common: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder in `common`, which the first process that asks for it fills."""
    folder, making = common / name, common / f"making-{name}"
    with FileLock(common / f"{name}.lock"):
        if not folder.exists():
            shutil.rmtree(making, ignore_errors=True)
            fill(making)
            making.rename(folder)
    return folder


def store_of(artifact: Path, home: Path, *, graphs: bool = False) -> Path:
    """A store of this artifact alone, whatever tests before have derived from it; its folder.

    With `graphs` it has those that are kept of it, too, so that no other form has to be traced.
    """
    store = artifact.parents[3]
    folder = home / artifact.relative_to(store)
    shutil.copytree(artifact, folder)
    if graphs:
        shutil.copytree(store / "graphs", home / "graphs", ignore=shutil.ignore_patterns(".*"))
    return folder


# --- folders and processes -----------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name.startswith(PREFIX)]


def assert_usable(folder: Path) -> None:
    assert store.check_files(folder, store.read_manifest(folder), content=True) == []
    assert not leftovers(folder.parent)


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clipperf", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def only_locks(folder: Path) -> bool:
    return all(path.name.endswith(".lock") for path in folder.rglob("*"))


def as_another_user(code: str) -> subprocess.CompletedProcess[str]:
    """Run code that becomes the user 54321, whose the folder is that it is given."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as folder:  # whose parents all users may search
        os.chown(folder, 54321, 54321)
        return subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60
        )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, which is another file system than the tests' folder."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        pytest.skip("there is no /dev/shm that can be written")
    if shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm and the tests' folder are one file system")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


PINNED: dict[str, str] = {}
"""What `one_gpu` has set once: CUDA reads it when it is first used in a process."""


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """The GPU that is described and metered is CUDA's only one, here and in children.

    CUDA's first is else the fastest, NVML's the first on the bus.
    """
    names = (gpus.VISIBLE, gpus.ORDER, gpus.PINNED)
    before = {name: os.environ.get(name) for name in names}
    if PINNED:
        os.environ.update(PINNED)
    else:
        gpus.pin("cuda")
        PINNED.update({name: os.environ[name] for name in before if name in os.environ})
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        os.environ |= {} if value is None else {name: value}
