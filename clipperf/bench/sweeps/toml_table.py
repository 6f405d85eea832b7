"""A table of a TOML file, read key by key; what is wrong with one is said in its own words."""

from __future__ import annotations

from typing import Any

from clipperf.errors import UsageError
from clipperf.text import quoted

MOST = 2**31 - 1
"""The largest whole number."""


class TomlTable:
    """A table; every key that is asked for is one that is allowed, see `check_known`.

    Raises:
        UsageError: from every method, where a value cannot be; the message names the key and what
            it may be.
    """

    def __init__(self, where: str, found: Any) -> None:
        if not isinstance(found, dict):
            raise UsageError(f"{where} must be a table of keys and values")
        self.where = where
        self.found: dict[str, Any] = found
        self._asked: list[str] = []

    def _get(self, key: str) -> Any:
        self._asked.append(key)
        return self.found.get(key)

    def check_known(self) -> None:
        """Raise UsageError where a key was not asked for."""
        unknown = [key for key in self.found if key not in self._asked]
        if unknown:
            raise UsageError(
                f"{self.where}: {quoted(unknown[0])} is not known; there are "
                f"{', '.join(self._asked)}"
            )

    def table(self, key: str) -> TomlTable:
        """A table in it; an empty one where there is none."""
        found = self._get(key)
        return TomlTable(f"{self.where}: {key}", {} if found is None else found)

    def tables(self, key: str) -> list[TomlTable]:
        """The tables of a list of them."""
        found = self._get(key)
        if found is not None and not isinstance(found, list):
            raise UsageError(f"{self.where}: {key} must be [[{key}]], a list of tables")
        return [TomlTable(f"{self.where}: {key}", each) for each in found or ()]

    def names(self, key: str, usual: tuple[str, ...] | None) -> tuple[str, ...]:
        """Texts, each once; `usual` None: there must be some."""
        found = self._get(key)
        if found is None and usual is not None:
            return usual
        values = [found] if isinstance(found, str) else found
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise UsageError(f'{self.where}: {key} must be a list of texts: {key} = ["..."]')
        if not values and usual != ():
            raise UsageError(f"{self.where}: {key} is empty")
        return tuple(dict.fromkeys(values))

    def some(self, key: str, known: Any, usual: Any, *, empty: bool = False) -> Any:
        """Texts of those that are known, in the order of those."""
        found = self._get(key)
        if found is None:
            return usual
        values = [found] if isinstance(found, str) else found
        good = isinstance(values, list) and (values or empty)
        if not good or not all(isinstance(v, str) and v in known for v in values):
            raise UsageError(
                f"{self.where}: {key} = {quoted(found)}: choose from {', '.join(known)}"
            )
        return tuple(each for each in known if each in values)

    def counts(self, key: str, usual: Any, least: int = 1) -> Any:
        """Whole numbers, each once."""
        found = self._get(key)
        if found is None:
            return usual
        values = found if isinstance(found, list) else [found]
        if not values or not all(type(v) is int and least <= v <= MOST for v in values):
            raise UsageError(
                f"{self.where}: {key} = {quoted(found)}: give whole numbers from {least} to {MOST}"
            )
        return tuple(dict.fromkeys(values))

    def count(self, key: str, usual: int) -> int:
        """One whole number from 1."""
        found = self._get(key)
        if found is None:
            return usual
        if type(found) is not int or not 1 <= found <= MOST:
            raise UsageError(
                f"{self.where}: {key} = {quoted(found)}: give one whole number from 1 to {MOST}"
            )
        return int(found)

    def number(self, key: str, *, zero: bool = False, most: float = 1e9) -> float | None:
        """A number above 0, None where there is none."""
        found = self._get(key)
        if found is None:
            return None
        # NaN is in no range, and an integer may be too large to be asked whether it is finite.
        good = type(found) in (int, float) and 0 <= found <= most
        if not good or (found == 0 and not zero):
            least = "from 0" if zero else "above 0"
            raise UsageError(
                f"{self.where}: {key} = {quoted(found)}: give a number {least}, up to {most:g}"
            )
        return float(found)

    def flag(self, key: str) -> bool:
        """True or false; false where it is not there."""
        found = self._get(key)
        if found is not None and not isinstance(found, bool):
            raise UsageError(f"{self.where}: {key} = {quoted(found)}: give true or false")
        return bool(found)

    def word(self, key: str) -> str | None:
        """A text, None where there is none."""
        found = self._get(key)
        if found is not None and (not isinstance(found, str) or not found):
            raise UsageError(f"{self.where}: {key} = {quoted(found)}: give a text")
        return found
