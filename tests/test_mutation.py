"""tools/mutation.py: what it changes, what it leaves alone, and that it tells who noticed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parent.parent / "tools"

MODULE = '''
"""A toy."""

from collections.abc import Sequence

__all__ = ["within", "first"]


def within(value: float, most: float = 1.0) -> bool:
    """Whether it is small enough."""
    if value < 0:
        raise ValueError(f"negative: {value:.1f}")
    return value <= most


def first(values: Sequence[int]) -> int:
    """The least."""
    return sorted(values)[0]
'''
TESTS = """
import pytest
import toy

def test_within():
    assert toy.within(0.5) and not toy.within(2.5)
    with pytest.raises(ValueError):
        toy.within(-1)

def test_first():
    assert toy.first([3, 1, 2]) == 1
"""


@pytest.fixture(scope="module")
def tools() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The run and the operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import mutation
        import mutation_operators

        yield mutation, mutation_operators


Tools = tuple[ModuleType, ModuleType]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(MODULE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers=["slow","timing"]')
    return tmp_path


def changes(tools: Tools, source: str) -> set[tuple[str, str, str]]:
    return {(m.operator, m.before, m.after) for m in tools[1].mutants_of("x.py", source)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (
            "x = a < b",
            {("comparison", "a < b", "a <= b"), ("comparison", "a < b", "a >= b")},
        ),
        ("x = a == b", {("comparison", "a == b", "a != b")}),
        ("x = a in (b, c)", {("comparison", "a in (b, c)", "a not in (b, c)")}),
        ("x = a and b", {("and, or", "a and b", "a or b")}),
        ("x = not a", {("not", "not a", "a")}),
        ("x = -a", {("sign", "-a", "a")}),
        ("x = a * b", {("arithmetic", "a * b", "a / b")}),
        ("x = a // b", {("arithmetic", "a // b", "a / b")}),
        ("x = 0", {("constant", "0", "1")}),
        ("x = 1", {("constant", "1", "0"), ("constant", "1", "2")}),
        ("x = 0.25", {("constant", "0.25", "0.5")}),
        ("x = True", {("constant", "True", "False")}),
        ("x = a['key']", {("string", "'key'", "'key_'")}),
        ("x = f'{a:.2f} of it'", {("format", "f'.2f'", "f'.3f'")}),
        ("x = a if b else c", {("condition", "a if b else c", "a if not b else c")}),
        ("x = min(a, b)", {("min, max", "min(a, b)", "max(a, b)")}),
        ("x = f(a, b)", {("arguments", "f(a, b)", "f(b, a)")}),
        ("x = (a, b)", {("order", "(a, b)", "(b, a)")}),
        ("x = sorted(a)", {("order", "sorted(a)", "sorted(a, reverse=True)")}),
        ("x = a[b:]", {("slice", "[b:]", "[b + 1:]")}),
        ("f(a)", {("removal", "f(a)", "")}),
        ("x += a", {("removal", "x += a", ""), ("arithmetic", "x += a", "x -= a")}),
        ("def f():\n    return a", {("return", "return a", "return None")}),
        (
            "while a:\n    break",
            {("condition", "while a:", "while not a:"), ("removal", "break", "")},
        ),
    ],
)
def test_operators(tools: Tools, source: str, found: set[tuple[str, str, str]]) -> None:
    assert changes(tools, source) == found


@pytest.mark.parametrize(
    "source",
    [
        '"""Words."""',
        "from a import b",
        "__all__ = ['a', 'b']",
        "x: tuple[int, str] = a",
        "@dataclass(frozen=True)\nclass A:\n    x: Literal['a']",
        "Kind = Literal['a', 'b']",
        "x = isinstance(a, (b, c))",
        "x = 'words of a message'",
        "x = zip(a, strict=True)",
    ],
)
def test_what_is_left_alone(tools: Tools, source: str) -> None:
    assert changes(tools, source) == set()


def test_an_error_is_only_taken_out(tools: Tools) -> None:
    (found,) = changes(tools, "raise ValueError(f'{a:.1f}', 5) from exc")
    assert found[0] == "removal" and found[2] == ""


def test_every_mutant_is_code_and_another_one(tools: Tools) -> None:
    source = (TOOLS / "mutation_operators.py").read_text()
    mutants = tools[1].mutants_of("x.py", source)[::25]
    made = {ast.unparse(ast.parse(tools[1].mutated(source, m.number))) for m in mutants}
    assert len(made) == len(mutants) > 5
    assert ast.unparse(ast.parse(source)) not in made
    with pytest.raises(IndexError):
        tools[1].mutated("x = 1", 2)


def test_shares_are_in_proportion_to_lines(tools: Tools) -> None:
    assert tools[0].shares({"a": 100, "b": 50, "c": 50}, 8) == {"a": 4, "b": 2, "c": 2}
    assert tools[0].shares({"a": 100, "b": 100, "c": 100}, 400) == {"a": 134, "b": 133, "c": 133}
    assert sum(tools[0].shares({"a": 3, "b": 7, "c": 11, "d": 13}, 10).values()) == 10


def test_the_choice_is_the_seed_s_and_not_that_of_lines_before(tools: Tools, toy: Path) -> None:
    subjects = (tools[0].Subject(("toy.py",), ("tests/test_toy.py",)),)

    def chosen(seed: int) -> set[tuple[str, str, str]]:
        (found,) = tools[0].choose(toy, subjects, (), 6, seed)
        assert len(found.mutants) == 6 and found.equivalent == 0
        return {(m.operator, m.before, m.after) for m in found.mutants}

    usual = chosen(0)
    assert chosen(0) == usual != chosen(1)
    (toy / "toy.py").write_text(MODULE.replace('"""A toy."""', '"""A toy."""\n\nLIMIT = a + b'))
    assert len(chosen(0) & usual) >= 5


def test_equivalent_ones_are_passed_over_and_must_exist(tools: Tools, toy: Path) -> None:
    run = tools[0]
    subjects = (run.Subject(("toy.py",), ("tests/test_toy.py",)),)
    named = run.Equivalent("toy.py", "if value < 0:", "comparison", "a test", after="<=")
    (found,) = run.choose(toy, subjects, (named,), 100, 0)
    (every,) = run.choose(toy, subjects, (), 100, 0)
    assert found.equivalent == 1 and len(found.mutants) == len(every.mutants) - 1
    gone = run.Equivalent("toy.py", "if value < 1:", "comparison", "a test")
    with pytest.raises(SystemExit, match="no mutant is what the list"):
        run.choose(toy, subjects, (gone,), 100, 0)


def test_entries_of_the_list_speak_of_mutants(tools: Tools) -> None:
    run = tools[0]
    chosen = run.choose(run.ROOT, run.SUBJECTS, run.EQUIVALENT, 400, 0)
    assert sum(len(each.mutants) for each in chosen) == 400
    for subject in run.SUBJECTS:
        assert all((run.ROOT / test).is_file() for test in (*subject.near, *subject.far))


def test_a_weak_test_lets_a_mutant_live_and_the_run_says_which(tools: Tools, toy: Path) -> None:
    run, operators = tools
    mutants = {(m.operator, m.before, m.after): m for m in operators.mutants_of("toy.py", MODULE)}
    noticed = (
        mutants["comparison", "value <= most", "value > most"],
        mutants["order", "sorted(values)", "sorted(values, reverse=True)"],
    )
    # Nothing asks for the limit itself.
    unseen = mutants["comparison", "value <= most", "value < most"]
    tried = run.Chosen("toy.py", (("tests/test_toy.py",),), (*noticed, unseen), 0)
    assert run.survivors(toy, [tried], 1, ("toy.py", "tests", "pyproject.toml")) == {unseen}
    assert str(unseen) == (
        "toy.py:13 comparison: value <= most -> value < most  | return value <= most"
    )


def test_a_mutant_that_hangs_is_noticed_and_ended(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, operators = tools
    source = "def count(n):\n    while n > 0:\n        n -= 1\n    return n\n"
    (tmp_path / "toy.py").write_text(source)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(
        "import toy\n\ndef test_count():\n    assert toy.count(5) == 0\n"
    )
    monkeypatch.setattr(run, "LEAST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(run, "PATIENCE", 2)
    (endless,) = (m for m in operators.mutants_of("toy.py", source) if m.after == "n += 1")
    tried = run.Chosen("toy.py", (("tests/test_toy.py",),), (endless,), 0)
    assert run.survivors(tmp_path, [tried], 1, ("toy.py", "tests")) == set()


def test_tests_that_fail_anyway_notice_nothing(tools: Tools, toy: Path) -> None:
    run, _ = tools
    (toy / "tests" / "test_toy.py").write_text("def test_it():\n    assert False\n")
    tried = run.Chosen("toy.py", (("tests/test_toy.py",),), (), 0)
    with pytest.raises(SystemExit, match="fails without any mutant"):
        run.survivors(toy, [tried], 1, ("toy.py", "tests", "pyproject.toml"))


ONCE_UNSEEN = (
    ("clipperf/report/pairs.py", "items / stats.median(own)", "items * stats.median(own)"),
    ("clipperf/bench/cost.py", "not runs", "runs"),
    ("clipperf/nouns/variant.py", "(Precision('fp32',", "(Precision('tf32',"),
)


def test_changes_that_once_went_unseen(tools: Tools) -> None:
    run, operators = tools
    tests = run.tests_beside(run.ROOT, run.SUBJECTS)
    chosen = []
    for path, before, after in ONCE_UNSEEN:
        mutants = operators.mutants_of(path, (run.ROOT / path).read_text())
        named = (m for m in mutants if m.before.startswith(before) and m.after.startswith(after))
        chosen.append(run.Chosen(path, tests[path][:1], (next(named),), 0))
    assert run.survivors(run.ROOT, chosen, 1) == set()
