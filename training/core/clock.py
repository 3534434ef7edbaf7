"""The progress of a run by steps and by time, and a timer."""

from __future__ import annotations

import time


class Clock:
    """Measures how much of a run is over, by steps or by minutes, whichever is further. Time counts from `start`."""

    def __init__(self, max_steps: int, max_minutes: float) -> None:
        self._max_steps, self._seconds = max_steps, max_minutes * 60
        self.before = 0.0
        """Seconds of earlier sessions of the same run."""
        self._start: float | None = None

    def start(self) -> None:
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds in all sessions."""
        return self.before + (0.0 if self._start is None else time.monotonic() - self._start)

    def progress(self, step: int) -> float:
        """The share of the run that is over after `step` steps: 0 at its start, 1 or more at its end."""
        by_time = self.elapsed() / self._seconds if self._seconds else 0.0
        return max(step / self._max_steps, by_time)


class Every:
    """A timer: `due` once `minutes` have passed since `restart`, or since it was made; never for 0 minutes."""

    def __init__(self, minutes: float) -> None:
        self._seconds, self._last = minutes * 60, time.monotonic()

    def due(self) -> bool:
        return bool(self._seconds) and time.monotonic() - self._last >= self._seconds

    def restart(self) -> None:
        self._last = time.monotonic()
