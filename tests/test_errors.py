"""The tree of errors that the module draws is the one that it has."""

from __future__ import annotations

import inspect
import pickle
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


def test_an_error_crosses_with_what_caused_it() -> None:
    died = errors.ChildError("the export process died", code=-9, said="last words")
    found = errors.ExportError("no tower")
    found.__cause__ = ValueError("of another library")
    found.__cause__.__cause__ = died
    crossed = pickle.loads(pickle.dumps(found))
    assert type(crossed) is errors.ExportError and str(crossed) == "no tower"
    cause = crossed.__cause__
    assert isinstance(cause, errors.ChildError) and str(cause) == "the export process died"
    assert (cause.code, cause.said, cause.ended) == (-9, "last words", "killed")
    plain = pickle.loads(pickle.dumps(errors.RefusedError("busy", after_s=2.0)))
    assert (str(plain), plain.after_s, plain.__cause__) == ("busy", 2.0, None)
