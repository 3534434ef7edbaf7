"""Reads a YAML file into frozen dataclasses: typed and closed. A key that does not exist is an error that suggests the
right one."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def read_yaml(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `a.b=value` overrides. Raises ConfigError naming the key at fault."""
    if not path.is_file():
        raise ConfigError(f"there is no configuration {path}: see training/configs for those that are shipped")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no keys")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is no override: write key=value, with dots for nested keys")
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(value)
    return _build(kind, values, "")


def _build(kind: type[Config], values: dict[str, Any], prefix: str) -> Config:
    assert is_dataclass(kind)
    known = {item.name: item for item in fields(kind)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {prefix}{key}: {hint}")
    for name, item in known.items():
        missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if missing and name not in values:
            raise ConfigError(f"the key {prefix}{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, prefix + key) for key, value in values.items()})


def _convert(kind: Any, value: Any, key: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a section of keys")
        return _build(kind, value, f"{key}.")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{key} must be one of {', '.join(map(str, get_args(kind)))}, not {value!r}")
        return value
    if get_origin(kind) is tuple:  # tuple[Item, ...]
        if not isinstance(value, list):
            raise ConfigError(f"{key} must be a list, not {value!r}")
        return tuple(_convert(get_args(kind)[0], item, f"{key}[{number}]") for number, item in enumerate(value))
    plain = get_origin(kind) or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(plain, types.UnionType) or not isinstance(plain, type):
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConfigError(f"{key} must be a {plain.__name__}, not {value!r}")
    return value
