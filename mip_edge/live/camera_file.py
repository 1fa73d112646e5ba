"""The cameras of a site and how long people walk between them, from one TOML file."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge.errors import OptionError
from mip_edge.live.source_options import (
    AUTO,
    KEYS,
    SourceOptions,
    parse_modality,
    require_different_names,
)
from mip_edge.live.travel import Travel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("camera", "travel")
TRAVEL_KEYS = ("from", "to", "min", "max")


@dataclass(frozen=True, slots=True)
class CameraFile:
    """What a file of cameras holds."""

    sources: tuple[SourceOptions, ...]
    """The cameras, at least one; urls of files are relative to the file no longer."""
    travels: tuple[Travel, ...]
    """Each pair of cameras at most once."""


def read_camera_file(path: str | os.PathLike[str]) -> CameraFile:
    """The `[[camera]]` and `[[travel]]` tables of a TOML file.

    Raises: OptionError naming the file, the table and the key.
    """
    file = Path(path)
    content = _load(file)
    _refuse_unknown(content, TABLES, str(file))
    sources = []
    for of, table in _tables(content, "camera", file):
        sources.append(_source(table, of, file.parent))
    if not sources:
        raise OptionError(f"{file} has no [[camera]]; expected at least one, with name and url")
    try:
        names = require_different_names(sources)
    except OptionError as error:
        raise OptionError(f"{file}: {str(error).removeprefix('--source ')}") from None
    travels: dict[tuple[str, str], Travel] = {}
    for of, table in _tables(content, "travel", file):
        travel = _travel(table, of, names)
        pair = (travel.origin, travel.destination)
        if pair in travels:
            raise OptionError(f"{of}: from {pair[0]!r} to {pair[1]!r} is given twice")
        travels[pair] = travel
    return CameraFile(tuple(sources), tuple(travels.values()))


def _load(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} is no TOML: {error}") from error
    return content


def _tables(content: Mapping[str, Any], key: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each table of a list, with the words by which an error names it."""
    tables = content.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise OptionError(f"{file}: {key} must be a list of tables; write [[{key}]]")
    return [(f"{file}: [[{key}]] {number}", table) for number, table in enumerate(tables, 1)]


def _source(table: Mapping[str, Any], of: str, folder: Path) -> SourceOptions:
    _refuse_unknown(table, KEYS, of)
    url = table.get("url")
    if isinstance(url, int) and not isinstance(url, bool):  # url = 0 is the first webcam
        table = {**table, "url": str(url)}
    words = {key: _text(table, key, of) for key in ("name", "url")}
    modality = parse_modality(_text({"modality": AUTO, **table}, "modality", of), of)
    rate = _number(table, "rate", of) if "rate" in table else None
    try:
        source = SourceOptions(words["name"], words["url"], modality, rate)
    except OptionError as error:
        raise OptionError(f"{of}: {str(error).removeprefix('--source ')}") from None
    if not source.is_local:
        return source
    return SourceOptions(source.name, str(folder / source.url), modality, rate)


def _travel(table: Mapping[str, Any], of: str, names: set[str]) -> Travel:
    _refuse_unknown(table, TRAVEL_KEYS, of)
    origin, destination = _text(table, "from", of), _text(table, "to", of)
    for key, name in (("from", origin), ("to", destination)):
        if name not in names:
            known = ", ".join(sorted(names))
            raise OptionError(f"{of}: {key} names the camera {name!r}; expected one of {known}")
    if origin == destination:
        raise OptionError(f"{of}: from and to are both {origin!r}; expected two cameras")
    least, most = _number(table, "min", of), _number(table, "max", of)
    try:
        return Travel(origin, destination, least, most)
    except OptionError as error:
        raise OptionError(f"{of}: {error}") from None


def _refuse_unknown(table: Mapping[str, Any], keys: Sequence[str], of: str) -> None:
    for key in table:
        if key not in keys:
            raise OptionError(f"{of}: unknown key {key!r}; expected {', '.join(keys)}")


def _text(table: Mapping[str, Any], key: str, of: str) -> str:
    if key not in table:
        raise OptionError(f"{of} has no {key}")
    value = table[key]
    if not isinstance(value, str) or not value:
        # Not the value: a url may hold a password.
        got = "an empty one" if value == "" else type(value).__name__
        raise OptionError(f"{of}: {key} must be a text in quotes, got {got}")
    return value


def _number(table: Mapping[str, Any], key: str, of: str) -> float:
    if key not in table:
        raise OptionError(f"{of} has no {key}")
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{of}: {key} must be a number, got {value!r}")
    return float(value)
