"""Reads the generator's word tables, the YAML files of `words/` and `material/`, and divides texts by their hashes.

The order of their entries decides what a seed draws, and so the sentences of the published benchmark.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from training.yaml_text import parse_yaml


@cache
def read_table(name: str) -> Any:
    """The content of a table, for example of "words/grammar.yaml". It is read once; callers must not change it."""
    return parse_yaml((Path(__file__).parent / name).read_text(encoding="utf-8"))


def text_hash(text: str) -> int:
    """A hash of the text in [0, 2**32), the same in every process: which texts are held out depends on nothing else."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
