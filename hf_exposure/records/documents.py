"""Records as JSON documents, which are written, checked, read and described by the annotations of their fields.

A record is a frozen dataclass. Making one checks nothing, since a measurement makes thousands, but values read from
files are checked. Fields may be added within a version of a document; readers ignore unknown ones.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from hf_exposure.errors import InputError, described

R = TypeVar("R")

_REMEDY = "Restore the file as it was written, or measure again."


@dataclass(frozen=True)
class DocumentFormat(Generic[R]):
    """A kind of JSON document: the fields of one record, and further properties.

    Attributes:
        name: the document's `format`.
        version: the newest `schema_version` that can be read, and the one that is written.
        record: a dataclass whose annotations pydantic can read.
        envelope: a `TypedDict` of the further properties, including `format` and `schema_version`.
        about: the description of the schema.
        parts: names of the schema's definitions, by the class that they describe.
    """

    name: str
    version: int
    record: type[R]
    envelope: Any
    about: str
    parts: Mapping[type, str] = field(default_factory=dict)

    @cached_property
    def _record(self) -> TypeAdapter[R]:
        return TypeAdapter(self.record)

    @cached_property
    def _envelope(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.envelope)

    @property
    def noun(self) -> str:
        """The name of a document in errors: the last word of its name."""
        return self.name.split()[-1]

    def write(self, record: R) -> dict[str, Any]:
        """The record as plain values, after the document's head."""
        head = {"format": self.name, "schema_version": self.version}
        return {**head, **self._record.dump_python(record, mode="json")}

    def read(self, values: Any) -> R:
        """The record of a document.

        Raises:
            InputError: the format differs, the version is newer, or a field is missing or of the wrong type; the error
                names the field by its path.
        """
        if not isinstance(values, Mapping) or values.get("format") != self.name:
            rule = f"must be of format {self.name!r}"
            raise InputError(self.noun, rule, type(values).__name__, f"Use {self.noun}.json.")
        version = values.get("schema_version")
        if isinstance(version, (int, float)) and version > self.version:
            raise InputError(
                "schema_version",
                f"must be at most {self.version} for this version of hf_exposure",
                version,
                "Upgrade: pip install --upgrade hf-exposure",
            )
        try:
            self._envelope.validate_python(values)
            return self._record.validate_python(values)
        except ValidationError as error:
            broken = _first_broken_rule(error, self.noun)
        raise broken

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the document, generated from the annotations and docstrings."""
        envelope, record = (
            adapter.json_schema(schema_generator=_PlainSchema) for adapter in (self._envelope, self._record)
        )
        definitions = envelope.pop("$defs", {}) | record.pop("$defs", {})
        for kind, name in self.parts.items():
            definitions[name] = _with_descriptions(definitions.pop(kind.__name__), kind)
        whole = {
            "$schema": GenerateJsonSchema.schema_dialect,
            "title": f"{self.name}, schema version {self.version}",
            "description": self.about,
            "type": "object",
            "required": envelope["required"] + record["required"],
            "properties": {
                **_with_descriptions(envelope, self.envelope)["properties"],
                **_with_descriptions(record, self.record)["properties"],
            },
            "$defs": dict(sorted(definitions.items())),
        }
        text = json.dumps(whole)
        for kind, name in self.parts.items():
            text = text.replace(f'"#/$defs/{kind.__name__}"', f'"#/$defs/{name}"')
        schema: dict[str, Any] = json.loads(text)
        return schema


_RULES = {
    "missing": "must have the field {field!r}",
    "greater_than_equal": "must be at least {ge:.15g}",
    "less_than_equal": "must be at most {le:.15g}",
    "literal_error": "must be one of {expected}",
    "finite_number": "must be a finite number",
}
_KINDS = {
    "int": "integer",
    "float": "number",
    "string": "string",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
}


def _first_broken_rule(error: ValidationError, root: str) -> InputError:
    """Converts the first error of pydantic to ours: the path, the rule, and the value if it cannot be a secret."""
    first = error.errors(include_url=False)[0]
    kind, place, value, context = first["type"], first["loc"], first["input"], first.get("ctx", {})
    said: object = value
    if kind == "missing":
        context, place, said = {"field": place[-1]}, place[:-1], "none"
    path = root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    if isinstance(cause := context.get("error"), InputError):
        return InputError(f"{path}.{cause.argument}", cause.rule, cause.value, _REMEDY)
    if kind == "literal_error":
        context = {"expected": re.sub(r"'([^']*)'", r"\1", str(context["expected"])).replace(" or ", ", ")}
    rule = _RULES.get(kind, f"must be of type {_KINDS.get(kind.split('_')[0], 'object')}").format(**context)
    # A document may contain the canaries' texts, in one field.
    return InputError(path, rule, described(value, numbers=False) if place[:1] == ("secrets",) else said, _REMEDY)


class _PlainSchema(GenerateJsonSchema):
    """A schema without titles made of names and without Python's default values, which are useless to readers."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])


_DESCRIBED = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_PYTHONS_NULL = re.compile(r"\b(NaN|None)\b")


def _with_descriptions(schema: dict[str, Any], kind: type) -> dict[str, Any]:
    """Adds to the schema of a class the descriptions under `Attributes:` in its docstring, each in one line."""
    bases = [base for base in getattr(kind, "__mro__", ()) if base.__doc__ and base is not object] or [kind]
    for base in reversed(bases):
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        for names, text in _DESCRIBED.findall(attributes.partition("\n\n")[0]):
            for name in names.split(", "):
                if name in schema["properties"]:
                    schema["properties"][name]["description"] = _PYTHONS_NULL.sub("null", " ".join(text.split()))
    return {key: value for key, value in schema.items() if key not in ("title", "description")}
