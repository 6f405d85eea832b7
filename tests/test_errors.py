"""The tree of errors that the module draws is the one that it has."""

from __future__ import annotations

import inspect
import re

from clipperf import errors


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Every name of the docstring's trees: the name that it hangs on, and its exit code."""
    found: dict[str, tuple[str | None, int | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(
            r"((?:│   |    )*)(├── |└── )?(\w+)(?:  +(.*?))?(?: +exit (\d))?", line
        )
        if match is None:
            continue
        bars, branch, name, _, code = match.groups()
        depth = len(bars) // 4 + (branch is not None)
        above[depth:] = [name]
        found[name] = (above[depth - 1] if depth else None, int(code) if code else None)
    return found


def test_every_class_is_in_the_tree_under_its_parent() -> None:
    tree = drawn()
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__
    }
    assert set(tree) == set(classes) | {"UserWarning"}
    for name, kind in classes.items():
        above, code = tree[name]
        assert above == (None if name == "ClipperfError" else kind.__base__.__name__), name
        assert code is None or code == kind.exit_code, name
        assert kind.__doc__
    leaves = [name for name, (above, _) in tree.items() if above not in (None, "UserWarning")]
    assert all(tree[name][1] is not None for name in leaves), "each says its exit code"
