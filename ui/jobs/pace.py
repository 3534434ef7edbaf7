"""The time that a job's parts take: by formula at first, then by what jobs of the same kind took in this process."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sama.edit.request import EditRequest

if TYPE_CHECKING:
    from sama.edit.estimate import Estimate

_REMEMBERED = 9  # jobs of a kind
_FORGOTTEN = 3600.0  # seconds after which a job no longer says anything about this machine


@dataclass(frozen=True)
class Parts:
    """Seconds of a job's parts: `encode`, `decode` and `write` of one window, `step` of one denoising step."""

    windows: int
    steps: int
    encode: float
    step: float
    decode: float
    write: float

    @classmethod
    def of(cls, expected: Estimate) -> Parts:
        count = expected.windows
        return cls(
            count, expected.steps, expected.encode_seconds / count, expected.step_seconds,
            expected.decode_seconds / count, expected.write_seconds / count,
        )  # fmt: skip

    @classmethod
    def guessed(cls, windows: int, steps: int) -> Parts:
        """Parts in units of a step, for a model whose numbers are not known."""
        return cls(windows, steps, 1.0, 1.0, 2.0, 0.5)

    @property
    def window(self) -> float:
        """Seconds of one window."""
        return self.encode + self.steps * self.step + self.decode + self.write

    @property
    def total(self) -> float:
        return self.windows * self.window

    def scaled(self, ratios: Ratios) -> Parts:
        return replace(
            self, encode=self.encode * ratios.encode, step=self.step * ratios.step, decode=self.decode * ratios.decode,
            write=self.write * ratios.write,
        )  # fmt: skip


@dataclass(frozen=True)
class Ratios:
    """How many times as long as expected each part took."""

    encode: float = 1.0
    step: float = 1.0
    decode: float = 1.0
    write: float = 1.0


@dataclass(frozen=True)
class Kind:
    """Jobs of one kind have steps of equal length. tokens: of a sequence. forwards: of a step. decodes_source: whether
    the source is decoded, too. lora: whether a LoRA is active."""

    tokens: int
    forwards: float
    decodes_source: bool
    lora: bool

    @classmethod
    def of(cls, request: EditRequest, expected: Estimate) -> Kind:
        forwards = expected.forwards / (expected.windows * expected.steps)
        decodes_source = request.keep_source != "off" or request.detail != "off"
        return cls(expected.tokens.total, forwards, decodes_source, bool(request.lora))


class Pace:
    """Remembers, for each kind of job, how much longer than by formula its parts took on this machine when it is idle.

    Of a kind's jobs the lower median counts: one that ran beside something else cannot make all later ones look slow,
    and a job that is older than an hour no longer counts.
    """

    def __init__(self) -> None:
        self._seen: dict[Kind, deque[tuple[float, Ratios]]] = {}

    def parts(self, request: EditRequest, expected: Estimate) -> Parts:
        """The parts of a job on this machine when nothing else is at work on it."""
        seen = [ratios for when, ratios in self._seen.get(Kind.of(request, expected), ()) if _recent(when)]
        if not seen:
            return Parts.of(expected)

        def usual(name: str) -> float:
            # The formula has a vote of its own until three jobs have been seen.
            votes = [getattr(ratios, name) for ratios in seen] + [1.0] * (len(seen) < 3)
            return statistics.median_low(votes)

        return Parts.of(expected).scaled(Ratios(usual("encode"), usual("step"), usual("decode"), usual("write")))

    def learn(self, request: EditRequest, expected: Estimate, took: Ratios, slower: float = 1.0) -> None:
        """Take in a finished job.

        took: its parts beside `Parts.of(expected)`. slower: how many times slower than at its best the machine was.
        """
        one = Ratios(*(max(0.01, value / slower) for value in (took.encode, took.step, took.decode, took.write)))
        self._seen.setdefault(Kind.of(request, expected), deque(maxlen=_REMEMBERED)).append((time.monotonic(), one))


def _recent(when: float) -> bool:
    return time.monotonic() - when < _FORGOTTEN
