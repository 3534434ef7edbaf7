"""The line that jobs wait in: first come, first served, with a bound for all and one for each visitor.

gradio's own queue cannot tell a visitor's place on the page, and counts sessions, which a script makes as many of as it
likes. So gradio starts every job at once, and it waits here, as a generator that says where it stands.
"""

from __future__ import annotations

import heapq
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ui import text
from ui.errors import PromptError
from ui.jobs.countdown import Countdown

_REMEMBERED = 9  # jobs whose time stands for one of unknown length


class LineFullError(PromptError):
    """There is no place in the line; the message is one sentence for the user."""


class Turn:
    """One job's place in a line. visitor: whose it is, None for the machine's owner. seconds: how long it is expected
    to take, None where that is not known."""

    def __init__(self, line: Line, visitor: str | None, seconds: float | None) -> None:
        self.visitor, self.seconds = visitor, seconds
        self.began: float | None = None
        self.countdown: Countdown | None = None
        """The running job's, which knows better than `seconds` how long it still takes."""
        self._line = line

    def wait(self, seconds: float) -> bool:
        """Wait for the turn, `seconds` at most; whether it has come."""
        return self._line._wait(self, seconds)

    @property
    def ahead(self) -> int:
        """Jobs that run or wait before this one's turn comes; 0 once it has."""
        return self._line._ahead(self)

    @property
    def seconds_ahead(self) -> float | None:
        """Seconds until the turn comes, None where that is not known."""
        return self._line._seconds_ahead(self)

    def _remaining(self, usual: float | None) -> float | None:
        known = self.countdown.left() if self.countdown is not None else None
        if known is not None:
            return known
        whole = usual if self.seconds is None else self.seconds
        if whole is None or self.began is None:
            return whole
        return max(0.0, whole - (time.monotonic() - self.began))


class Line:
    """The line of one app.

    at_once: jobs that run beside each other. places: jobs that may wait. each: jobs of one visitor that may run or
    wait. one_each: whether the jobs of one visitor run one after another although others' run beside them.
    """

    def __init__(self, at_once: int, places: int, each: int, one_each: bool = False) -> None:
        self.at_once, self.places, self.each, self.one_each = at_once, places, each, one_each
        self._change = threading.Condition()
        self._waiting: deque[Turn] = deque()
        self._running: list[Turn] = []
        self._took: deque[float] = deque(maxlen=_REMEMBERED)

    @contextmanager
    def turn(self, visitor: str | None, seconds: float | None = None) -> Iterator[Turn]:
        """A place in the line, until the block is left. Raises LineFullError when there is none."""
        turn = Turn(self, visitor, seconds)
        with self._change:
            self._admit(turn)
            self._waiting.append(turn)
            self._call()
        try:
            yield turn
        finally:
            with self._change:
                if turn in self._running:
                    self._running.remove(turn)
                    assert turn.began is not None
                    self._took.append(time.monotonic() - turn.began)
                else:
                    self._waiting.remove(turn)
                self._call()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        with self._change:
            return len(self._waiting)

    @property
    def pace(self) -> float | None:
        """How many times slower than expected a running job is; None where none runs."""
        with self._change:
            return next((turn.countdown.pace for turn in self._running if turn.countdown is not None), None)

    def _admit(self, turn: Turn) -> None:
        if turn.visitor is not None:
            own = sum(one.visitor == turn.visitor for one in (*self._waiting, *self._running))
            if own >= self.each:
                raise LineFullError(text.too_many_of_yours(own))
        free = self.at_once - len(self._running) if not self._waiting else 0
        if free <= 0 and len(self._waiting) >= self.places:
            raise LineFullError(text.line_full(len(self._waiting), self._wait_of(0)))

    def _call(self) -> None:
        """Let those begin whose turn has come."""
        for turn in list(self._waiting):
            if len(self._running) >= self.at_once:
                break
            busy = {one.visitor for one in self._running} if self.one_each else set()
            if turn.visitor is not None and turn.visitor in busy:
                continue
            self._waiting.remove(turn)
            turn.began = time.monotonic()
            self._running.append(turn)
        self._change.notify_all()

    def _wait(self, turn: Turn, seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(lambda: turn.began is not None, timeout=seconds)

    def _ahead(self, turn: Turn) -> int:
        with self._change:
            if turn.began is not None:
                return 0
            before = self._waiting.index(turn)
            return before + (len(self._running) if self.at_once == 1 else 0)

    def _seconds_ahead(self, turn: Turn) -> float | None:
        with self._change:
            return 0.0 if turn.began is not None else self._wait_of(self._waiting.index(turn))

    def _wait_of(self, place: int) -> float | None:
        """Seconds until a job can begin that has `place` others before it in the line."""
        usual = statistics.median(self._took) if self._took else None
        left = [turn._remaining(usual) for turn in self._running]
        before = [turn._remaining(usual) for turn in list(self._waiting)[:place]]
        if any(seconds is None for seconds in (*left, *before)):
            return None
        ends = [seconds for seconds in left if seconds is not None] + [0.0] * (self.at_once - len(left))
        heapq.heapify(ends)
        for seconds in before:
            heapq.heapreplace(ends, ends[0] + (seconds or 0.0))
        return ends[0]
