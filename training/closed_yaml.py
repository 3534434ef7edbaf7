"""Reads a YAML file into pydantic dataclasses, and says in one sentence what cannot be used.

The dataclasses say what is allowed (types, bounds, choices); this module finds the key that is at fault, what it holds
and what it may hold, and suggests the right name for one that does not exist.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from training.errors import ConfigError
from training.yaml_text import YamlError, parse_yaml

Value = TypeVar("Value")

_SHOWN = 60
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a section of keys"}


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
    """What `values`, in types of JSON, are as a `kind`: a pydantic dataclass or an annotated type such as those of
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
    """What to write in place of a name that is not known: the nearest one, or all that there are."""
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"


# --- Sentences -------------------------------------------------------------------------------------------------------


def _sentence(kind: Any, fault: Any, name: str) -> str:
    place = [part for part in fault["loc"] if part != "[key]"]
    path, expected, given = name + _joined(place), _type_at(kind, place), fault["input"]
    if fault["type"] == "unexpected_keyword_argument":
        return f"unknown key {path}: {_hint(kind, place[:-1], str(place[-1]))}"
    if fault["type"] == "missing":
        return f"the key {path} is missing: it must be {_allowed(expected)}"
    if fault["type"] == "value_error":
        return f"{path}: {fault['ctx']['error']}".removeprefix(": ")
    return f"{path} must be {_allowed(expected)}, not {_shown(given)}{_remedy(expected, given)}".strip()


def _hint(kind: Any, parents: Sequence[str | int], key: str) -> str:
    """The key that was meant: the nearest of the same section, or one of this name in another."""
    known = [field.name for field in fields(_plain(_type_at(kind, parents)))]
    elsewhere = [path for path in _all_keys(kind) if path.split(".")[-1] == key]
    if elsewhere and not difflib.get_close_matches(key, known):
        return f"did you mean {' or '.join(elsewhere)}?"
    return hint(key, known, _joined([*parents, ""]).removeprefix("."))


def _all_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(inner):
            yield from _all_keys(inner, f"{prefix}{name}.")


def _joined(parts: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _type_at(kind: Any, path: Sequence[str | int]) -> Any:
    """The annotated type of the value at a path of keys and indices."""
    for part in path:
        plain = _plain(kind)
        if is_dataclass(plain):
            kind = get_type_hints(plain, include_extras=True).get(str(part), Any)  # an unknown key's is not known
        else:
            arguments = get_args(plain)  # of tuple[Item, ...], list[Item] or dict[str, Item]
            kind = arguments[0 if isinstance(part, int) else -1]
    return kind


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _allowed(kind: Any) -> str:
    """What a value of this annotated type may be, in words."""
    plain = _plain(kind)
    if get_origin(plain) is Literal:
        return f"one of {', '.join(map(str, get_args(plain)))}"
    if isinstance(plain, types.UnionType):
        return " or ".join(_allowed(part) for part in get_args(plain) if part is not types.NoneType)
    if is_dataclass(plain):
        return _NAMES[dict]
    limits = _limits(kind)
    if get_origin(plain) in (tuple, list):
        filled = "with at least one entry, " if "min_length" in limits else ""
        return f"a list, {filled}each {_allowed(get_args(plain)[0])}"
    filled = " of at least one character" if "min_length" in limits else ""
    return f"{_NAMES[get_origin(plain) or plain]}{_range(limits)}{filled}"


def _limits(kind: Any) -> dict[str, Any]:
    """The bounds that an annotated type names, such as {"ge": 0, "lt": 1}."""
    if get_origin(kind) is not Annotated:
        return {}
    names = ("ge", "gt", "le", "lt", "min_length")
    found = [(name, getattr(item, name, None)) for item in FieldInfo.from_annotation(kind).metadata for name in names]
    return {name: value for name, value in found if value is not None}


def _range(limits: dict[str, Any]) -> str:
    low = f"{limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    high = f"{limits['le']}" if "le" in limits else f"below {limits['lt']}" if "lt" in limits else ""
    if low and high:
        return f" from {low} to {high}"
    if "ge" in limits:
        return f" of at least {low}"
    return f" {low}{high}" if low or high else ""


def _shown(value: Any) -> str:
    if value is None:
        return "left empty"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _remedy(kind: Any, given: Any) -> str:
    """How what was given can be put right, where that is known."""
    plain = _plain(kind)
    if get_origin(plain) is Literal:
        close = difflib.get_close_matches(str(given), map(str, get_args(plain)), n=1)
        return f": did you mean {close[0]}?" if close else ""
    if given is None and (is_dataclass(plain) or get_origin(plain) is dict):
        return ": give it keys, or leave it out"
    if plain is str and given is not None and not isinstance(given, str | dict | list):
        return ": write it in quotes"
    if plain is int and isinstance(given, float) and given.is_integer():
        return f": write {int(given)}"
    return ""
