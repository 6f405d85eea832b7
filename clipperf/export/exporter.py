"""What makes towers for a runtime, and how it is found.

An exporter is one `Exporter` record, in a file of `exporters/` or in an installed package (see
`registry`). It says what its towers are made from and what its own step does; `export.make` does
all the rest, the same for every exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.export import gate as gates
from clipperf.export.job import Built, Job, Tell
from clipperf.nouns.artifact import Parity
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, Side, Variant
from clipperf.registry import Registry
from clipperf.serialize import from_json


@dataclass(frozen=True)
class Below:
    """What a tower is made from: the key of another tower and its files, or the weights' id."""

    key: str
    files: Mapping[str, str] = field(default_factory=dict)


Need = tuple[Variant, Sequence[Side]]


@dataclass(frozen=True)
class Choices:
    """What users choose of an exporter's towers.

    `settings` is the class of its variants' settings. Its functions:

    - `described(variant)`: the settings as the manifest keeps them.
    - `suffix(variant)`: what they add to the name of a folder in the store.
    - `options(variant)`: the command's options that it takes, by name, with the settings' field
      of each; `options_for` says for others what they are for. `choose(variant, values)` is the
      variant that they mean.
    """

    settings: type[Any] | None = None
    described: Callable[[Variant], dict[str, str]] = lambda variant: {}
    suffix: Callable[[Variant], str] = lambda variant: ""
    options: Callable[[Variant], Mapping[str, str]] = lambda variant: {}
    options_for: str = ""
    choose: Callable[[Variant, Mapping[str, Any]], Variant] | None = None


@dataclass(frozen=True)
class Exporter:
    """One way to make towers.

    `makes` are the precisions that it has for each runtime, `file` is the name of a tower's
    model file, `tower` what a tower is called while it is made, `choices` what users choose of
    it, `features` whether its image towers can give these as well. Its functions:

    - `key(spec, side, variant, below)`: a digest of everything that changes the bytes.
    - `job(job, tell)`: makes one tower; runs in a child process. Where `shares_process`, towers
      are made one after the other in one process that has imported torch.
    - `complete(spec, variant)`: the variant with what it leaves open; raises UsageError or
      MissingDependencyError for what cannot be made.
    - `needs(spec, sides, variant)`: variants that must be there before, and which sides of them.
      The first is what the towers are made from; without any they are made from the weights.
    - `gate(job, built)`: how close a tower is to PyTorch, where it is `checkable(job)` on this
      machine; runs in a child process too where `gate_in_child`.
    - `refusal(job, built, found)`: says why it failed the gate.
    - `serving(spec, sides, variant, batches)`: the variant to make for batches from the smallest
      to the largest, or a folder of the store that can take them.
    """

    name: str
    makes: Mapping[str, tuple[str, ...]]
    file: str
    key: Callable[[ModelSpec, Side, Variant, Below], str]
    job: Callable[[Job, Tell], Built]
    tower: str = "tower"
    shares_process: bool = False
    complete: Callable[[ModelSpec, Variant], Variant] = lambda spec, variant: variant
    needs: Callable[[ModelSpec, Sequence[Side], Variant], Sequence[Need]] = (
        lambda spec, sides, variant: ()
    )
    gate: Callable[[Job, Built], Parity] = gates.by_runtime
    gate_in_child: bool = False
    checkable: Callable[[Job], bool] = lambda job: True
    refusal: Callable[[Job, Built, Parity], str] = gates.refusal
    choices: Choices = Choices()
    features: bool = False
    serving: (
        Callable[[ModelSpec, Sequence[Side], Variant, tuple[int, int]], Variant | Path] | None
    ) = None


EXPORTERS: Registry[Exporter] = Registry("exporter", room="clipperf.export.exporters")
"""Every exporter."""


def find(runtime: str, precision: str) -> Exporter | None:
    """What makes towers for a runtime in a precision; None where nothing does."""
    return next((e for e in EXPORTERS if precision in e.makes.get(runtime, ())), None)


def exporter_of(variant: Variant) -> Exporter:
    """What makes a variant's towers.

    Raises:
        UsageError: nothing does; the message says what there is.
    """
    found = find(variant.runtime, variant.precision)
    if found is None:
        known = precisions_for(variant.runtime)
        if not known:
            choice = ", ".join(dict.fromkeys(runtime for e in EXPORTERS for runtime in e.makes))
            raise UsageError(f"--runtime {variant.runtime}: export to {choice} or best")
        raise UsageError(
            f"no precision {variant.precision!r} for {variant.runtime}; choose from "
            f"{', '.join(known)}"
        )
    return found


def precisions_for(runtime: str) -> list[str]:
    """The precisions in which something makes towers for a runtime, as tables list them."""
    known = {name for e in EXPORTERS for name in e.makes.get(runtime, ())}
    return sorted(known, key=PRECISIONS.rank)


def key_of(spec: ModelSpec, weights_id: str, side: Side, variant: Variant) -> str:
    """The key that a tower gets when it is made now, where nothing has to be made to know it.

    Raises:
        UsageError: nothing makes it.
    """
    exporter = exporter_of(variant)
    below = [source for source, _ in exporter.needs(spec, (side,), variant)][:1]
    return exporter.key(
        spec,
        side,
        variant,
        Below(key_of(spec, weights_id, side, below[0]) if below else weights_id),
    )


def chosen(variant: Variant, options: Mapping[str, Any], *, strict: bool = True) -> Variant:
    """The variant with what the options of a command mean; those that are None were not given.

    Raises:
        UsageError: it is nothing's, or a value cannot be; if `strict`, an option that its
            exporter does not take.
    """
    choices = exporter_of(variant).choices
    fields = choices.options(variant)
    given = {name: value for name, value in options.items() if value is not None}
    foreign = [name for name in given if name not in fields]
    if strict and foreign:
        raise UsageError(f"{foreign[0]} {_what_for(foreign[0])}")
    values = {fields[name]: value for name, value in given.items() if name in fields}
    if choices.choose is not None:
        return choices.choose(variant, values)
    settings = None if choices.settings is None else choices.settings(**values)
    return replace(variant, settings=settings)


def chosen_all(variants: Sequence[Variant], options: Mapping[str, Any]) -> list[Variant]:
    """As `chosen` for each of several: every option has to be taken by one of them at least."""
    taken = {name for each in variants for name in exporter_of(each).choices.options(each)}
    nobodys = {name: value for name, value in options.items() if name not in taken}
    for each in variants:
        chosen(each, nobodys)
    return [chosen(each, options, strict=False) for each in variants]


def _what_for(option: str) -> str:
    for exporter in EXPORTERS:
        made = (Variant(r, p) for r, precisions in exporter.makes.items() for p in precisions)
        if any(option in exporter.choices.options(variant) for variant in made):
            return exporter.choices.options_for
    raise UsageError(f"no exporter takes {option}")


def job_from_json(data: Mapping[str, Any]) -> tuple[Exporter, Job]:
    """A job as it has crossed to another process, and whose it is.

    Raises:
        UsageError: nothing of that name is installed here.
        ArtifactError: it is damaged.
    """
    exporter = EXPORTERS.get(data["exporter"])
    settings = data["variant"]["settings"]
    job = from_json(Job, {**data, "variant": {**data["variant"], "settings": None}}, "job")
    if settings is not None:
        if exporter.choices.settings is None:
            raise UsageError(f"the exporter {exporter.name!r} has settings, but names no class")
        typed: Any = from_json(exporter.choices.settings, settings, "job.settings")
        job = replace(job, variant=replace(job.variant, settings=typed))
    return exporter, job
