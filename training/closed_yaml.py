"""Reads a YAML file into pydantic dataclasses, and says in one sentence what cannot be used.

pydantic says which value is at fault, and its JSON schema what is allowed there (type, bounds, choices); the sentences,
with the right name for a key that does not exist, are ours.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from training.errors import ConfigError
from training.yaml_text import YamlError, parse_yaml

Value = TypeVar("Value")
Schema = dict[str, Any]

_SHOWN = 60
_NAMES = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
    "object": "a section of keys",
}  # fmt: skip


def read_yaml(kind: type[Value], path: Path, overrides: Sequence[str] = ()) -> Value:
    """Read a YAML file and apply `a.b=value` overrides, in order. kind: a pydantic dataclass, strict and closed.

    Raises ConfigError, one sentence: the file cannot be read, an override is none, or a key is unknown, missing or
    out of bounds."""
    if not path.exists():
        raise ConfigError(f"there is no configuration {path}: see training/configs for those that are shipped")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no YAML: it is not text in UTF-8") from error
    except YamlError as error:
        line = f", line {error.line}," if error.line else ""
        raise ConfigError(f"{path}{line} is no YAML: {error}") from error
    if values is None or values == {}:
        raise ConfigError(f"{path} is empty: see training/configs for configurations to begin with")
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys with values, `key: value`, not {_shown(values)}")
    for override in overrides:
        _apply(override, values)
    return validated(kind, values)


def validated(kind: type[Value], values: Any, name: str = "") -> Value:
    """Convert `values`, in types of JSON, to a `kind`: a pydantic dataclass or an annotated type such as those of
    `training.values`. name: what a plain value is called. Raises ConfigError, one sentence on the first fault."""
    try:
        text = json.dumps(values, default=str)  # JSON's strict types are those of YAML: a list may become a tuple
    except ValueError as error:
        raise ConfigError(f"{name or 'the configuration'} contains itself: write anchors (&, *) out") from error
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        unknown = [fault for fault in faults if fault["type"] == "unexpected_keyword_argument"]
        raise ConfigError(_sentence(kind, [*unknown, *faults][0], name)) from error


def _apply(override: str, values: dict[str, Any]) -> None:
    key, separator, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not separator or not all((*parents, last)):
        raise ConfigError(f"--set {override} sets nothing: write key=value, with dots for nested keys")
    place = values
    for depth, parent in enumerate(parents, 1):
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            above = ".".join(parents[:depth])
            raise ConfigError(f"--set {override} cannot be: {above} is {_shown(inner)} and has no keys; set it whole")
        place = inner
    try:
        place[last] = parse_yaml(text) if text.strip() else ""
    except YamlError as error:
        raise ConfigError(f"--set {override} is no YAML: {error}") from error


def hint(given: str, known: Collection[str], prefix: str = "") -> str:
    """The hint for a name that is not known: the nearest one, or all that there are."""
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"


# --- Sentences -------------------------------------------------------------------------------------------------------


def _sentence(kind: Any, fault: Any, name: str) -> str:
    place = [part for part in fault["loc"] if part != "[key]"]
    schema = TypeAdapter(kind).json_schema()
    path, expected, given = name + _joined(place), _schema_at(schema, place), fault["input"]
    if fault["type"] == "unexpected_keyword_argument":
        return f"unknown key {path}: {_hint(schema, place[:-1], str(place[-1]))}"
    if fault["type"] == "missing":
        return f"the key {path} is missing: it must be {_allowed(expected)}"
    if fault["type"] == "value_error":
        return f"{path}: {fault['ctx']['error']}".removeprefix(": ")
    return f"{path} must be {_allowed(expected)}, not {_shown(given)}{_remedy(expected, given)}".strip()


def _hint(schema: Schema, parents: Sequence[str | int], key: str) -> str:
    """The key that was meant: the nearest of the same section, or one of this name in another."""
    known = list(_schema_at(schema, parents)["properties"])
    elsewhere = [path for path in _all_keys(schema) if path.split(".")[-1] == key]
    if elsewhere and not difflib.get_close_matches(key, known):
        return f"did you mean {' or '.join(elsewhere)}?"
    return hint(key, known, _joined([*parents, ""]).removeprefix("."))


def _all_keys(schema: Schema, parents: tuple[str, ...] = ()) -> Iterator[str]:
    for key in _schema_at(schema, parents).get("properties", ()):
        yield ".".join((*parents, key))
        yield from _all_keys(schema, (*parents, key))


def _joined(parts: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _schema_at(schema: Schema, path: Sequence[str | int]) -> Schema:
    """The JSON schema of the value at a path of keys and indices; empty where anything is allowed."""
    found = schema
    for part in (None, *path):
        inner = found.get("properties", {}).get(part) or found.get("items") or found.get("additionalProperties") or {}
        found = found if part is None else inner if isinstance(inner, dict) else {}
        if "$ref" in found:
            found = schema["$defs"][found["$ref"].rpartition("/")[2]] | found
    return found


def _allowed(schema: Schema) -> str:
    """The values that this JSON schema allows, in words."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "anyOf" in schema:
        return " or ".join(_allowed(part) for part in schema["anyOf"] if part.get("type") != "null")
    if schema.get("type") == "array":
        filled = "with at least one entry, " if "minItems" in schema else ""
        return f"a list, {filled}each {_allowed(schema['items'])}"
    filled = " of at least one character" if "minLength" in schema else ""
    return f"{_NAMES[schema['type']]}{_bounds(schema)}{filled}"


def _bounds(schema: Schema) -> str:
    low, high = (
        f"{schema[closed]}" if closed in schema else f"{word} {schema[opened]}" if opened in schema else ""
        for closed, opened, word in (("minimum", "exclusiveMinimum", "above"), ("maximum", "exclusiveMaximum", "below"))
    )
    if low and high:
        return f" from {low} to {high}"
    return f" of at least {low}" if "minimum" in schema else f" {low}{high}".rstrip()


def _shown(value: Any) -> str:
    if value is None:
        return "left empty"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _remedy(schema: Schema, given: Any) -> str:
    """How what was given can be put right, where that is known."""
    close = difflib.get_close_matches(str(given), map(str, schema.get("enum", ())), n=1)
    if close:
        return f": did you mean {close[0]}?"
    kind = schema.get("type")
    if kind == "object" and given is None:
        return ": give it keys, or leave it out"
    if kind == "string" and "enum" not in schema and given is not None and not isinstance(given, str | dict | list):
        return ": write it in quotes"
    if kind == "integer" and isinstance(given, float) and given.is_integer():
        return f": write {int(given)}"
    return ""
