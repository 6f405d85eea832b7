"""Records by name: those of clipperf itself, and those that installed packages add.

Everything that clipperf can be extended by (runtimes, precisions, exporters, families, scenarios,
launchers, tasks, metrics, report formats) is a record in a registry. A registry finds a record

1. among the `rows` that it was made with,
2. in its `room`: a package with one module a record, named after it ("-" in the name is "_" in
   the file's, but for names in `first`), which holds it under the registry's kind in capitals
   (``RUNTIME = Runtime(...)``),
3. among the entry points of installed packages, in the group ``clipperf.KIND``.

Names are listed without importing anything, and entry points, which take long to list, are looked
at only where a name is not clipperf's own.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from clipperf.errors import UsageError


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name that it is found by."""
        ...


R = TypeVar("R", bound=Named)


class Registry(Generic[R]):
    """The records of one kind; see the module. `first` names come before the others in a list.

    `noun` is what messages call the kind, where its own name would say too little.
    """

    def __init__(
        self,
        kind: str,
        *,
        noun: str | None = None,
        rows: Sequence[R] = (),
        room: str | None = None,
        first: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        self._kind = kind
        self._noun = noun or kind
        self._rows = {row.name: row for row in rows}
        self._room = room
        self._first = tuple(first)
        self._hidden = frozenset(hidden)

    def get(self, name: str) -> R:
        """The record of a name.

        Raises:
            UsageError: there is none, and the message lists what there is; or the package that
                offers it is broken.
        """
        found = self.find(name)
        if found is None:
            raise UsageError(f"no {self._noun} {name!r}; choose from: {', '.join(self.names())}")
        return found

    def find(self, name: str) -> R | None:
        """The record of a name, None where there is none."""
        if name in self._rows:
            return self._rows[name]
        if name in self._files():
            module = importlib.import_module(f"{self._room}.{self._files()[name]}")
            found: R = getattr(module, self._kind.upper())
            return found
        point = entry_points(f"clipperf.{self._kind}").get(name)
        return None if point is None else self._loaded(name, point)

    def _loaded(self, name: str, point: Any) -> R:
        """The record behind an entry point."""
        where = f"{self._kind} {name!r} of the installed package {point.dist.name}"
        try:
            found: R = point.load()
        except Exception as exc:
            raise UsageError(f"the {where} cannot be loaded: {exc}") from exc
        if getattr(found, "name", None) != name:
            raise UsageError(f"the {where} is no {self._kind} of that name: {point.value}")
        return found

    @property
    def rows(self) -> tuple[R, ...]:
        """The records that the registry was made with."""
        return tuple(self._rows.values())

    def own(self) -> list[str]:
        """The names of clipperf's own records that users can choose."""
        names = dict.fromkeys((*self._first, *self._rows, *self._files()))
        return [name for name in names if name not in self._hidden]

    def names(self) -> list[str]:
        """Every name that users can choose, clipperf's own first."""
        return list(dict.fromkeys((*self.own(), *sorted(entry_points(f"clipperf.{self._kind}")))))

    def rank(self, name: str) -> int:
        """The place of a name among clipperf's own; behind all of them for others."""
        own = self.own()
        return own.index(name) if name in own else len(own)

    def __iter__(self) -> Iterator[R]:
        own = self.own()
        yield from map(self.get, own)
        for name in self.names():
            if name not in own:
                try:
                    yield self.get(name)
                except UsageError as exc:  # one broken package is no reason to stop
                    warnings.warn(str(exc), stacklevel=2)

    @functools.cache  # noqa: B019 - registries live as long as the process
    def _files(self) -> dict[str, str]:
        """The modules in the room by their records' names."""
        if self._room is None:
            return {}
        package = importlib.import_module(self._room)
        found = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        return {n if n in self._first else n.replace("_", "-"): n for n in found}


@functools.cache
def entry_points(group: str) -> dict[str, Any]:
    """What installed packages offer in a group of entry points, by name."""
    import importlib.metadata  # 2 MiB of RAM that measured processes seldom need

    return {point.name: point for point in importlib.metadata.entry_points(group=group)}
