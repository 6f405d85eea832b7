"""Small changes to a module's code, one at a time: what `mutation` tries against the tests.

Left alone is what no test could or should notice: docstrings, annotations and types, decorators,
imports, `__all__`, the words of messages (strings with blanks, and all that stands in a `raise` or
in the call of an error), and `strict` of `zip` and `repr` of fields, which only guard and show.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One changed place of a file.

    `number` is its place among all of the file's, `where` the function or class around it, `text`
    its source line. `occurrence` tells equal changes within `where` apart.
    """

    path: str
    number: int
    line: int
    where: str
    operator: str
    before: str
    after: str
    text: str
    occurrence: int

    def __str__(self) -> str:
        place = f"{self.path}:{self.line} {self.operator}"
        return f"{place}: {self.before} -> {self.after or 'nothing'}  | {self.text}"


BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
TWINS = {"min": "max", "floor": "ceil", "any": "all", "argmin": "argmax"}
TWINS |= {twin: name for name, twin in TWINS.items()}
SORTS = ("sorted", "sort")
UNORDERED = ("min", "max", "isinstance")
TYPES = ("Literal", "Callable", "Mapping", "Sequence", "tuple", "list", "dict", "TypeVar")
GUARDS = ("strict", "repr")
REMOVABLE = (ast.Raise, ast.AugAssign, ast.Continue, ast.Break)

Change = tuple[str, ast.AST]


def name_of(function: ast.expr) -> str:
    """The last part of a dotted name, "" for other expressions."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def changes(node: ast.AST) -> Iterator[Change]:
    """Each change of one node: the operator's name, and what stands in the node's place."""
    if isinstance(node, ast.stmt):
        yield from _of_statement(node)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for table in (BOUNDARY, OPPOSITE):
                if type(operator) in table:
                    ops = [*node.ops[:i], table[type(operator)](), *node.ops[i + 1 :]]
                    yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and, or", ast.BoolOp(other, node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "not" if isinstance(node.op, ast.Not) else "sign", node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.IfExp):
        for test in _negated(node.test):
            yield "condition", ast.IfExp(test, node.body, node.orelse)
    elif isinstance(node, ast.comprehension):
        for i, condition in enumerate(node.ifs):
            for test in _negated(condition):
                rest = [*node.ifs[:i], test, *node.ifs[i + 1 :]]
                yield "condition", ast.comprehension(node.target, node.iter, rest, node.is_async)
    elif isinstance(node, ast.Tuple | ast.List):
        for first in range(len(node.elts) - 1):
            if ast.dump(node.elts[first]) != ast.dump(node.elts[first + 1]):
                turned = copy.copy(node)
                turned.elts = _swapped(node.elts, first)
                yield "order", turned
    elif isinstance(node, ast.Slice):
        for field in ("lower", "upper", "step"):
            bound = getattr(node, field)
            if bound is not None and not isinstance(bound, ast.Constant):
                moved = copy.copy(node)
                setattr(moved, field, ast.BinOp(bound, ast.Add(), ast.Constant(1)))
                yield "slice", moved


def _of_statement(node: ast.stmt) -> Iterator[Change]:
    if isinstance(node, REMOVABLE) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "removal", ast.Pass()
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield "arithmetic", ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
    if isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "return", ast.Return(ast.Constant(None))
    if isinstance(node, ast.If | ast.While):
        for test in _negated(node.test):
            changed = copy.copy(node)
            changed.test = test
            yield "condition", changed


def _negated(test: ast.expr) -> Iterator[ast.expr]:
    """A condition turned, where it is none that another operator turns."""
    if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant):
        yield ast.UnaryOp(ast.Not(), test)


def _of_constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    others: list[str | float] = []
    if isinstance(value, bool):
        others = [not value]
    elif isinstance(value, int):
        others = [value + 1, 0] if value == 1 else [value + 1]
    elif isinstance(value, float):
        others = [value * 2 or 1.0]
    elif isinstance(value, str) and value and " " not in value:
        others = [value + "_"]
    for other in others:
        yield "string" if isinstance(other, str) else "constant", ast.Constant(other)


def _of_call(node: ast.Call) -> Iterator[Change]:
    called = name_of(node.func)
    if called in TWINS:
        function = copy.copy(node.func)
        setattr(function, "attr" if isinstance(function, ast.Attribute) else "id", TWINS[called])
        yield "min, max", ast.Call(function, node.args, node.keywords)
    if called in SORTS:
        rest = [word for word in node.keywords if word.arg != "reverse"]
        if rest == node.keywords:
            rest = [*rest, ast.keyword("reverse", ast.Constant(True))]
        yield "order", ast.Call(node.func, node.args, rest)
    if called in UNORDERED or any(isinstance(argument, ast.Starred) for argument in node.args):
        return
    for first in range(len(node.args) - 1):
        if ast.dump(node.args[first]) != ast.dump(node.args[first + 1]):
            yield "arguments", ast.Call(node.func, _swapped(node.args, first), node.keywords)


def _swapped(nodes: list[ast.expr], first: int) -> list[ast.expr]:
    """The nodes, with that one and the next in each other's place."""
    return [*nodes[:first], nodes[first + 1], nodes[first], *nodes[first + 2 :]]


def _format_spec(node: ast.JoinedStr) -> Iterator[Change]:
    text = ast.unparse(node)[2:-1]
    if found := re.search(r"\d", text):
        other = text[: found.start()] + str(int(found[0]) + 1) + text[found.end() :]
        yield "format", ast.JoinedStr([ast.Constant(other)])


# --- the places of a module -----------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A node, and where it hangs: in `field` of `parent`, at `index` where that is a list."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    where: str
    line: int

    def put(self, node: ast.AST) -> None:
        """Let another node stand here."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _skipped(node: ast.AST, field: str, child: ast.AST) -> bool:
    """Whether nothing below this child is changed."""
    if field in ("annotation", "returns", "decorator_list", "exc", "cause", "ctx"):
        return True
    if isinstance(child, ast.Import | ast.ImportFrom):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # docstrings, of attributes too
    if isinstance(child, ast.Assign) and "__all__" in map(name_of, child.targets):
        return True
    if isinstance(node, ast.keyword) and node.arg in GUARDS:
        return True
    if isinstance(child, ast.Call) and name_of(child.func).endswith("Error"):
        return True
    if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
        return True
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(child, ast.Subscript | ast.Call):
        made = child.value if isinstance(child, ast.Subscript) else child.func
        return name_of(made) in TYPES and not isinstance(made, ast.Attribute)
    return isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)


def places(node: ast.AST, where: str = "", line: int = 1) -> Iterator[Place]:
    """Every place below a node that may be changed, in the order of the source."""
    for field, value in ast.iter_fields(node):
        listed = isinstance(value, list)
        for index, child in enumerate(value if listed else [value]):
            if not isinstance(child, ast.AST) or _skipped(node, field, child):
                continue
            name = getattr(child, "name", None)
            inner = f"{where}.{name}".lstrip(".") if isinstance(name, str) else where
            at = getattr(child, "lineno", line)
            yield Place(node, field, index if listed else None, child, inner, at)
            if field != "format_spec":
                yield from places(child, inner, at)


def _changes_at(place: Place) -> Iterator[Change]:
    if place.field == "format_spec" and isinstance(place.node, ast.JoinedStr):
        yield from _format_spec(place.node)
        return
    listed = isinstance(place.node, ast.Tuple | ast.List)
    for operator, changed in changes(place.node):
        if not (listed and operator == "order" and _is_set(place.parent)):
            yield operator, changed


def _is_set(parent: ast.AST) -> bool:
    """Whether a list of names is asked only for what is in it, in whatever order."""
    if isinstance(parent, ast.Compare):
        return all(isinstance(operator, ast.In | ast.NotIn) for operator in parent.ops)
    named = name_of(parent.func) if isinstance(parent, ast.Call) else ""
    return isinstance(parent, ast.ExceptHandler) or named in ("isinstance", "set", "frozenset")


def _words(node: ast.AST) -> str:
    """A node in one line, of a compound statement its head alone."""
    if isinstance(node, ast.comprehension):
        return ast.unparse(node).strip()
    if isinstance(node, ast.Pass):
        return ""
    if isinstance(node, ast.Slice):
        return f"[{ast.unparse(node)}]"
    return ast.unparse(node).splitlines()[0]


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file's source."""
    lines = source.splitlines()
    seen: Counter[tuple[str, ...]] = Counter()
    found: list[Mutant] = []
    for place in places(ast.parse(source)):
        for operator, changed in _changes_at(place):
            key = (place.where, operator, _words(place.node), _words(changed))
            text = lines[place.line - 1].strip()
            found.append(Mutant(path, len(found), place.line, *key, text, seen[key]))
            seen[key] += 1
    return found


def mutated(source: str, number: int) -> str:
    """The source with one mutant in it, by its number; comments and layout are lost."""
    tree = ast.parse(source)
    for place in places(tree):
        for _, changed in _changes_at(place):
            if number == 0:
                place.put(changed)
                return ast.unparse(ast.fix_missing_locations(tree))
            number -= 1
    raise IndexError("no such mutant")
