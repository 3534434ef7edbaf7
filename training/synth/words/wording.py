"""The wording of instructions: `grammar.yaml` (sentence patterns) and `phrases.yaml` (what fills their slots)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from string import Template
from typing import Any, NamedTuple

from training.synth.tables import read_table

Texts = tuple[str, ...]
Choices = dict[str, Texts]
"""Texts to choose from, by name."""


class Grammar(NamedTuple):
    """Sentence patterns by task, polite words before and after a sentence, and patterns of captions."""

    patterns: Choices
    prefixes: Texts
    suffixes: Texts
    captions: Texts


class Phrases(NamedTuple):
    """The values that fill the slots of patterns; `phrases.yaml` describes each field."""

    places: Choices
    places_of_text: Choices
    which: Choices
    sizes: Choices
    destinations: Choices
    beside: Texts
    resizing: dict[str, Choices]
    styles: dict[str, Choices]
    weathers: dict[str, Choices]
    backgrounds: Choices


@cache
def grammar() -> Grammar:
    """The sentence patterns."""
    table = read_table("words/grammar.yaml")

    def lines(text: str) -> Texts:
        return tuple(Template(text).substitute(table["lists"]).splitlines())

    patterns = {task: lines(text) for task, text in table["patterns"].items()}
    return Grammar(patterns, tuple(table["prefixes"]), tuple(table["suffixes"]), lines(table["captions"]))


@cache
def phrases() -> Phrases:
    """The phrases for the slots."""
    table = read_table("words/phrases.yaml")
    return Phrases(**{name: _written_out(table[name], table["lists"]) for name in Phrases._fields})


def _written_out(value: Any, lists: Mapping[str, str]) -> Any:
    """The value with `$name` replaced by the texts of `lists`, and tuples in place of lists."""
    if isinstance(value, dict):
        return {name: _written_out(part, lists) for name, part in value.items()}
    if isinstance(value, list):
        return tuple(_written_out(part, lists) for part in value)
    return Template(value).substitute(lists)
