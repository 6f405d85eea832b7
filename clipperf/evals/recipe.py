"""Anybody's own evaluation: a small TOML beside the images, or one that names their folder.

Paths are relative to the TOML. ::

    data = "photos"                  # folder, table or archive; by default where the file lies
    task = "zeroshot"                # or "retrieval", or a list; by default all that fit
    metric = "mean per-class recall" # or a list; by default all
    templates = ["a photo of a {}."] # {} or {c} stands for the class name
    classes = ["cat", "dog"]         # names by index; or a table: folder = "name",
                                     # or folder = ["a prompt of its own", "another"]; or the
                                     # name of a published dataset, as for templates
    prefix = "a photo of "           # before every caption
    split = "test"
    train = "photos/train"           # where other parts lie that tasks train on, search on
    validation = "photos/val"        # or look up in (reference = "..."); by default the
                                     # data's own splits
    language = "en"
    image = "path"                   # columns of a CSV or JSONL that have names of their own
    caption = "text"
    label = "kind"
    latitude = "lat"
    longitude = "lon"
    shots = [1, 2, 4]                # of few-shot probes, and how often they are drawn
    repeats = 5
    group = ["region", "race=White"] # columns by which figures are wanted as well
    clip = "video"                   # the column that says which images are frames of one clip,
                                     # or "folder": those of one folder are
    labels = ["a doctor", "a nurse"] # what the task bias looks at
    folds = ["split 1", "split 2"]   # columns that say train or test of an image; see folds
    [pooled]                         # classifiers whose highest score is a class's: names for
    dog = ["husky", "golden retriever"]  # the templates, of each class that there is; or those
                                     # of ImageNet's 1,000: [151, 152] or ["n02085620", ...]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clipperf.errors import UsageError
from clipperf.evals.layout import Content, check_classes, few
from clipperf.evals.published import SETS, WORDNET, clip_benchmark_texts, imagenet_names
from clipperf.inputs.sources import ImageSource, read_text
from clipperf.text import quoted, shown

RECIPE = "task.toml"
"""Its name in a folder; outside of one it may have any."""

COLUMNS = ("image", "caption", "label", "latitude", "longitude")
PARTS = ("train", "validation", "reference")

GROUP, CLIP = "group", "clip"

MOST = 100_000
"""The largest number that a recipe may ask for."""


@dataclass(frozen=True)
class Recipe:
    """What a TOML asks for; what it does not name is as the data has it."""

    data: str = ""
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prefix: str = ""
    split: str = ""
    language: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    shots: tuple[int, ...] = ()
    repeats: int = 0
    groups: tuple[str, ...] = ()
    clip: str = ""
    candidates: tuple[str, ...] = ()
    pooled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    folds: tuple[str, ...] = ()

    @property
    def asks(self) -> tuple[str, ...]:
        """Which of "group" and "clip" it names."""
        return tuple(name for name, own in ((GROUP, self.groups), (CLIP, self.clip)) if own)

    @property
    def columns_asked(self) -> tuple[str, ...]:
        """The columns that it names beside image, caption and label."""
        groups = (name.partition("=")[0] for name in self.groups)
        return (*groups, *self.folds, *((self.clip,) if self.clip else ()))


def read_recipe(source: ImageSource) -> Recipe:
    """What the TOML in a file asks for.

    Raises:
        UsageError: it is no TOML, or a value is of another kind; the message names it.
    """
    import tomllib

    try:
        found = tomllib.loads(read_text(source))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        raise UsageError(f"{source} is no TOML: {shown(exc)}") from exc
    unknown = found.keys() - {*_WORDS, *_LISTS, *_COUNTS, *_TABLES}
    if unknown:
        known = ", ".join((*_LISTS, *_TABLES, *_WORDS, *_COUNTS))
        raise UsageError(f"{source}: {few(unknown)} is not known; there are {known}")
    words = {name: _word(found[name], f"{source}: {name}") for name in _WORDS if name in found}
    templates = found.get("templates")
    if isinstance(templates, str) and "{" not in templates:
        found["templates"] = _published(templates, f"{source}: templates")[1]
    lists = {
        own: _texts(found[name], f"{source}: {name}")
        for name, own in _LISTS.items()
        if name in found
    }
    columns = {name: words.pop(name) for name in COLUMNS if name in words}
    parts = {name: words.pop(name) for name in PARTS if name in words}
    asked: dict[str, Any] = {**words, **lists, **_classes(found.get("classes"), source)}
    if "shots" in found:
        asked["shots"] = _counts(found["shots"], f"{source}: shots")
    if "repeats" in found:
        (asked["repeats"],) = _counts([found["repeats"]], f"{source}: repeats")
    if "pooled" in found:
        asked["pooled"] = _pooled(found["pooled"], f"{source}: pooled")
    return Recipe(**asked, columns=columns, parts=parts)


_WORDS = ("data", "prefix", "split", "language", "clip", *COLUMNS, *PARTS)
_TABLES = ("classes", "pooled")
_COUNTS = ("shots", "repeats")
_LISTS = {
    "task": "tasks",
    "metric": "metrics",
    "templates": "templates",
    "group": "groups",
    "labels": "candidates",
    "folds": "folds",
}


def _word(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} must be a text")
    return value


def _counts(value: Any, where: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and 0 < v <= MOST for v in values):
        raise UsageError(f"{where}: give whole numbers from 1 to {MOST}")
    return tuple(values)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError(f"{where} is empty")
    return tuple(_word(each, where) for each in values)


def _published(name: str, where: str) -> tuple[list[str], list[str]]:
    """What the package clip-benchmark has for a dataset by its name."""
    if name not in SETS:
        raise UsageError(f"{where}: {quoted(name)} is no published dataset's name")
    return clip_benchmark_texts(name)


def _classes(value: Any, source: ImageSource) -> dict[str, Any]:
    where = f"{source}: classes"
    if value is None:
        return {}
    if isinstance(value, list):
        return {"names": _texts(value, where)}
    if isinstance(value, str):
        return {"names": tuple(_published(value, where)[0])}
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a list of names, or a table")
    renamed = {name: title for name, title in value.items() if isinstance(title, str)}
    prompts = {
        name: _texts(own, f"{where}.{name}") for name, own in value.items() if name not in renamed
    }
    return {"renamed": renamed, "prompts": prompts}


def _pooled(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{where} must be a table: a class, and the names pooled for it")
    return {name: _classifiers(own, f"{where}.{name}") for name, own in value.items()}


def _classifiers(value: Any, where: str) -> tuple[str, ...]:
    """Names; places among ImageNet's classes and WordNet's numbers of them are CLIP's names."""
    values = value if isinstance(value, list) else [value]
    if all(type(each) is int or _is_number(each) for each in values) and values:
        try:
            return tuple(imagenet_names(values))
        except UsageError as exc:
            raise UsageError(f"{where}: {exc}") from exc
    return _texts(value, where)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and WORDNET.fullmatch(value) is not None


def for_part(recipe: Recipe, content: Content) -> Recipe:
    """What a recipe asks of another part of the data, which may lack some of the classes.

    Prompts and pools are those of the data itself.
    """
    names = recipe.names if len(recipe.names) == len(content.class_names) else ()
    there = {*(names or content.class_names)}
    renamed = {name: title for name, title in recipe.renamed.items() if name in there}
    templates = recipe.templates if there else ()
    return dataclasses.replace(
        recipe,
        names=names,
        renamed=renamed,
        templates=templates,
        prefix=recipe.prefix if content.captions else "",
        prompts={},
        pooled={},
    )


def applied(content: Content, recipe: Recipe, where: str) -> Content:
    """A dataset's content as a recipe wants it.

    Raises:
        UsageError: it names classes that are not there, or another number of them; or it asks
            something of captions or classes, and the data has none.
    """
    if recipe.prefix and not content.captions:
        raise UsageError(f"{where}: prefix is for captions, and the data has none")
    captions = [f"{recipe.prefix}{caption}" for caption in content.captions]
    names: Sequence[str] = content.class_names
    if recipe.names:
        if len(recipe.names) != len(names):
            raise UsageError(f"{where}: {len(recipe.names)} classes, the data has {len(names)}")
        names = recipe.names
    unknown = (recipe.renamed.keys() | recipe.prompts.keys()) - set(names)
    if unknown:
        raise UsageError(f"{where}: no class {few(unknown)}; there are {few(names, 20)}")
    templates = recipe.templates or content.templates
    renamed = [recipe.renamed.get(name, name) for name in names]
    if names:
        check_classes(renamed, templates, where)
    elif recipe.templates:
        raise UsageError(f"{where}: templates, and the data has no classes")
    prompts: list[tuple[str, ...]] = []
    if recipe.prompts:
        prompts = [
            recipe.prompts.get(name) or prompts_of(title, templates)
            for name, title in zip(names, renamed, strict=True)
        ]
    pools: list[int] = []
    if recipe.pooled:
        if content.label_sets:
            raise UsageError(f"{where}: classes are pooled where an image has one of them alone")
        if recipe.prompts:
            raise UsageError(f"{where}: classes have prompts of their own, or are pooled, not both")
        if recipe.pooled.keys() != set(renamed):
            odd = recipe.pooled.keys() ^ set(renamed)
            raise UsageError(f"{where}: pooled must name every class and no other: {few(odd)}")
        for i, name in enumerate(renamed):
            prompts += [prompts_of(own, templates) for own in recipe.pooled[name]]
            pools += [i] * len(recipe.pooled[name])
    return dataclasses.replace(
        content,
        captions=captions,
        class_names=renamed,
        templates=templates,
        class_prompts=prompts or content.class_prompts,
        pools=pools,
        folds=recipe.folds or content.folds,
    )


def prompts_of(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    """Every template with a class name in it."""
    return tuple(template.replace("{}", name).replace("{c}", name) for template in templates)
