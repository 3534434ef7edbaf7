"""Facts about named things: which are asked for most, which fly, and words for their kinds.

They come from `nouns.yaml`, not from the drawings.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from training.synth.tables import read_table
from training.synth.words.nouns import head

RARE_SHARE = 0.2
"""How often another name is asked for, compared with a common one."""


@cache
def common_names() -> frozenset[str]:
    """Names that people ask for most, and whose drawings are told apart at a glance."""
    return frozenset(name.strip() for name in _table()["common"].replace("\n", " ").split(";"))


def familiarity(name: str) -> float:
    """How likely a name is asked for as a new object, compared with others: 1 for common ones."""
    return 1.0 if name in common_names() else RARE_SHARE


def flies(name: str) -> bool:
    """Whether the thing is in the air at any place, so that it needs no ground."""
    return head(name) in _flying_heads() and name not in _table()["not_flying"]


def kind_words(name: str, category: str) -> tuple[str, ...]:
    """Words for the kind of thing ("animal"); empty where no word surely fits."""
    return () if name in _table()["of_no_kind"] else tuple(_table()["kinds"].get(category, ()))


@cache
def _flying_heads() -> frozenset[str]:
    return frozenset(_table()["flying"].split())


def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_table("words/nouns.yaml")
    return table
