"""Reads the generator's word tables: the YAML files of `words/` and `material/`.

The order of their entries decides what a seed draws, and so the sentences of the published benchmark.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from training.yaml_text import parse_yaml


@cache
def read_table(name: str) -> Any:
    """The content of a table, for example of "words/grammar.yaml". It is read once; callers must not change it."""
    return parse_yaml((Path(__file__).parent / name).read_text(encoding="utf-8"))
