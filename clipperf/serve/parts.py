"""What `clipperf.load` opens: towers, preprocessing and tokenizer, all of the same artifact."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.engines import contract
from clipperf.errors import ArtifactError, EngineError
from clipperf.inputs import preprocess_fast
from clipperf.inputs.preprocess_spec import PREPROCESS_FILE, PreprocessSpec
from clipperf.inputs.tokenize import CONFIG_FILE, TOKENIZER_FILE, Tokenizer, TokenizerSpec
from clipperf.nouns.artifact import Artifact, Manifest
from clipperf.nouns.cell import Cell, Engine, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PixelDtype, Side
from clipperf.serve import machine
from clipperf.serve.held import Held, held, stamp, steadily
from clipperf.serve.towers import (
    DEFAULT_BATCH,
    Choice,
    check_small,
    open_engines,
    pixels_in,
    requests,
)
from clipperf.system.files import read_json
from clipperf.system.store import check_files, read_manifest


@dataclass
class Parts:
    """A model's parts.

    `warnings` are what its user should know, `towers` what was opened, and `cells` in what.
    """

    spec: ModelSpec
    pixels: PreprocessSpec
    engines: dict[Side, Engine] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    batches: dict[Side, int] = field(default_factory=dict)
    towers: dict[Side, Artifact] = field(default_factory=dict)
    cells: dict[Side, Cell] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    pixel_dtype: PixelDtype = "float32"

    def close(self) -> None:
        """Close every engine."""
        for engine in self.engines.values():
            engine.close()


def open_all(
    choices: Sequence[Choice],
    preprocess: str | None,
    verify: bool,
    self_test: bool | None,
) -> Parts:
    """Open what an artifact folder or a tuning says; tried again where it is replaced meanwhile.

    Raises: see `load`.
    """
    return steadily(
        lambda: _attempt(choices, preprocess, verify, self_test),
        lambda: [stamp(choice.folder) for choice in choices],
        Parts.close,
    )


def open_again(choices: Sequence[Choice], before: Parts) -> dict[Side, Engine]:
    """Engines of the same towers as `before`'s, for a process that has no use for those.

    Raises:
        EngineError: a tower cannot be opened here, or is not the same any more.
    """
    advice = "open models in the process that uses them, after the fork"
    try:
        found = open_all(choices, before.pixels.method, verify=False, self_test=False)
    except (ArtifactError, EngineError) as exc:
        raise EngineError(f"{exc} (opened again after a fork: {advice})") from exc
    if found.towers != before.towers:
        found.close()
        raise EngineError(
            f"the artifact was replaced since the process that this one was forked from opened "
            f"it: {advice}"
        )
    return found.engines


def _attempt(
    choices: Sequence[Choice],
    preprocess: str | None,
    verify: bool,
    self_test: bool | None,
) -> tuple[Parts, bool]:
    """Open everything once; and whether it is of one artifact whatever happened meanwhile."""
    with contextlib.ExitStack() as handles, contextlib.ExitStack() as opened:
        wanted: list[EngineRequest] = []
        folders: dict[Side, tuple[Held, Manifest]] = {}
        found: Parts | None = None
        for choice in choices:
            folder = handles.enter_context(held(choice.folder))
            manifest = read_manifest(folder.folder)
            folder.keep(manifest.all_files)
            if verify:
                _check_content(folder.folder, manifest)
            here = folder, manifest
            if found is None:
                first, found = here, Parts(manifest.spec, _pixels(*here))
            for request, tower in requests(choice, manifest, folder):
                side = tower.side
                problem = contract.get(request.cell.runtime).warning(tower)
                if problem is not None:
                    found.warnings.append(f"{request.path}: {problem}")
                wanted.append(request)
                folders[side] = here
                found.towers[side], found.batches[side] = tower, choice.batch or DEFAULT_BATCH
                found.cells[side] = request.cell
        assert found is not None
        if "image" in folders:
            if folders["image"] is not first:
                found.pixels = _pixels(*folders["image"])
            found.pixel_dtype = next(r.cell.input for r in wanted if r.cell.side == "image")
        if preprocess is not None:
            found.pixels = dataclasses.replace(found.pixels, method=preprocess)
        preprocess_fast.check(found.pixels.method)
        # Before the tokenizer: what a runtime needs while it opens is then given back for that.
        found.engines = open_engines(wanted)
        opened.callback(found.close)
        if "text" in folders:
            folder, manifest = folders["text"]
            check_small(folder, manifest, (TOKENIZER_FILE, CONFIG_FILE))
            found.tokenizer = _tokenizer(folder)
        for side, engine in found.engines.items():
            tower, cell = found.towers[side], found.cells[side]
            tested = self_test
            if tested is None:
                tested = verify or cell.device != "cpu" or machine.is_other(tower, cell.runtime)
            if tested:
                _test(engine, folders[side][0].folder, tower, found.warnings)
        opened.pop_all()
        by_handle = all(contract.get(request.cell.runtime).by_handle for request in wanted)
        steady = by_handle and all(folder.steady for folder, _ in folders.values())
    return found, steady


def _test(engine: Engine, folder: Path, tower: Artifact, warnings: Sequence[str]) -> None:
    """The tower's self-test; where it fails, what is known to be wrong is said, too.

    Raises:
        ArtifactError: see `selftest.check`.
    """
    from clipperf.serve import selftest  # its inputs take imports that nobody else needs

    try:
        selftest.check(engine, folder, tower)
    except ArtifactError as exc:
        if not warnings:
            raise
        raise ArtifactError(f"{exc}. What is known: {'; '.join(warnings)}") from exc


def _pixels(folder: Held, manifest: Manifest) -> PreprocessSpec:
    check_small(folder, manifest, (PREPROCESS_FILE,))
    return pixels_in(folder.path(PREPROCESS_FILE))


def _tokenizer(folder: Held) -> Tokenizer:
    config = folder.path(CONFIG_FILE)
    spec = TokenizerSpec.from_json(read_json(config), str(config))
    return Tokenizer.from_file(folder.path(TOKENIZER_FILE), spec)


def _check_content(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its sha256.

    Raises:
        ArtifactError: one is missing or was altered.
    """
    problems = check_files(folder, manifest, content=True, remember=False)
    if problems:
        raise ArtifactError(f"{folder}/ is damaged: {'; '.join(problems)}; export the model again")
