"""Work divided among several processes or machines."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count` parts of the work."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8` is the fourth of eight parts: a `type` for argparse. Raises ArgumentTypeError."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ArgumentTypeError(f"{text!r} is no part: write i/n with i from 0 to n - 1, for example 0/8")
        return cls(int(index), int(count))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every n-th item from the i-th on."""
        return items[self.index :: self.count]

    def has(self, key: str) -> bool:
        """Whether the subject of this key (hexadecimal) belongs here: every key belongs to one part."""
        return int(key, 16) % self.count == self.index


WHOLE = Shard(0, 1)
