"""The shape of `report.json`: a JSON Schema document that ships beside this file, and the check that reads it.

The document is the rule: a tool in another language may validate with it, and `check_against` below obeys the very
same file. Fields may be added within a version; readers pass over those they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from hf_exposure.errors import InputError, described
from hf_exposure.limits import LARGEST_FIGURE

SCHEMA_VERSION = 1
_REMEDY = "Take the file as it was written, or measure again."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, (list, tuple)),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value) and abs(value) <= LARGEST_FIGURE,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
}


@cache
def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `report.json`, as plain values.

    Example:
        >>> report_schema()["properties"]["schema_version"]["maximum"]
        1
    """
    text = files("hf_exposure.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_report(values: Any) -> None:
    """Refuses what is no report of a version that this package reads.

    Raises:
        InputError: another format, a newer schema, a field that is missing or of the wrong type; it names the field.
    """
    kind = report_schema()["properties"]["format"]["const"]
    if not isinstance(values, Mapping) or values.get("format") != kind:
        raise InputError("report", f"must be of format {kind!r}", type(values).__name__, "Use report.json.")
    version = values.get("schema_version")
    if _is_number(version) and version > SCHEMA_VERSION:  # type: ignore[operator]
        raise InputError(
            "schema_version",
            f"must be at most {SCHEMA_VERSION} for this version of hf_exposure",
            version,
            "Upgrade: pip install --upgrade hf-exposure",
        )
    check_against(report_schema(), values, "report")


def check_against(schema: Mapping[str, Any], value: Any, where: str) -> None:
    """Checks a value against the part of JSON Schema that `report.schema.json` uses.

    That is: type, const, enum, minimum, maximum, required, properties, additionalProperties (as a schema), items, and
    references into `$defs` of the report's document.

    Raises:
        InputError: the first place that breaks a rule, by its path.

    Example:
        >>> check_against({"type": "integer", "minimum": 1}, 0, "rank")
        Traceback (most recent call last):
        hf_exposure.errors.InputError: rank: must be at least 1, got 0. Take the file as it was written...
    """
    if "$ref" in schema:
        schema = report_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(_TYPES[kind](value) for kind in kinds):
        raise InputError(where, f"must be of type {' or '.join(kinds)}", _shown(where, value), _REMEDY)
    if "const" in schema and value != schema["const"]:
        raise InputError(where, f"must be {schema['const']!r}", value, _REMEDY)
    if "enum" in schema and value not in schema["enum"]:
        raise InputError(where, f"must be one of {', '.join(map(str, schema['enum']))}", value, _REMEDY)
    if _is_number(value):
        if value < schema.get("minimum", value):
            raise InputError(where, f"must be at least {schema['minimum']}", value, _REMEDY)
        if value > schema.get("maximum", value):
            raise InputError(where, f"must be at most {schema['maximum']}", value, _REMEDY)
    if isinstance(value, Mapping):
        _check_object(schema, value, where)
    elif isinstance(value, (list, tuple)) and "items" in schema:
        for place, item in enumerate(value):
            check_against(schema["items"], item, f"{where}[{place}]")


def _check_object(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            raise InputError(where, f"must have the field {name!r}", "none", _REMEDY)
    known = schema.get("properties", {})
    for name, item in value.items():
        rule = known.get(name, schema.get("additionalProperties"))
        if rule is not None:
            check_against(rule, item, f"{where}.{name}")


def _shown(where: str, value: Any) -> Any:
    """What an error says of a value: a report may hold the canaries' texts, in one field."""
    return described(value, numbers=False) if where.startswith("report.secrets") else value
