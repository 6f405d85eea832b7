"""The shape of the package: who imports whom, what a light installation can do, file sizes."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipperf.engines.contract import RUNTIMES
from clipperf.nouns.variant import PRECISIONS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clipperf"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS_AND_TOOLS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]
MODULES = [name.removesuffix(".__init__") for name in MODULES]
COMMANDS = (
    *("models", "export", "profile", "eval", "tune", "inspect", "doctor", "report", "size"),
    *("overlap", "compare", "store", "embed", "results", "sweep"),
)

FLOORS = (
    ("",),
    ("nouns",),
    ("system",),
    ("inputs",),
    ("models",),
    ("graph", "engines"),
    ("serve", "inspect"),
    ("evals", "adapters", "embed"),
    ("export",),
    ("bench", "report"),
    ("commands",),
)
"""The rooms from the ground ("", the files of the package itself) up; those of a floor know nothing
of each other, and each may import what lies below it."""

ROOF = ("clipperf/__init__.py", "clipperf/cli.py", "clipperf/__main__.py")
"""Files of the package itself that lie above all rooms."""

HEAVY = frozenset(
    (
        *("torch", "torchvision", "timm", "open_clip", "transformers", "huggingface_hub"),
        *("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "tensorrt"),
        *("tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx", "pycuda"),
        *("cykooz_resizer", "pyarrow", "datasets", "clip_benchmark", "mteb", "scipy", "sklearn"),
        *("cuda", "pynvml", "safetensors", "matplotlib", "urllib3"),
        *("ray", "fsspec"),
    )
)
HEAVY_AT_IMPORT = {
    "clipperf/models/lean.py": {"torch"},
    "clipperf/models/towers.py": {"torch"},
    "clipperf/models/transformers_mean.py": {"torch"},
    "clipperf/models/transformers_towers.py": {"torch"},
}
NOT_WITHOUT_TORCH = {path.removesuffix(".py").replace("/", ".") for path in HEAVY_AT_IMPORT}

MAX_LINES = 320

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HEAVY)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())
"""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported dotted name in a tree, `from a import b` as "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def at_import_time(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported; not what is only there for type checks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from at_import_time(node)


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


# --- who imports whom ----------------------------------------------------------------------


def floor_of(name: str) -> int:
    """The floor of a dotted module name's room."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def modules_imported(path: Path) -> set[str]:
    """The modules of clipperf that a file imports anywhere, in functions too."""
    found = set()
    for _, name in imports(ast.parse(path.read_text())):
        if name.partition(".")[0] == "clipperf":
            while name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found


IMPORTED = {
    name: modules_imported(path) - {"clipperf"} for name, path in zip(MODULES, FILES, strict=True)
}


def test_every_folder_is_a_room() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders | {""} == {room for rooms in FLOORS for room in rooms}
    assert all((ROOT / name).is_file() for name in [*ROOF, *HEAVY_AT_IMPORT])


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_import_goes_up_or_aside(path: Path) -> None:
    if relative(path) in ROOF:
        return
    name = MODULES[FILES.index(path)]
    own = name.split(".")[1] if path.parent != PACKAGE else ""
    for other in IMPORTED[name]:
        room = other.split(".")[1] if (PACKAGE / other.split(".")[1]).is_dir() else ""
        assert room == own or floor_of(other) < floor_of(name), f"imports {other}"
        assert other not in ("clipperf.cli", "clipperf.__main__")


def test_no_circle_of_imports() -> None:
    """Not even through functions: what is left after taking away modules that need nothing."""
    left = {name: set(others) - {name} for name, others in IMPORTED.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not {name: sorted(others & left.keys()) for name, others in left.items()}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nobody_imports_what_another_file_keeps_to_itself(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clipperf"):
            words = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            private = [w for w in words if w.startswith("_") and not w.startswith("__")]
            assert not private, f"line {node.lineno} imports {private}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nobody_compares_the_names_of_precisions_or_runtimes(path: Path) -> None:
    """What matters of one is a field of its record: a name would leave out those to come.

    A runtime's own room may tell its flavours apart.
    """
    own = path.relative_to(PACKAGE).parts[0] == "engines"
    names = set(PRECISIONS.own()) | (set() if own else set(RUNTIMES.own()))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare) and "sys.modules" not in ast.unparse(node):
            words = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
            assert not words & names, f"line {node.lineno}: {ast.unparse(node)}"


def test_tests_mirror_the_package() -> None:
    """A test's folder is a room, and its name starts with a module or folder in it."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = PACKAGE / path.parent.relative_to(ROOT / "tests")
        if folder == PACKAGE:
            continue
        subjects = [p.stem for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()]
        name = path.stem.removeprefix("test_")
        assert any(f"{name}_".startswith(f"{subject}_") for subject in subjects), relative(path)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_heavy_packages_are_imported_inside_functions(path: Path) -> None:
    allowed = HEAVY_AT_IMPORT.get(relative(path), set())
    for statement in at_import_time(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found = {name.partition(".")[0] for _, name in imports(statement)}
            assert not (found & HEAVY) - allowed, f"line {statement.lineno}"


# --- a light installation ------------------------------------------------------------------


def test_every_module_imports_without_the_heavy_packages() -> None:
    done = python(
        BLOCK
        + textwrap.dedent("""
        import importlib, json
        failed = {}
        for name in json.loads(sys.argv[1]):
            try:
                importlib.import_module(name)
            except ImportError as exc:
                failed[name] = str(exc)
        print(json.dumps(failed))
        """),
        json.dumps([name for name in MODULES if name != "clipperf.__main__"]),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == NOT_WITHOUT_TORCH


PARTS = ("store verify", "store gc", "store du", "results merge")
"""The commands of groups."""


@pytest.mark.parametrize("command", ["", *COMMANDS, *PARTS])
def test_help_works_without_the_heavy_packages(command: str) -> None:
    words = [*command.split(), "--help"]
    done = python(BLOCK + "from clipperf.__main__ import main; main()", *words)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert not command or f"$ clipperf {command}" in done.stdout, "no example"


def test_commands_of_this_test_are_all_there_are() -> None:
    done = python(
        "import json; from clipperf.cli import app; "
        "groups = {g.name: g.typer_instance.registered_commands for g in app.registered_groups}; "
        "print(json.dumps([[c.name for c in app.registered_commands] + list(groups), "
        "[f'{name} {c.name}' for name, parts in groups.items() for c in parts]]))"
    )
    commands, parts = json.loads(done.stdout)
    assert sorted(commands) == sorted(COMMANDS)
    assert sorted(parts) == sorted(PARTS)


def test_help_takes_under_half_a_second_of_cpu_and_loads_nothing_heavy() -> None:
    code = """
    import sys, time
    from clipperf.__main__ import main
    try:
        main()
    except SystemExit:
        pass
    print(time.process_time(), *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
    """
    seconds = []
    for _ in range(5):
        done = python(code, "--help")
        taken, *loaded = done.stderr.split()
        assert "clipperf" in loaded
        assert not (HEAVY | {"numpy", "PIL", "msgspec", "jinja2"}) & set(loaded)
        seconds.append(float(taken))
    assert statistics.median(seconds) < 0.5, seconds


# --- what every file keeps to --------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has none"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    assert not missing


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [*FILES, *TESTS_AND_TOOLS], ids=relative)
def test_no_paths_of_one_machine(path: Path) -> None:
    # Built from parts, so that this file does not find itself.
    found = re.findall(rf"/(?:{'|'.join(('work', 'home', 'root', 'Users'))})/\w+", path.read_text())
    assert not found
