"""Which files are read in the scenario "from-files", and in which ways."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from clipperf.bench import cost
from clipperf.errors import UsageError
from clipperf.evals.datasets import none_readable, skipped
from clipperf.inputs import preprocess_fast
from clipperf.inputs.decode import load_image
from clipperf.inputs.preprocess_spec import METHODS, Size
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import list_folder
from clipperf.nouns.from_files import FileWork, Way
from clipperf.stats import median
from clipperf.system.env import available_cores
from clipperf.system.targets import expanded
from clipperf.text import shown

LEAST_FILES = 256
"""So many files are read where there are as many: decoding is timed on whatever takes 2 s."""


def file_work(
    folder: str,
    methods: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    asked: str = "--from-files",
    method_asked: str = "--preprocess",
    *,
    batch: int = 1,
    skip_unreadable: bool = False,
) -> FileWork:
    """Images below a folder, made into pixels by every method on every number of threads.

    By default all methods that are installed, on as many threads as there are cores. Of more
    images than a run with batches of at most `batch` reads, so many are taken, evenly spread; each
    is decoded now, and with `skip_unreadable` left out where it cannot be. `asked` is how the
    folder was asked for, `method_asked` beside it the methods.

    Raises:
        UsageError: there is no such folder, no image in it, one that cannot be read, or no such
            method.
        MissingDependencyError: a method needs a package that is not installed.
    """
    root = expanded(folder)
    if not root.is_dir():
        raise UsageError(f"{asked}: there is no folder at {shown(root)}")
    suffixes = tuple(image_suffixes())
    found = [s.path for name, s in list_folder(root).items() if name.lower().endswith(suffixes)]
    if not found:
        raise UsageError(
            f"{asked}: no images in {shown(root)}: looked for {', '.join(sorted(suffixes))}"
        )
    most = max(LEAST_FILES, batch * (cost.DEFAULT.block_calls + 1))
    count = min(len(found), most)
    taken = [found[place * len(found) // count] for place in range(count)]
    sizes, unreadable = _sizes(taken, skip_unreadable, asked)
    if not sizes:
        raise none_readable(root, unreadable)
    notes = [skipped(unreadable)] if unreadable else []
    if count < len(found):
        notes.append(f"Of {len(found)} image files {count}, evenly spread, are read over and over.")
    if methods is None:
        fast = importlib.util.find_spec("cykooz_resizer") is not None
        methods = METHODS if fast else METHODS[:1]
    for method in methods:
        named = method_asked if method_asked.startswith("-") else f"{asked}: {method_asked}"
        preprocess_fast.check(method, named)
    counts = threads or (available_cores(),)
    ways = tuple(Way(method, count) for method in methods for count in counts)
    width, height = (round(median(sides)) for sides in zip(*sizes.values(), strict=True))
    paths = tuple(str(path.absolute()) for path in sizes)
    return FileWork(paths, ways, (width, height), tuple(notes))


def _sizes(
    paths: Sequence[Path], skip: bool, asked: str
) -> tuple[dict[Path, Size], dict[str, str]]:
    """Width and height of each image, and what is wrong with those to skip."""
    sizes: dict[Path, Size] = {}
    unreadable: dict[str, str] = {}
    for path in paths:
        try:
            sizes[path] = load_image(path).size
        except UsageError as exc:
            if not skip:
                way_on = "; --skip-unreadable leaves it out" if asked == "--from-files" else ""
                raise UsageError(f"{exc}{way_on}") from exc
            unreadable[shown(path)] = str(exc).removeprefix(f"{shown(path)}: ")
    return sizes, unreadable
