"""`--runtime best`: the first of `tune`'s candidates that can be made here and keeps its accuracy.

Nothing is measured: the order is that of `engines.candidates`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from clipperf.bench import prepare
from clipperf.bench.tune import usable_devices
from clipperf.engines import contract
from clipperf.engines.candidates import Candidate, candidates, measured_with
from clipperf.engines.processor import kind
from clipperf.errors import (
    ChildError,
    EngineError,
    ExportError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from clipperf.export.derived import OPTIONS, as_expected, check_expected
from clipperf.export.exporter import chosen
from clipperf.export.folder import Exported
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, SIDES, PixelDtype, Side, Variant
from clipperf.text import one_line

BEST = "best"
"""What users say in place of a runtime."""

T = TypeVar("T")


@dataclass(frozen=True)
class Refused:
    """A candidate that came before the one that was taken, and why it was not."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What was taken and what came of it, what came before, and what would have come next."""

    taken: Candidate
    made: T
    refused: tuple[Refused, ...]
    others: tuple[Candidate, ...]
    measured_with: str

    @property
    def said(self) -> dict[str, object]:
        """All but what came of it, for JSON."""
        return {"taken": self.taken, "refused": self.refused, "others": self.others}

    def lines(self) -> list[str]:
        """Which, why, and what else was considered, for people."""
        taken = self.taken
        if taken.times is None:
            such = "processors of this kind" if taken.device == "cpu" else "GPUs"
            why = f"the next in the order of its precision; its speed on {such} is not known"
        else:
            where = f"{kind()} processors ({self.measured_with})"
            why = f"{taken.times:.3g} times PyTorch in fp32 on {where}"
        said = [
            f"not taken: {each.candidate.runtime} {each.candidate.precision}: {each.reason}"
            for each in self.refused
        ]
        said.append(f"best: {taken.runtime} {taken.precision}, expected first here: {why}")
        row = PRECISIONS.find(taken.precision)
        if taken.device == "cpu" and row is not None and row.emulated:
            said.append(f"{taken.precision} is a GPU's, and slow on a CPU: use it for checks")
        if self.others:
            said.append(f"behind it: {', '.join(each.label for each in self.others)}")
        return [*said, "clipperf tune measures them on this machine"]


def best(
    make: Callable[[Candidate], T],
    *,
    precisions: Sequence[str] | None = None,
    device: str | None = None,
    sides: Sequence[str] = SIDES,
    fits: Callable[[Candidate], bool] = lambda candidate: True,
) -> Choice[T]:
    """Make the candidates for `sides` that fit one after the other until one passes.

    `make` raises what an export raises; whatever is no fault of the candidate's ends it.

    Raises:
        UsageError: no candidate fits.
        MissingDependencyError: no runtime works here.
        ExportError: none could be made, or kept to what is asked for.
    """
    devices = usable_devices(None, precisions, device)
    wanted = [each for each in candidates(devices, precisions, sides) if fits(each)]
    if not wanted:
        raise UsageError("no runtime here can make that: name one with --runtime")
    refused: list[Refused] = []
    for place, candidate in enumerate(wanted):
        try:
            made = make(candidate)
        except (ChildError, EngineError, ExportError, MissingDependencyError) as exc:
            refused.append(Refused(candidate, one_line(str(exc))))
        else:
            others = (each for each in wanted[place + 1 :] if each.multiplied_here)
            return Choice(candidate, made, tuple(refused), tuple(others), measured_with(sides))
    said = "; ".join(f"{each.candidate.label}: {each.reason}" for each in refused)
    raise ExportError(f"no candidate passes: {said}")


def best_for(
    specs: Sequence[ModelSpec],
    sides: Sequence[Side],
    inputs: Sequence[PixelDtype],
    batches: tuple[int, int],
    precisions: Sequence[str] | None,
    device: str | None,
    on_stage: prepare.OnStage,
    features: bool = False,
) -> Choice[None]:
    """The best that all of these models have, made in the store for the least and largest batch.

    With `features` it gives more than embeddings.

    A model whose weights cannot be had has no part in the choice: whoever asks finds out next.

    Raises:
        ClipperfError: see `best`.
    """

    def make(each: Candidate) -> None:
        for spec, dtype in itertools.product(specs, inputs):
            variant = Variant(each.runtime, each.precision, dtype)
            with contextlib.suppress(WeightsError):
                prepare.artifact_folder(spec, sides, variant, on_stage, batches, as_expected=True)

    fits = partial(_gives, features=features)
    return best(make, precisions=precisions, device=device, sides=sides, fits=fits)


def _gives(each: Candidate, features: bool) -> bool:
    """Whether a candidate gives features, where they are wanted."""
    return contract.get(each.runtime).features or not features


def checked(
    usual: Variant, options: Mapping[str, Any], keep_failed: bool, device: str | None = None
) -> Variant:
    """The variant with what the options of an export mean (see `exporter.chosen`); best as it is.

    Raises:
        UsageError: the variant is nothing's or does not run on `device`, or an option is not for
            it.
    """
    if usual.runtime != BEST:
        variant = chosen(usual, options)
        prepare.choose_devices([usual.runtime], device)
        return variant
    given = {**options, "--keep-failed": keep_failed or None}
    foreign = [name for name, value in given.items() if value is not None and name not in OPTIONS]
    if foreign:
        raise UsageError(
            f"--runtime {BEST} goes on where one fails: leave {foreign[0]} out, or name the "
            f"runtime that it is for"
        )
    return usual


def made(
    variant: Variant,
    options: Mapping[str, Any],
    make: Callable[[Variant], T],
    precisions: Sequence[str] | None = None,
    sides: Sequence[str] = SIDES,
    device: str | None = None,
) -> tuple[T, Choice[T] | None]:
    """What comes of a variant that was `checked`, and the choice where it is the best; see `best`.

    A candidate takes those of the options that are for it.
    """
    if variant.runtime != BEST:
        return make(variant), None

    def tried(each: Candidate) -> T:
        named = replace(variant, runtime=each.runtime, precision=each.precision)
        wanted = chosen(prepare.loaded_by(named), options, strict=False)
        made = make(as_expected(wanted))
        if isinstance(made, Exported):
            check_expected(made.manifest.towers)
        return made

    fits = partial(_gives, features=variant.features)
    choice = best(tried, precisions=precisions, device=device, sides=sides, fits=fits)
    return choice.made, choice
