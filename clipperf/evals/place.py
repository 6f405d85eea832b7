"""What lies at the path or name of a dataset: files in a folder or archive, and a recipe."""

from __future__ import annotations

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from clipperf.errors import UsageError
from clipperf.evals.layout import LAYOUTS, SPLITS, MissingSplitError, Place, half_met, layout_of
from clipperf.evals.published import SETS, PublishedSet, how_to_fetch, local_path, roots
from clipperf.evals.recipe import RECIPE, Recipe, read_recipe
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, list_folder, list_tar, list_zip
from clipperf.system.targets import entries_of, expanded, kind_of
from clipperf.text import number_of, shown

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "eval.zip"

TABLES = (".csv", ".jsonl", ".txt")

OnStage = Callable[[str], None]


def path_of(
    name_or_dir: str | Path | PublishedSet, split: str, on_stage: OnStage
) -> tuple[Path, str]:
    """Where a dataset lies, fetched now where it is published and not here; its published name.

    Raises:
        UsageError: there is none of that name, or it cannot be fetched; the message says from
            where, and where to put it.
    """
    meant = name_or_dir if isinstance(name_or_dir, PublishedSet) else _meant(name_or_dir)
    if isinstance(meant, PublishedSet):
        return _published(meant, split, on_stage)
    if isinstance(meant, str):
        from clipperf.evals.fetch import fetch, folder_name  # clients of HTTP take long to import

        return fetch(meant, split, roots()[-1] / folder_name(meant), on_stage), ""
    return meant, ""


def path_here(name_or_dir: str | Path) -> Path | None:
    """Where a dataset lies that is no published one; None where it is one, or has to be fetched.

    Raises:
        UsageError: there is none of that name, or nobody may fetch it.
    """
    meant = _meant(name_or_dir)
    if isinstance(meant, PublishedSet) and meant.url is None and local_path(meant) is None:
        raise UsageError(f"{meant.name} is not here, and {how_to_fetch(meant)}")
    return meant if isinstance(meant, Path) else None


def _meant(name_or_dir: str | Path) -> Path | str | PublishedSet:
    """The path, address or published dataset that a name means; raises UsageError."""
    name = str(name_or_dir)
    if not name.strip():
        raise UsageError("the dataset is empty: give 'sample' or a folder")
    if name == "sample":
        return SAMPLE
    if name.startswith(("https://", "http://")):
        return name
    path = expanded(name_or_dir)
    if kind_of(path) != "nothing":
        return path
    known = SETS.get(name.removeprefix("wds/"))
    if known is None:
        raise UsageError(
            f"no dataset at {shown(path)}: give 'sample', a folder with one folder a class, "
            "a folder of images with captions.csv, or the name of a published one such as "
            "vtab/cifar10"
        )
    return known


def _published(known: PublishedSet, split: str, on_stage: OnStage) -> tuple[Path, str]:
    found = local_path(known)
    target = roots()[-1] / known.folder
    # A fetch that was interrupted left shards without their number.
    begun = found == target and any(target.glob("*/*.tar"))
    if found is not None and not (begun and not (target / split / "nshards.txt").is_file()):
        return found, known.name
    if known.url is None:
        raise UsageError(f"{known.name} is not here, and {how_to_fetch(known)}")
    from clipperf.evals.fetch import fetch

    try:
        return fetch(known.url, split, target, on_stage), known.name
    except MissingSplitError:
        raise
    except UsageError as exc:
        raise UsageError(f"{known.name} is not here, and {exc}: {how_to_fetch(known)}") from exc


def place_at(
    path: Path, split: str | None, language: str | None, published: str, part: str = ""
) -> tuple[Place, Recipe | None]:
    """What lies at a path, and what the recipe there asks for; of another part, where it says."""
    recipe, table = None, None
    named: list[Path] = []
    inside = path / RECIPE
    if path.suffix == ".toml" or (kind_of(path) == "folder" and kind_of(inside) == "file"):
        own = path if path.suffix == ".toml" else inside
        recipe = read_recipe(ImageSource(own.name, own))
        named = [own, *(own.parent / name for name in (recipe.data, *recipe.parts.values()))]
        path = own.parent / recipe.parts.get(part, recipe.data)
        if kind_of(path) == "nothing":
            raise UsageError(f"{shown(own)} names {shown(path)}, which is not there")
        if path.suffix in TABLES:
            path, table = path.parent, path.name
    if kind_of(path) == "folder":
        files = list_folder(_snapshot(path))
    else:
        files = list_tar(path) if path.suffix == ".tar" else list_zip(path)
    if recipe is None and RECIPE in files:
        recipe = read_recipe(files[RECIPE])
        table = recipe.parts.get(part, recipe.data) or None
        if table and (table not in files or posixpath.splitext(table)[1] not in TABLES):
            raise UsageError(
                f"{files[RECIPE]} names {shown(table)}, which is no table there: in an archive a "
                "TOML names no folders; put it beside the archive"
            )
    suffixes = image_suffixes()
    images = tuple(n for n in files if posixpath.splitext(n)[1].lower() in suffixes)
    place = Place(path, files, images, table=table, published=published)
    asked = recipe or Recipe()
    place = dataclasses.replace(
        place,
        split=(None if part else asked.split) or split or place.split,
        language=asked.language or language or place.language,
        columns=asked.columns,
        asked=asked.columns_asked,
        named=(RECIPE, *asked.parts.values(), *_within(path, named), *((table,) if table else ())),
    )
    if not images and not any(layout.fits(place) for layout in LAYOUTS):
        raise _no_images(place, suffixes)
    return place, recipe


def _within(folder: Path, paths: Collection[Path]) -> list[str]:
    """The names of those of the paths that lie in a folder itself."""
    top = folder.resolve()
    return [path.name for path in paths if path.parent.resolve() == top]


def _snapshot(folder: Path) -> Path:
    """The folder itself, or where the hub's cache has its newest version."""
    if not folder.name.startswith("datasets--"):
        return folder
    found = sorted(entries_of(folder / "snapshots"), key=lambda version: version.stat().st_mtime)
    return found[-1] if found else folder


def _no_images(place: Place, suffixes: Collection[str]) -> UsageError:
    met = half_met(place)
    if met:
        return UsageError(f"{shown(place.root)} cannot be read as a dataset: {met}")
    return UsageError(
        f"no images in {shown(place.root)}: looked for {', '.join(sorted(suffixes))}"
        f"{others(place.files, place.images, ())}"
    )


def others(files: Mapping[str, ImageSource], images: Collection[str], own: Collection[str]) -> str:
    """The files that are neither images nor a dataset's own, counted by suffix."""
    known = set(images)
    spare = [name for name in files if name not in known and not _is_own(name, own)]
    if not spare:
        return ""
    counts = Counter(posixpath.splitext(name)[1].lower() or "none" for name in spare)
    told = ", ".join(f"{shown(suffix)} {count}" for suffix, count in counts.most_common(10))
    return (
        f"; {number_of(len(spare), 'file')} of other suffixes: {told} (first: {shown(min(spare))})"
    )


def _is_own(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is a dataset's own; a pattern without "*" means one at the top."""
    base = posixpath.basename(name)
    return any(fnmatchcase(base if "*" in p else name, p) for p in patterns)


def check(path: str) -> None:
    """Make sure, without opening an image, that a dataset lies at a path.

    Raises:
        UsageError: nothing does, or it is no dataset.
    """
    found, published = path_of(path, SPLITS[0], lambda stage: None)
    layout_of(place_at(found, None, None, published)[0])
