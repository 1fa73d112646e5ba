"""One table of a TOML file: hands out checked values, and refuses what nobody asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from mip_edge.errors import OptionError

Choice = TypeVar("Choice", bound=Enum)


def is_number(value: object) -> bool:
    """A number that fits float32; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def is_whole(value: object, least: int) -> bool:
    """A whole number of at least `least`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class DescriptionTable:
    """One table of the file: hands out checked values, and knows which keys nobody asked for."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        self._path, self._name, self._values = path, name, values
        self._asked: list[str] = []

    def fault(self, key: str, value: object, wanted: str) -> OptionError:
        """What to raise for a value that cannot be, or is not there."""
        where = f"[{self._name}] " if self._name else ""
        met = f"{where}{key} is {value!r}" if key in self._values else f"{where}{key} is missing"
        return OptionError(f"--detector {self._path}: {met}; expected {wanted}")

    def only(self, keys: Sequence[str], kind: str, others: Mapping[str, Sequence[str]]) -> None:
        """Refuse keys that belong to `others` alone, naming them."""
        for key in self._values:
            owners = [other for other, own in others.items() if key in own]
            if key not in keys and owners:
                raise OptionError(
                    f"--detector {self._path}: [{self._name}] {key} is for kind "
                    f'{" and ".join(owners)}; kind "{kind}" has {", ".join(keys)}'
                )

    def finish(self) -> None:
        """Refuse what was never asked for: a misspelt key must not run."""
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._asked)}"
                where = f"[{self._name}] " if self._name else ""
                raise OptionError(f"--detector {self._path}: unknown key {where}{key}; {hint}")

    def table(self, key: str) -> DescriptionTable:
        """A table inside this one, empty if it is not there."""
        values = self._get(key, {})
        if not isinstance(values, dict):
            raise self.fault(key, values, f"a table [{key}]")
        return DescriptionTable(self._path, key, values)

    def text(self, key: str, default: str | None) -> str:
        """A text; with no default it must be there."""
        value = self._get(key, default)
        if not isinstance(value, str) or (not value and key in self._values):
            raise self.fault(key, value, "a text in quotes")
        return value

    def word(self, key: str, words: Sequence[str]) -> str:
        """One of some words, the first by default."""
        value = self._get(key, words[0])
        if value not in words:
            raise self.fault(key, value, " or ".join(words))
        return str(value)

    def choice(self, key: str, choices: type[Choice], default: Choice | None) -> Choice:
        """A member of an Enum by its value; with no default it must be there."""
        value = self._get(key, default.value if default else None)
        for member in choices:
            if member.value == value:
                return member
        raise self.fault(key, value, " or ".join(str(member.value) for member in choices))

    def whole(self, key: str, default: int, *, least: int, most: int | None = None) -> int:
        """A whole number within bounds."""
        value = self._get(key, default)
        if key in self._values:
            top = f" and at most {most}" if most is not None else ""
            right = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not right or (most is not None and value > most):
                raise self.fault(key, value, f"a whole number of at least {least}{top}")
        return int(value)

    def wholes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers from 1."""
        value = self._get(key, list(default))
        if not isinstance(value, list) or not value or not all(is_whole(v, 1) for v in value):
            raise self.fault(
                key, value, "a list of whole numbers of at least 1, such as [8, 16, 32]"
            )
        return tuple(value)

    def number(
        self, key: str, default: float, least: float | None = None, most: float | None = None
    ) -> float:
        """A number, within bounds if there are."""
        value = self._get(key, default)
        if not is_number(value) or (
            least is not None and most is not None and not least <= value <= most
        ):
            span = f" from {least:g} to {most:g}" if least is not None else ""
            raise self.fault(key, value, f"a number{span}")
        return float(value)

    def three(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """Three numbers, one a channel."""
        value = self._get(key, list(default))
        if not isinstance(value, list) or len(value) != 3 or not all(map(is_number, value)):
            raise self.fault(key, value, "a list of three numbers, one a channel")
        return float(value[0]), float(value[1]), float(value[2])

    def truth(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, value, "true or false")
        return value

    def _get(self, key: str, default: object) -> Any:
        self._asked.append(key)
        return self._values.get(key, default)
