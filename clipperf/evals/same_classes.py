"""Parts of a dataset brought to the same classes: those that the files call alike.

A class that one part has no images of is an empty class there, and shifts no labels. Where each of
two has classes that the other lacks, they are different sets of classes, and an error says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import few
from clipperf.evals.recipe import prompts_of

Parts = dict[str, Dataset]


def with_the_same_classes(
    dataset: Dataset, parts: Mapping[str, Dataset]
) -> tuple[Dataset, Parts, list[str]]:
    """The dataset and its parts, labelled by the classes of the one that has most; and notes.

    Raises:
        UsageError: a part has other classes; the message names them.
    """
    if not dataset.class_keys:
        return dataset, dict(parts), []
    known = {name: _by_names(part, dataset) for name, part in parts.items()}
    most, largest = "", dataset
    for name, part in known.items():
        if len(part.class_keys) > len(largest.class_keys):
            most, largest = name, part
    for name, part in {"": dataset, **known}.items():
        if {*part.class_keys} <= {*largest.class_keys}:
            continue
        said = (
            _differing(name, part, most, largest) if name else _differing(most, largest, "", part)
        )
        raise UsageError(f"{dataset.name}: {said}{_unread({'': dataset, **parts})}")
    notes = []
    if most:
        dataset, note = _extended(dataset, largest, most)
        notes.append(note)
    aligned = {
        name: _relabelled(part, dataset.class_keys) if part.class_keys else part
        for name, part in known.items()
    }
    return dataset, aligned, notes


def _unread(parts: Mapping[str, Dataset]) -> str:
    """Which classes are not there because their images cannot be read, in words; "" for none."""
    told = [
        f"{few(part.unread)} in {f'its part for {name}' if name else 'what is evaluated'}"
        for name, part in parts.items()
        if part.unread
    ]
    return f"; no image can be read of {'; '.join(told)}: mend those files" if told else ""


def _differing(one: str, first: Dataset, other: str, second: Dataset) -> str:
    """What of the classes of a part is not in another, or in the data itself (""), in words."""
    keys, those = {*first.class_keys}, {*second.class_keys}
    whose = f"its part for {other}" if other else "what is evaluated"
    return (
        f"its part for {one} has other classes: {few(keys - those)} only there, "
        f"{few(those - keys)} only in {whose}: call the same classes alike"
    )


def _by_names(part: Dataset, dataset: Dataset) -> Dataset:
    """A part whose classes go by number, or by name, where those of the data itself do not.

    Then the lists of names must be the same. Where both go by number, so must be the names of the
    numbers that both have.
    """
    if not part.class_keys:
        return part
    mine, theirs = _numbered(dataset), _numbered(part)
    if mine != theirs and part.class_names == dataset.class_names:
        return dataclasses.replace(part, class_keys=dataset.class_keys)
    if mine and theirs:
        pairs = zip(dataset.class_names, part.class_names, strict=False)
        odd = [f"{i}: {a}, {b}" for i, (a, b) in enumerate(pairs) if a != b]
        if odd:
            raise UsageError(
                f"{dataset.name}: one of its parts has other names for the same numbers of classes "
                f"({few(odd)}): give both one list of names in classnames.txt"
            )
    return part


def _numbered(dataset: Dataset) -> bool:
    return dataset.class_keys == tuple(map(str, range(len(dataset.class_keys))))


def _extended(dataset: Dataset, largest: Dataset, part: str) -> tuple[Dataset, str]:
    """The data with the classes that only a part has images of, in the order of that part."""
    more = [key for key in largest.class_keys if key not in {*dataset.class_keys}]
    if dataset.pools:
        raise UsageError(f"{dataset.name}: pooled names no class {few(more)}, which {part} has")
    own = dict(zip(dataset.class_keys, dataset.class_names, strict=True))
    names = dict(zip(largest.class_keys, largest.class_names, strict=True)) | own
    prompts: tuple[tuple[str, ...], ...] = ()
    if dataset.class_prompts:
        given = dict(zip(dataset.class_keys, dataset.class_prompts, strict=True))
        prompts = tuple(
            given.get(key) or prompts_of(names[key], dataset.templates)
            for key in largest.class_keys
        )
    found = _relabelled(dataset, largest.class_keys)
    return (
        dataclasses.replace(
            found,
            class_names=tuple(names[key] for key in largest.class_keys),
            class_prompts=prompts,
        ),
        f"{dataset.name}: {len(more)} classes have images in its part for {part} and none in what "
        f"is evaluated ({few(names[key] for key in more)}): they are classes there, too",
    )


def _relabelled(dataset: Dataset, keys: Sequence[str]) -> Dataset:
    """The same images, labelled by the places of their classes among `keys`."""
    place = {key: i for i, key in enumerate(keys)}
    moved = [place[key] for key in dataset.class_keys]
    return dataclasses.replace(
        dataset,
        labels=tuple(moved[label] for label in dataset.labels),
        label_sets=tuple(tuple(sorted(moved[own] for own in s)) for s in dataset.label_sets),
        class_keys=tuple(keys),
    )
