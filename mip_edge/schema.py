"""The schema of a bundle's manifest, and in one line what is wrong with a document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

SCHEMA_PATH = Path(__file__).parent / "assets" / "manifest.schema.json"
"""JSON Schema, draft-07: the documentation of the format, and the check of every document."""
_SHOWN_CHARACTERS = 60


def find_fault(document: Any) -> str | None:
    """The first place where `document` leaves the schema: what came, and what was expected.

    None if it follows the schema.
    """
    import fastjsonschema

    try:
        _checker()(document)
    except fastjsonschema.JsonSchemaValueException as error:
        return _in_words(error)
    return None


@lru_cache(maxsize=1)
def _checker() -> Callable[[Any], Any]:
    """The schema as a function; made once, for it takes a tenth of a second."""
    import fastjsonschema

    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return fastjsonschema.compile(schema, use_default=False)


def _in_words(error: Any) -> str:
    """One line of a JsonSchemaValueException."""
    place = error.name.removeprefix("data").removeprefix(".") or "the document"
    if error.rule == "required":
        missing = next(key for key in error.rule_definition if key not in error.value)
        return f"the key {missing!r} is missing from {place}"
    if error.rule == "additionalProperties":
        known = error.definition.get("properties", {})
        unknown = next(name for name in _named_wrongly(error.message, error.value, known))
        expected = ", ".join(known) or f"names of the form {_pattern(error.definition)}"
        return f"unknown key {unknown!r} in {place}, expected {expected}"
    came = json.dumps(error.value, ensure_ascii=False)
    if len(came) > _SHOWN_CHARACTERS:
        came = f"{came[:_SHOWN_CHARACTERS]}..."
    expected = error.message.removeprefix(error.name).strip()
    expected = expected.replace("be same as const definition:", "be")
    return f"{place} is {came}, it {expected}"


def _named_wrongly(message: str, value: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Keys outside the schema; where it knows patterns only, those that the message names."""
    return [key for key in value if key not in known and repr(key) in message]


def _pattern(definition: Mapping[str, Any]) -> str:
    return " or ".join(definition.get("patternProperties", {}))
