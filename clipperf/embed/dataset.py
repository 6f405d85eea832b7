"""A dataset to embed: what lies at its path, its files, and its items from any place on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from clipperf.embed import urls
from clipperf.embed.items import Item, Later, Url, Wanted, readable, text_of
from clipperf.embed.listing import Digest, Found, Listing, stamped, walk
from clipperf.embed.names import on_disk
from clipperf.embed.parquet import parquet_items, parquet_rows
from clipperf.embed.tables import SUFFIXES, columns_in, table_items
from clipperf.embed.tarred import tar_items
from clipperf.embed.unique import Unique, digest_of_id
from clipperf.errors import UsageError
from clipperf.inputs.reading import image_suffixes
from clipperf.inputs.sources import ImageSource, list_zip
from clipperf.system.reading import read_regular
from clipperf.system.targets import kind_of
from clipperf.text import quoted, shown

MOST_TEXT_BYTES = 1 << 22
"""Of a file that is one text."""

LOOKED_AT_BYTES = 1 << 26
"""Of images in a dataset in which URLs are looked for beforehand; rows of none take no room."""

NAMED = 3
"""Ids that an error names."""


@dataclass(frozen=True)
class Dataset:
    """What lies at a path. `files` and their `size_bytes` have the `digest`, see `listing.Digest`.

    `items(start)` are its items from a place on, `ids()` their ids alone, which are `unique` where
    that needs no looking. `count` is how many there are, None where that has to be counted.
    """

    path: Path
    kind: str
    files: int
    size_bytes: int
    digest: str
    items: Callable[[int], Iterator[Item]]
    ids: Callable[[], Iterator[str]]
    unique: bool
    count: int | None


def opened(path: Path, wanted: Wanted, scratch: Path) -> Dataset:
    """The dataset at a path: a folder, a zip, tars, tables or Parquet files.

    `scratch` is a folder for a list of its files, which is there as long as the dataset is read.

    Raises:
        UsageError: there is none, nothing in it is wanted, or a column is not there.
        MissingDependencyError: reading it takes a package that is not installed.
    """
    kind, suffix = kind_of(path), path.suffix.lower()
    if kind == "nothing":
        raise UsageError(f"{shown(path)}: there is no such file or folder")
    if kind == "folder":
        return _folder(path, wanted, scratch)
    if suffix in SUFFIXES and kind == "file":
        return _table(path, wanted)
    if suffix == ".zip" and kind == "file":
        return _zip(path, wanted)
    for own, make in ((".parquet", _parquets), (".tar", _tars)):
        if suffix == own and kind == "file":
            return replace(make(path.parent, [stamped(path)], wanted), path=path)
    raise UsageError(
        f"{shown(path)} is no dataset: give a folder of images, or a file that ends in "
        f"{', '.join((*SUFFIXES, '.tar', '.parquet', '.zip'))}"
    )


def survey(dataset: Dataset, scratch: Path) -> int:
    """How many items a dataset has, none of which shares its id with another.

    Raises:
        UsageError: ids are there twice, or there are no items.
    """
    count = dataset.count
    if count is None or not dataset.unique:
        found, count = Unique(scratch), 0
        for id_ in dataset.ids():
            count += 1
            if not dataset.unique:
                found.add(id_)
        twice = set(islice(found.repeated(), NAMED))
        if twice:
            raise _repeated(dataset, twice)
    if not count:
        raise UsageError(f"{shown(dataset.path)} holds nothing to embed")
    return count


def check_reachable(dataset: Dataset, wanted: Wanted) -> None:
    """Make sure, before a tower is opened, that what has to be fetched can be.

    Nothing is read where URLs can be fetched or there are none. A file of images whose first
    `LOOKED_AT_BYTES` are no URLs hardly has one behind them.

    Raises:
        MissingDependencyError: there are URLs, and the package for them is not installed.
    """
    may_be = wanted.side == "image" and dataset.kind in ("table", "parquet")
    absent = urls.missing() if may_be else None
    if absent is None:
        return
    seen = 0
    for item in dataset.items(0):
        if isinstance(item.given, Url):
            raise absent
        seen += len(item.given) if isinstance(item.given, bytes) else 0
        if seen > LOOKED_AT_BYTES:
            return


def check_unchanged(dataset: Dataset, path: Path, wanted: Wanted, scratch: Path) -> None:
    """Make sure that what lies at a path is still what was opened.

    Raises:
        UsageError: its files are not those that were there at first.
    """
    scratch.mkdir()
    if opened(path, wanted, scratch).digest != dataset.digest:
        raise UsageError(
            f"{shown(path)} changed while it was read, so that vectors may be those of other "
            f"items: begin again, with another --out"
        )


def _repeated(dataset: Dataset, digests: set[bytes]) -> UsageError:
    places: dict[str, list[int]] = {}
    for place, id_ in enumerate(dataset.ids()):
        if digest_of_id(id_) in digests:
            places.setdefault(id_, []).append(place)
    told = "; ".join(
        f"{quoted(id_)} is that of items {', '.join(map(str, own[:4]))}"
        for id_, own in places.items()
    )
    return UsageError(
        f"{shown(dataset.path)}: ids are there twice, so that vectors could not be told apart: "
        f"{told}: change them, or name another column with --id-column"
    )


def _pinned(found: list[Found]) -> tuple[int, int, str]:
    digest = Digest()
    for each in found:
        digest.add(each)
    return digest.files, digest.size_bytes, digest.hex


def _table(path: Path, wanted: Wanted) -> Dataset:
    columns = columns_in(path, wanted)

    def ids() -> Iterator[str]:
        return (each.id for each in table_items(path, wanted, columns))

    items = partial(table_items, path, wanted, columns)
    unique = columns.id is None
    return Dataset(path, "table", *_pinned([stamped(path)]), items, ids, unique, None)


def _parquets(root: Path, found: list[Found], wanted: Wanted) -> Dataset:
    names = [each.name for each in found]
    count, own = parquet_rows(root, names, wanted)

    def ids() -> Iterator[str]:
        return (each.id for each in parquet_items(root, names, wanted, read=False))

    items = partial(parquet_items, root, names, wanted)
    return Dataset(root, "parquet", *_pinned(found), items, ids, not own, count)


def _tars(root: Path, found: list[Found], wanted: Wanted) -> Dataset:
    if wanted.id_column is not None:
        raise UsageError("--id-column is for tables: the samples of tars have names")
    names = [each.name for each in found]

    def ids() -> Iterator[str]:
        return (each.id for each in tar_items(root, names, wanted, read=False))

    items = partial(tar_items, root, names, wanted)
    return Dataset(root, "webdataset", *_pinned(found), items, ids, False, None)


def _no_columns(wanted: Wanted) -> None:
    for option, value in (("--column", wanted.column), ("--id-column", wanted.id_column)):
        if value is not None:
            raise UsageError(f"{option} is for tables: files have names")


def _suffixes(wanted: Wanted) -> frozenset[str]:
    return image_suffixes() if wanted.side == "image" else frozenset((".txt",))


def _zip(path: Path, wanted: Wanted) -> Dataset:
    _no_columns(wanted)
    own = _suffixes(wanted)
    sources = [s for name, s in list_zip(path).items() if Path(name).suffix.lower() in own]

    def items(start: int) -> Iterator[Item]:
        return (_zipped(source, wanted) for source in islice(sources, start, None))

    def ids() -> Iterator[str]:
        return (readable(source.name) for source in sources)

    return Dataset(path, "zip", *_pinned([stamped(path)]), items, ids, True, len(sources))


def _zipped(source: ImageSource, wanted: Wanted) -> Item:
    id_ = readable(source.name)
    if wanted.side == "image":
        return Item(id_, Later(source.name, source.read))
    try:
        return Item(id_, text_of(source.read(MOST_TEXT_BYTES)))
    except UsageError as exc:
        return Item(id_, None, str(exc))


def _folder(root: Path, wanted: Wanted, scratch: Path) -> Dataset:
    listing, own = Listing(scratch), _suffixes(wanted)
    others: dict[str, list[Found]] = {".tar": [], ".parquet": []}
    met: Counter[str] = Counter()
    for found in walk(root):
        suffix = Path(found.name).suffix.lower()
        if suffix in others:
            others[suffix].append(found)
        elif suffix in own:
            listing.add(found)
        else:
            met[suffix or "without a suffix"] += 1
    kinds = {suffix: len(each) for suffix, each in others.items() if each}
    kinds |= {f"{wanted.side} files": listing.count} if listing.count else {}
    if len(kinds) > 1:
        said = ", ".join(f"{number} {name}" for name, number in kinds.items())
        raise UsageError(f"{shown(root)} holds {said}: name a folder that holds one kind")
    if not kinds:
        said = ", ".join(f"{number} {shown(name)}" for name, number in met.most_common(5))
        raise UsageError(
            f"{shown(root)} holds nothing to embed: looked for {wanted.side} files, .tar and "
            f".parquet; there are {said or 'no files'}"
            + ("; name the table" if met.keys() & {*SUFFIXES} else "")
        )
    for suffix, make in ((".tar", _tars), (".parquet", _parquets)):
        if others[suffix]:
            return make(root, sorted(others[suffix], key=lambda each: each.name), wanted)
    _no_columns(wanted)
    listing.sort()

    def items(start: int) -> Iterator[Item]:
        return (_file(root, name, wanted) for name in listing.names(start))

    def ids() -> Iterator[str]:
        return map(readable, listing.names())

    pinned = listing.digest.files, listing.digest.size_bytes, listing.digest.hex
    return Dataset(root, "folder", *pinned, items, ids, True, listing.count)


def _file(root: Path, name: str, wanted: Wanted) -> Item:
    id_ = readable(name)
    if id_ != name:
        return Item(id_, None, "its name is no UTF-8: rename it")
    if wanted.side == "image":
        return Item(id_, root / on_disk(name))
    try:
        return Item(id_, text_of(read_regular(root / on_disk(name), MOST_TEXT_BYTES)))
    except UsageError as exc:
        return Item(id_, None, str(exc))
    except (OSError, ValueError) as exc:
        return Item(id_, None, shown(getattr(exc, "strerror", None) or exc))
