"""The real Python bindings of several TensorRTs, without the libraries behind them.

PyPI has the bindings, which are small, and NVIDIA's own index the libraries. Of these the bindings
take nine functions, for which a stub stands: then they can be imported and looked at. Whatever name
of TensorRT's the code uses must be there in each version, with the same parameters. Those that
come and go are asked for by name and listed below. Bindings that cannot be fetched are a failure:
none of these is on NVIDIA's own index alone.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Container, Iterator
from typing import Any

import pytest
import stub_cuda
from conftest import ROOT

VERSIONS = {
    "10.13": ("tensorrt-cu13-bindings==10.13.3.9", "tensorrt_bindings"),
    "10.14": ("tensorrt-cu13-bindings==10.14.1.48.post1", "tensorrt_bindings"),
    "10.16": ("tensorrt-cu13-bindings==10.16.1.11", "tensorrt_bindings"),
    "11.0": ("tensorrt-cu13-bindings==11.0.0.114", "tensorrt_bindings"),
    "11": ("tensorrt-cu13-bindings>=11,<12", "tensorrt_bindings"),
    "rtx": ("tensorrt-rtx-cu13-bindings>=1.7,<2", "tensorrt_rtx_bindings"),
}
"""One below the lowest that can be installed whole, that one, the last of its kind, the first of
the next, and the newest."""

SOURCES = ("clipperf/engines/tensorrt", "clipperf/export/jobs/plan.py")

CLASSES = (
    "Builder", "INetworkDefinition", "OnnxParser", "ParserError", "IBuilderConfig",
    "IOptimizationProfile", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig",
    "IHostMemory", "ITimingCache", "ITensor", "ILogger", "IStreamWriter", "IRuntimeCache", "Dims",
)  # fmt: skip

OPTIONAL = {
    "ComputeCapability", "IRuntimeCache", "create_runtime_cache", "set_runtime_cache",
    "num_compute_capabilities", "set_compute_capability", "is_stream_capturable",
    "DynamicShapesKernelSpecializationStrategy", "dynamic_shapes_kernel_specialization_strategy",
    "get_engine_stat",
}  # fmt: skip
"""What only some flavours and versions have: the code looks before it uses them."""

LOOK = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {"module": sorted(dir(module)), "version": module.__version__, "classes": {}, "enums": {}}
for name in sys.argv[2].split(","):
    one = getattr(module, name, None)
    if one is not None:
        own = [n for n in dir(one) if n[0] != "_" or n == "__init__"]
        found["classes"][name] = {n: getattr(one, n).__doc__ or "" for n in own}
for name in dir(module):
    members = getattr(getattr(module, name), "__members__", None)
    if members is not None:
        found["enums"][name] = sorted(members)
print(json.dumps(found))
"""

Seen = dict[str, Any]


@functools.cache
def seen(version: str) -> Seen:
    """What the bindings of a version offer; fails where they cannot be had."""
    if sysconfig.get_platform() != "linux-x86_64":
        pytest.skip("the bindings are for Linux on x86-64")
    if (tool := stub_cuda.missing_tool()) is not None:
        pytest.skip(f"{tool} is not installed")
    wanted, package = VERSIONS[version]
    folder = ROOT / "build" / "bindings" / f"{version}-{sys.version_info[1]}"
    if not folder.exists():
        shutil.rmtree(folder.with_suffix(".part"), ignore_errors=True)
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*words, "--dest", str(folder.with_suffix(".part")), wanted],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"{wanted} cannot be fetched: {done.stderr.strip()[-600:]}")
        (wheel,) = folder.with_suffix(".part").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder.with_suffix(".part"))
        folder.with_suffix(".part").replace(folder)
    (library,) = folder.glob("*_bindings/*.so")
    env = stub_cuda.build_named(folder, library)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, package, ",".join(CLASSES)],
        env=env | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: Seen = json.loads(done.stdout.splitlines()[-1])
    return found


# --- what the code uses --------------------------------------------------------------------


@functools.cache
def trees() -> tuple[ast.Module, ...]:
    files = [p for s in SOURCES for p in ((ROOT / s).glob("*.py") if "." not in s else [ROOT / s])]
    assert len(files) > 4
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in files)


Scope = tuple[int, str]
"""A tree's place and the function in it, "" for what stands outside of all."""


def walked(tree: ast.AST, inside: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the outermost function or method that it stands in."""
    for node in ast.iter_child_nodes(tree):
        yield node, inside
        own = isinstance(node, ast.FunctionDef) and not inside
        yield from walked(node, node.name if own else inside)  # type: ignore[attr-defined]


@functools.cache
def modules() -> frozenset[tuple[Scope, str]]:
    """Every variable that holds TensorRT's module, with where it does.

    It is imported, loaded (`load`, `import_module`), another one of these, or a parameter of a
    function that is called with one.
    """
    nodes = [((n, f), node) for n, tree in enumerate(trees()) for node, f in walked(tree)]
    functions = {
        node.name: (scope[0], [arg.arg for arg in node.args.args])
        for scope, node in nodes
        if isinstance(node, ast.FunctionDef)
    }
    found: set[tuple[Scope, str]] = set()
    size = -1
    while size != len(found):
        size = len(found)
        for scope, node in nodes:
            if isinstance(node, ast.Import):
                names = (a for a in node.names if a.name.split(".")[0] == "tensorrt")
                found |= {(scope, a.asname or a.name) for a in names}
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if is_module(node.value, scope, found):
                    found |= {(scope, t.id) for t in targets if isinstance(t, ast.Name)}
            if isinstance(node, ast.Call) and (name := called(node)) in functions:
                place, parameters = functions[name]
                for parameter, given in zip(parameters, node.args, strict=False):
                    if is_module(given, scope, found):
                        found.add(((place, name), parameter))
    return frozenset(found)


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_module(node: ast.AST | None, scope: Scope, known: Container[tuple[Scope, str]]) -> bool:
    """Whether an expression is TensorRT's module."""
    if isinstance(node, ast.Name):
        return (scope, node.id) in known or ((scope[0], ""), node.id) in known
    if isinstance(node, ast.Call):
        # Another library's module is imported by a name that stands there.
        constant = any(isinstance(arg, ast.Constant) for arg in node.args)
        return called(node) == "load" or (called(node) == "import_module" and not constant)
    return False


@functools.cache
def chains() -> set[tuple[str, ...]]:
    """Such as ("BuilderFlag", "TF32") of `trt.BuilderFlag.TF32`, whatever the module is called."""
    found = set()
    for number, tree in enumerate(trees()):
        for node, function in walked(tree):
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts.insert(0, node.attr)
                node = node.value
            if parts and is_module(node, (number, function), modules()):
                found.add(tuple(parts))
    return found


@functools.cache
def asked() -> set[str]:
    """Names that the module is asked for: `getattr(module, "X", None)`, `hasattr(module, "X")`."""
    found = set()
    for number, tree in enumerate(trees()):
        for node, function in walked(tree):
            if (
                isinstance(node, ast.Call)
                and called(node) in ("getattr", "hasattr")
                and is_module(node.args[0], (number, function), modules())
            ):
                assert isinstance(node.args[1], ast.Constant), "a name that stands there"
                found.add(str(node.args[1].value))
    return found


@functools.cache
def attributes() -> set[str]:
    """Every attribute that is read or called of anything, and every name in quotes."""
    nodes = [node for tree in trees() for node in ast.walk(tree)]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return named | {
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


@functools.cache
def constructed() -> set[str]:
    """The classes that are constructed: `trt.Runtime(logger)`, `trt.ILogger.__init__(self)`."""
    calls = {
        node.func
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    named = {function.attr for function in calls}
    named |= {
        f.value.attr for f in calls if f.attr == "__init__" and isinstance(f.value, ast.Attribute)
    }
    return named & {first for first, *_ in chains()} & set(CLASSES)


def used(found: Seen) -> dict[tuple[str, str], tuple[str, ...]]:
    """By class and name, the signatures that a version says of each that the code uses.

    Of a property there is none; of a class it is of its constructor, where the code calls that.
    """
    return {
        (owner, name): signatures(says)
        for owner, members in found["classes"].items()
        for name, says in members.items()
        if (owner in constructed() if name == "__init__" else name in attributes())
    }


def signatures(says: str) -> tuple[str, ...]:
    """What a docstring of pybind11 says that a method takes, by each of its overloads."""
    first, *rest = says.splitlines() or [""]
    if "(*args, **kwargs)" not in first:
        return (taken(first),) if "(" in first else ()
    numbered = (re.match(r"\d+\. (\w+\(.*)", line) for line in rest)
    return tuple(taken(match[1]) for match in numbered if match)


def taken(line: str) -> str:
    """The parameters of a signature with the last names of their types, without defaults."""
    inside = re.search(r"\((.*)\)", line)
    assert inside is not None, line
    # Defaults and types may hold commas.
    plain = re.sub(r" = (\([^)]*\)|<[^>]*>|\[[^]]*\]|[^,]*)|\[[^]]*\]", "", inside[1])
    parts = (part.strip() for part in plain.split(","))
    named = (re.sub(r": .*?(\w+)$", r": \1", part) for part in parts if part)
    plain = ", ".join(part for part in named if not part.startswith("self")).lower()
    return plain.replace(": sequence", ": list")  # as later pybind11s call it


# --- in every version ----------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_and_member_is_there(version: str) -> None:
    found = seen(version)
    names = chains()
    assert ("BuilderFlag", "TF32") in names
    assert ("Runtime",) in names
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in names, "of `module`"
    assert ("DynamicShapesKernelSpecializationStrategy", "EAGER") in names, "of `module`"
    for first, *rest in names:
        if first in OPTIONAL and first not in found["module"]:
            continue
        assert first in found["module"], f"trt.{first} is not in {found['version']}"
        if rest and first in found["enums"] and not rest[0].startswith("_"):
            assert rest[0] in found["enums"][first], f"trt.{first}.{rest[0]}"


OVERLOADS = {
    ("Dims", "__init__"): {"shape: list"},
    ("ICudaEngine", "create_execution_context"): {
        "strategy: executioncontextallocationstrategy", "runtime_config: iruntimeconfig",
    },
    ("Runtime", "deserialize_cuda_engine"): {"serialized_engine: buffer"},
    ("IExecutionContext", "set_input_shape"): {"name: str, shape: tuple"},
}  # fmt: skip
"""Which ways the code calls what can be called in several; others come and go."""


def differing(before: tuple[str, ...], now: tuple[str, ...], pair: tuple[str, str]) -> str:
    """How a version's signatures do not fit the ones of another; empty where they do."""
    if pair in OVERLOADS:
        lacking = OVERLOADS[pair] - set(now)
        return f"no {sorted(lacking)} in {now}" if lacking else ""
    names = [[re.sub(r": \w+", "", line) for line in lines] for lines in (before, now)]
    return "" if names[0] == names[1] else f"{before} became {now}"


@pytest.mark.parametrize("version", VERSIONS)
def test_no_method_is_gone_or_takes_other_parameters(version: str) -> None:
    before, now = used(seen("10.14")), used(seen(version))
    must = {
        ("IExecutionContext", name)
        for name in ("set_input_shape", "set_tensor_address", "execute_async_v3")
    } | {
        ("Runtime", "deserialize_cuda_engine"), ("OnnxParser", "parse_from_file"),
        ("IOptimizationProfile", "set_shape"), ("IBuilderConfig", "set_memory_pool_limit"),
        *((name, "__init__") for name in ("Builder", "ILogger", "OnnxParser", "Runtime")),
    }  # fmt: skip
    assert must <= set(before), "what the code uses is found"
    optional = {pair for pair in before if OPTIONAL & set(pair)}
    gone = {pair for pair in before if pair not in now} - optional
    assert not gone, f"not in {seen(version)['version']}: {sorted(gone)}"
    for pair in before.keys() & now.keys():
        assert not (said := differing(before[pair], now[pair], pair)), (pair, said)


def test_what_is_optional_takes_the_same_wherever_it_is() -> None:
    found = [used(seen(version)) for version in VERSIONS]
    optional = {pair for own in found for pair in own if OPTIONAL & set(pair)}
    assert ("IExecutionContext", "is_stream_capturable") in optional
    for pair in optional:
        first, *others = (own[pair] for own in found if pair in own)
        for other in others:
            assert not (said := differing(first, other, pair)), (pair, said)


def test_each_way_of_calling_what_has_several_is_looked_at() -> None:
    """A method that is overloaded in any version is in the table of the ways that are used."""
    several = {
        pair for version in VERSIONS for pair, ways in used(seen(version)).items() if len(ways) > 1
    }
    assert several == set(OVERLOADS)


def test_an_overload_that_is_gone_or_takes_something_else_is_seen() -> None:
    says = """go(*args, **kwargs)
Overloaded function.

1. go(self: a.b.C, name: str, shape: a.tuple = (1, 2)) -> bool

    Words.

2. go(self: a.b.C, how: a.How = <How.A: 0>)"""
    ways = signatures(says)
    assert ways == ("name: str, shape: tuple", "how: how")
    pair = ("IExecutionContext", "set_input_shape")
    assert differing(ways, ways, pair) == ""
    assert "no ['name: str, shape: tuple']" in differing(ways, ways[1:], pair)
    assert "no" in differing(ways, ("name: str, shape: dims",), pair)
    other = ("Runtime", "__init__")
    assert differing(("logger: ilogger",), ("logger: ilogger2",), other) == ""
    assert "became" in differing(("logger: ilogger",), ("logger: ilogger, more: int",), other)
    assert signatures("A property.") == () == signatures("")


def test_what_is_optional_is_somewhere_and_not_everywhere() -> None:
    every = [seen(version) for version in VERSIONS]
    for name in OPTIONAL:
        assert name in attributes(), f"nothing uses {name}"
        there = [
            name in found["module"] or any(name in own for own in found["classes"].values())
            for found in every
        ]
        assert any(there), f"{name} is in no version"
        assert not all(there), f"{name} is in all of them: it is not optional"


def test_what_the_module_is_asked_for_is_somewhere() -> None:
    """A name of no version would be looked for in vain, and nobody would see it."""
    every = [seen(version) for version in VERSIONS]
    assert {"ComputeCapability", "IRuntimeCache", "HardwareCompatibilityLevel"} <= asked()
    for name in asked():
        assert any(name in found["module"] for found in every), f"{name} is in no version"


def test_whatever_a_variable_is_called_that_holds_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = """
def build(flavour):
    library = flavours.load(flavour)
    other: Any = library
    other.Builder.gone
    look(1, other)
    cuda = importlib.import_module("cuda.bindings.runtime")
    cuda.cudaMalloc
def look(number, given):
    if hasattr(given, "Asked"):
        given.Runtime
def stranger(library):
    library.not_of_it
"""
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "trees", lambda: (ast.parse(source),))
    for name in ("modules", "chains", "asked"):
        monkeypatch.setattr(here, name, getattr(here, name).__wrapped__)
    assert chains() == {("Builder", "gone"), ("Builder",), ("Runtime",)}
    assert asked() == {"Asked"}
