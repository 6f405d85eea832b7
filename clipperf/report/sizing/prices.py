"""Which kind of machine a name means, and what one of it costs an hour."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from clipperf.errors import UsageError
from clipperf.nouns.result import Environment
from clipperf.report.words import listed
from clipperf.text import letters, quoted, shown

Known = Mapping[str, tuple[str, Environment | None]]
"""Label and description of each environment by its id; see `records.environments`."""

Prices = dict[str, float]
"""What a machine costs an hour, by its environment's id."""

SHORTEST_ID = 4


def kinds_of(name: str, known: Known) -> list[str]:
    """The environments that a name means: its label (E1), the beginning of its id, or a part of
    its GPU's or processor's name, whatever its case, spaces and hyphens. Several where hardware
    of one kind was measured with several versions.

    Raises:
        UsageError: none is, or several are.
    """
    wanted = letters(name)
    for found in (
        [i for i, (label, _) in known.items() if label.lower() == wanted],
        [i for i in known if len(name) >= SHORTEST_ID and i.startswith(name)],
        [i for i, (_, e) in known.items() if wanted and e is not None and wanted in _named(e)],
    ):
        if found and len({_hardware(known[i][1]) for i in found}) == 1:
            return found
        if found:
            labels = listed([known[i][0] for i in found])
            raise UsageError(f"{shown(name)} is the machine of {labels}: name one of them")
    raise UsageError(f"no machine of these results is {quoted(name)}: there is {kinds(known)}")


def prices_of(
    prices: Iterable[tuple[str, float]],
    known: Known,
    measured: Iterable[str],
    assumed: Iterable[str] = (),
) -> Prices:
    """The price of a machine by environment; a name "" means the only kind that there is.

    Of the `measured` kinds all have one or none, and so have those that are `assumed`.

    Raises:
        UsageError: a name means no machine or several, or one of a group has no price.
    """
    groups = [list(dict.fromkeys(each)) for each in (measured, assumed)]
    used = [*groups[0], *groups[1]]
    found: Prices = {}
    for name, price in prices:
        if not name and len(used) > 1:
            raise UsageError(
                f"--price {price:g} is of which machine? There is {kinds(known)}: "
                f"give --price {known[used[0]][0]}={price:g}"
            )
        for kind in kinds_of(name, known) if name else used[:1]:
            if found.get(kind, price) != price:
                raise UsageError(f"{known[kind][0]} has two prices: {found[kind]:g} and {price:g}")
            found[kind] = price
    missing = [
        i for group in groups for i in group if i not in found and any(g in found for g in group)
    ]
    if missing:
        label = known[missing[0]][0]
        raise UsageError(
            f"no price for {kinds({i: known[i] for i in missing})}: add --price "
            f"{shlex.quote(f'{label}=PER_HOUR')}"
        )
    return found


def kinds(known: Known) -> str:
    """Every kind of machine in words."""
    return listed([f"{label} ({_words(e)})" for label, e in known.values()])


def _words(environment: Environment | None) -> str:
    if environment is None:
        return "not described"
    return shown(environment.gpu or environment.cpu)


def _hardware(environment: Environment | None) -> tuple[object, ...]:
    if environment is None:
        return ()
    return (environment.cpu, environment.cores, environment.gpu)


def _named(environment: Environment) -> str:
    return f"{letters(environment.cpu)} {letters(environment.gpu or '')}"
