"""What an engine can be told beside the common options: names, types and values, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mip_edge.errors import OptionError

FLAG = "--engine-option"
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class EngineOption:
    """One keyword of a backend's `open`."""

    type: type[str | int | bool]
    help: str
    """One line."""
    choices: tuple[str, ...] = ()
    """All values of a text that is no free one."""
    smallest: int = 0
    """Of a number."""

    @property
    def expected(self) -> str:
        """The values it takes, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is bool:
            return "true, false"
        return f"a whole number from {self.smallest}" if self.type is int else "text"

    def parse(self, name: str, text: str) -> Any:
        """The value that a text on the command line means. Raises: OptionError."""
        value: Any = text
        if self.type is bool:
            value = _BOOLEANS.get(text.lower(), text)
        elif self.type is int and text.strip().isdecimal():
            value = int(text)
        self.check(name, value)
        return value

    def check(self, name: str, value: Any) -> None:
        """Refuse a value of another type or outside the choices. Raises: OptionError."""
        # bool is an int to Python, and True no number of threads
        fits = type(value) is self.type and (not self.choices or value in self.choices)
        if fits and self.type is int:
            fits = value >= self.smallest
        if not fits or value == "":
            raise OptionError(f"{FLAG} {name}={value}: expected {self.expected} ({self.help})")


def parse_options(
    engine: str, known: Mapping[str, EngineOption], texts: Iterable[str]
) -> dict[str, Any]:
    """Typed values of texts such as `hint=throughput`, for the engine that knows those options.

    Raises: OptionError naming what there is, for an unknown key, a bad value or a key given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise OptionError(f"{FLAG} {text!r}: expected KEY=VALUE; {list_options(engine, known)}")
        if name not in known:
            raise OptionError(
                f"the engine {engine} has no option {name!r}; {list_options(engine, known)}"
            )
        if name in values:
            raise OptionError(f"{FLAG} {name} is given twice; leave one out")
        values[name] = known[name].parse(name, value)
    return values


def list_options(engine: str, known: Mapping[str, EngineOption]) -> str:
    """All options of an engine with their values, in one line."""
    if not known:
        return f"the engine {engine} has none"
    listed = "; ".join(f"{name} ({option.expected})" for name, option in known.items())
    return f"the engine {engine} has: {listed}"
