"""Estimates how long an edit takes: by formula at first, then by what jobs of the same kind took in this process."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sama.edit.request import EditRequest

if TYPE_CHECKING:
    from sama.edit.estimate import Estimate

_REMEMBERED = 5  # jobs of a kind; their median forgives one that ran beside something else


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


class StopWatch:
    """Times the steps of one job. `saw` is called when a step ends."""

    def __init__(self) -> None:
        self._last: tuple[int, int, float] | None = None
        self._gaps: list[float] = []

    def saw(self, window: int, step: int) -> None:
        now = time.monotonic()
        if self._last is not None and self._last[:2] == (window, step - 1):
            self._gaps.append(now - self._last[2])
        self._last = window, step, now

    @property
    def step_seconds(self) -> float | None:
        """Seconds of the median step; None where there were not two in a window."""
        return statistics.median(self._gaps) if self._gaps else None


class Pace:
    """Remembers, for each kind of job, the seconds of a step, and how much longer than estimated all the rest took."""

    def __init__(self) -> None:
        self._steps: dict[Kind, deque[float]] = {}
        self._rest: dict[Kind, deque[float]] = {}

    def seconds(self, request: EditRequest, expected: Estimate) -> float:
        """The seconds that a job will take, from its first to its last event, in a process whose model is loaded."""
        kind, count = Kind.of(request, expected), expected.windows * expected.steps
        step = statistics.median(self._steps.get(kind, [expected.step_seconds]))
        return count * step + _rest(expected) * statistics.median(self._rest.get(kind, [1.0]))

    def learn(self, request: EditRequest, expected: Estimate, watch: StopWatch, seconds: float) -> None:
        """Take in a finished job of `seconds`."""
        step, rest = watch.step_seconds, _rest(expected)
        if step is None or rest <= 0:
            return
        kind, count = Kind.of(request, expected), expected.windows * expected.steps
        self._steps.setdefault(kind, deque(maxlen=_REMEMBERED)).append(step)
        self._rest.setdefault(kind, deque(maxlen=_REMEMBERED)).append(max(0.0, seconds - count * step) / rest)


def _rest(expected: Estimate) -> float:
    return expected.seconds - expected.startup_seconds - expected.windows * expected.steps * expected.step_seconds
