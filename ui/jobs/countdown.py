"""The seconds left of a running job: its parts, as long as they were expected to take, at the pace of this very run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from ui.jobs.pace import Parts, Ratios
from ui.jobs.work import JobStep

_RECENT = 5  # steps that tell the present pace


@dataclass
class _Seen:
    """Seconds of the parts that this run has finished."""

    encode: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    write: list[float] = field(default_factory=list)


class Countdown:
    """Told every event of one job, it says how long the rest will take.

    parts: what is expected on an idle machine; None for a model whose numbers are not known, of which nothing is said
    before its second step. pace: how many times slower than when it is idle the machine is now.
    """

    def __init__(self, parts: Parts | None, pace: float = 1.0) -> None:
        self.parts = parts
        self.prior = pace
        self._known = parts is not None
        self._seen = _Seen()
        self._since: float | None = None  # when the part at work began
        self._at = (1, 0, "encode")  # window, steps done in it, the part at work
        self._wrote: float | None = None  # when the last frame was written
        self._opening: float | None = None  # a window's encoding and first step, until the second tells them apart

    def saw(self, event: JobStep) -> float | None:
        """The seconds left after this event, None where that cannot be said."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if event.step and event.phase in ("painting", "restoring"):
            self._step(event, now)
        elif event.phase == "decoding":
            self._begin(event, "decode", now)
        elif event.phase == "saving":
            if self._at[2] == "decode":
                self._seen.decode.append(now - self._since)
                self._begin(event, "write", now)
            self._wrote = now
        return self.left(now)

    def left(self, now: float | None = None) -> float | None:
        """The seconds left at a moment, now if None."""
        parts = self.parts
        if parts is None or (not self._known and not self._seen.step):
            return None
        spent = 0.0 if self._since is None else (time.monotonic() if now is None else now) - self._since
        window, done, part = self._at
        after = parts.windows - window
        encode, step, decode, write = (self._expect(name) for name in ("encode", "step", "decode", "write"))
        left = after * (encode + parts.steps * step + decode + write)
        if part == "write":
            return left + max(0.0, write - spent)
        left += write
        if part == "decode":
            return left + max(0.0, decode - spent)
        left += decode + (parts.steps - done) * step
        return left + max(0.0, encode - spent) if part == "encode" else max(left - min(spent, step), 0.0)

    @property
    def pace(self) -> float:
        """How many times slower than expected this run is at present."""
        if self.parts is None or not self._known:
            return 1.0
        if self._seen.step:
            return statistics.median(self._seen.step[-_RECENT:]) / max(self.parts.step, 1e-9)
        if self._opening is not None:
            return self._opening / max(self.parts.encode + self.parts.step, 1e-9)
        return self.prior

    def took(self, expected: Parts) -> Ratios | None:
        """The finished run's parts beside `expected`; None where it had no step."""
        self._end_write()
        if not self._seen.step and self._opening is None:
            return None
        opened = (self._opening or 0.0) / max(expected.encode + expected.step, 1e-9)  # of an edit in one step

        def ratio(name: str) -> float:
            seen, meant = getattr(self._seen, name), getattr(expected, name)
            if seen and meant > 0:
                return statistics.median(seen) / meant
            return statistics.median(self._seen.step) / expected.step if self._seen.step else opened

        return Ratios(ratio("encode"), ratio("step"), ratio("decode"), ratio("write"))

    def _step(self, event: JobStep, now: float) -> None:
        if self.parts is None:
            self.parts = Parts.guessed(max(1, event.windows), event.steps)
        self._end_write()
        gap = now - (self._since or now)
        if event.step == 1:
            self._opening = gap
        else:
            self._seen.step.append(gap)
            if self._opening is not None:
                self._seen.encode.append(max(0.0, self._opening - gap))
                self._opening = None
        self._at, self._since = (event.window or 1, event.step, "step"), now

    def _begin(self, event: JobStep, part: str, now: float) -> None:
        self._at, self._since = (event.window or 1, self.parts.steps if self.parts else 0, part), now

    def _end_write(self) -> None:
        """The next window begins, or the job has ended: frames were written until the last that was told."""
        if self._at[2] == "write" and self._since is not None and self._wrote is not None:
            self._seen.write.append(self._wrote - self._since)
            self._since = self._wrote
            self._at = (*self._at[:2], "written")

    def _expect(self, name: str) -> float:
        """Seconds of a part yet to come: as this run has seen it, else as expected at this run's pace."""
        seen = getattr(self._seen, name)
        if name == "step" and seen:
            return statistics.median(seen[-_RECENT:])
        if seen:
            return statistics.median(seen)
        assert self.parts is not None
        if not self._known:
            return getattr(self.parts, name) * statistics.median(self._seen.step[-_RECENT:])
        return float(getattr(self.parts, name) * self.pace)
