"""Which files are read in the scenario "from-files", and in which ways."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from clipperf.errors import UsageError
from clipperf.inputs import preprocess_fast
from clipperf.inputs.decode import load_image
from clipperf.inputs.preprocess_spec import METHODS
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import list_folder
from clipperf.nouns.from_files import FileWork, Way
from clipperf.stats import median
from clipperf.system.env import available_cores
from clipperf.text import quoted, shown


def file_work(
    folder: str,
    methods: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    asked: str = "--from-files",
    method_asked: str = "--preprocess",
) -> FileWork:
    """All images below a folder, made into pixels by every method on every number of threads.

    By default all methods that are installed, on as many threads as there are cores.
    `asked` is how the folder was asked for, `method_asked` beside it the methods.

    Raises:
        UsageError: there is no such folder, no image in it, one that cannot be read, or no such
            method.
        MissingDependencyError: a method needs a package that is not installed.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UsageError(f"{asked}: there is no folder at {shown(root)}")
    suffixes = tuple(image_suffixes())
    found = [s.path for name, s in list_folder(root).items() if name.lower().endswith(suffixes)]
    if not found:
        raise UsageError(
            f"{asked}: no images in {shown(root)}: looked for {', '.join(sorted(suffixes))}"
        )
    sizes = [load_image(path).size for path in found]
    if methods is None:
        fast = importlib.util.find_spec("cykooz_resizer") is not None
        methods = METHODS if fast else METHODS[:1]
    for method in methods:
        if method not in METHODS:
            named = method_asked if method_asked.startswith("-") else f"{asked}: {method_asked}"
            raise UsageError(f"{named} {quoted(method)}: choose from {', '.join(METHODS)}")
        preprocess_fast.check(method)
    counts = threads or (available_cores(),)
    ways = tuple(Way(method, count) for method in methods for count in counts)
    width, height = (round(median(sides)) for sides in zip(*sizes, strict=True))
    return FileWork(tuple(str(path.absolute()) for path in found), ways, (width, height))
