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

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clipperf"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS_AND_TOOLS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]
MODULES = [name.removesuffix(".__init__") for name in MODULES]
COMMANDS = ("models", "export", "profile", "eval", "tune", "inspect", "doctor", "report", "size")

LAYERS = {
    "": {""},
    "models": {"", "models"},
    "engines": {"", "engines"},
    "export": {"", "models", "engines", "export"},
    "bench": {"", "models", "engines", "export", "bench"},
    "report": {"", "report"},
    "commands": {"", "models", "engines", "export", "bench", "report", "commands"},
}
"""Folder of a module (the root is "") to the folders that it may import."""

EXTRA = {
    "clipperf/cli.py": set(LAYERS),
    "clipperf/__main__.py": set(LAYERS),
    "clipperf/__init__.py": {"engines"},  # the lazy `clipperf.load`
    "clipperf/engines/pytorch.py": {"models"},
}

HEAVY = frozenset(
    (
        *("torch", "torchvision", "timm", "open_clip", "transformers", "huggingface_hub"),
        *("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "tensorrt"),
        *("tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx", "pycuda"),
        *("cykooz_resizer",),
        *("cuda", "pynvml", "safetensors", "matplotlib"),
    )
)
HEAVY_AT_IMPORT = {
    "clipperf/models/lean.py": {"torch"},
    "clipperf/models/towers.py": {"torch"},
}
NOT_WITHOUT_TORCH = {"clipperf.models.lean", "clipperf.models.towers"}

MAX_LINES = 320
LONGER_FILES = {"clipperf/types.py": 480}  # all the nouns in one place

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


def test_every_folder_is_a_known_layer() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders | {""} == set(LAYERS)
    assert all((ROOT / name).is_file() for name in [*EXTRA, *HEAVY_AT_IMPORT])


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_stay_within_the_layers(path: Path) -> None:
    folder = "" if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0]
    allowed = LAYERS[folder] | EXTRA.get(relative(path), set())
    for node, name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "clipperf":
            continue
        wanted = parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""
        assert wanted in allowed, f"line {node.lineno} imports {name}"
        assert parts[1:2] != ["cli"] or path.name == "__main__.py", f"line {node.lineno}"


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


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_works_without_the_heavy_packages(command: str) -> None:
    words = [*([command] if command else []), "--help"]
    done = python(BLOCK + "from clipperf.__main__ import main; main()", *words)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert not command or f"$ clipperf {command}" in done.stdout, "no example"


def test_commands_of_this_test_are_all_there_are() -> None:
    done = python(
        "import json; from clipperf.cli import app; "
        "print(json.dumps([c.name or c.callback.__name__ for c in app.registered_commands]))"
    )
    assert sorted(json.loads(done.stdout)) == sorted(COMMANDS)


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
        assert not (HEAVY | {"numpy", "PIL", "pydantic"}) & set(loaded)
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
    assert len(path.read_text().splitlines()) <= LONGER_FILES.get(relative(path), MAX_LINES)


@pytest.mark.parametrize("path", [*FILES, *TESTS_AND_TOOLS], ids=relative)
def test_no_paths_of_one_machine(path: Path) -> None:
    # Built from parts, so that this file does not find itself.
    found = re.findall(rf"/(?:{'|'.join(('work', 'home', 'root', 'Users'))})/\w+", path.read_text())
    assert not found
