"""The shots of the film and the photographs that are used, with captions, from `film.yaml` and `stills.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from training.synth.tables import read_table


class ShotSource(NamedTuple):
    """A shot: frames `start` to `end` (exclusive) of the film, its split ("train" or "test") and what it shows."""

    start: int
    end: int
    split: str
    caption: str


@dataclass(frozen=True)
class StillSource:
    """A photograph: where it lies in its package, its licence and what it shows."""

    name: str
    package: str
    path: str
    caption: str
    split: str
    licence: str
    attribution: str


def film_end() -> int:
    """How many frames of the film are used; the credits follow."""
    return int(read_table("material/film.yaml")["end"])


def shots() -> list[ShotSource]:
    """The shots, in the order of the film."""
    fields = (line.split(maxsplit=3) for line in read_table("material/film.yaml")["shots"].splitlines())
    return [ShotSource(int(start), int(end), split, caption) for start, end, split, caption in fields]


def stills() -> list[StillSource]:
    """The photographs."""
    return [StillSource(**entry) for entry in read_table("material/stills.yaml")]
