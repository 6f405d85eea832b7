"""Make the type stubs of TensorRT readable for mypy: ``python tools/typing_stubs.py build/stubs``.

The package tensorrt-stubs 10.13 lays its files into site-packages without the marker that mypy
asks for, and a few of their lines are not Python, so mypy would take every name of TensorRT for
Any and check nothing. This writes repaired copies; ``mypy_path`` in pyproject.toml points there.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

PACKAGE = "tensorrt-stubs"
REPAIRS = (
    (r"\bin: list\[", "in_: list["),  # a keyword as a parameter
    (r"( = None, \w+: int)\)", r"\1 = ...)"),  # a default before one without
)


def repaired(text: str) -> str:
    """A stub that parses, and whose own mistakes mypy passes over."""
    for pattern, replacement in REPAIRS:
        text = re.sub(pattern, replacement, text)
    ast.parse(text)
    return f"# mypy: ignore-errors\n{text}"


def main(folder: Path) -> None:
    """Write every stub of the package below `folder`."""
    for file in importlib.metadata.files(PACKAGE) or ():
        if file.suffix == ".pyi":
            target = folder / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(repaired(Path(str(file.locate())).read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
