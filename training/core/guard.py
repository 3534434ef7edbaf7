"""Stops a run that cannot learn any more: too many skipped steps, or too many samples that cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from training.config import GuardConfig
from training.core.finite import LateFlags


class _Recent:
    """The last `guard.window` verdicts, true for bad ones."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.flags: deque[bool] = deque(maxlen=config.window)

    def too_many(self, ended: bool = False) -> bool:
        """Whether more than the allowed share of a whole window is bad. ended: the run is over, so that a
        shorter window counts as well."""
        counted = len(self.flags) if ended else self.config.window
        return sum(self.flags) > self.config.max_skipped_share * counted

    def __str__(self) -> str:
        return f"{sum(self.flags)} of the last {len(self.flags)}"


class StepGuard:
    """Counts the steps that were skipped because their gradients were not finite.

    The device decides about each step (`training.parallel.processes.clip_gradients`), and the host learns of it
    later, without
    waiting: a run is therefore stopped a step or two after the one that was too many.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._recent = _Recent(config)
        self._late: LateFlags[None] = LateFlags()

    def note(self, skipped: Tensor) -> None:
        """Take the verdict of a step, a bool tensor without dimensions, on any device."""
        self._late.put(skipped, None)

    def settle(self, wait: bool = False) -> None:
        """Learn what has arrived. wait: of every step that was noted."""
        self._recent.flags.extend(bool(flag) for flag, _ in self._late.take(wait))

    @property
    def last_was_skipped(self) -> bool:
        """Whether the newest step that the host knows of was skipped."""
        return bool(self._recent.flags) and self._recent.flags[-1]

    def too_many(self, ended: bool = False) -> bool:
        """Whether more than `guard.max_skipped_share` of the last `guard.window` steps were skipped. ended: the run is
        over, so that fewer steps count as well."""
        return self._recent.too_many(ended)

    def __str__(self) -> str:
        return f"{self._recent} steps"

    def state_dict(self) -> list[bool]:
        """The last steps' verdicts. Waits for those that were noted."""
        self.settle(wait=True)
        return list(self._recent.flags)

    def load_state_dict(self, state: Sequence[bool]) -> None:
        self._recent.flags.extend(state)


class SampleGuard:
    """The samples whose latents, anchors or text states are not finite, by their numbers."""

    def __init__(self, config: GuardConfig) -> None:
        self._recent = _Recent(config)
        self._late: LateFlags[Sequence[int]] = LateFlags()

    def note(self, finite: Tensor, numbers: Sequence[int]) -> None:
        """Take the verdicts (B,) of samples, on any device, and their numbers."""
        self._late.put(finite, numbers)

    def settle(self, wait: bool = False) -> list[int]:
        """The numbers of those that are known by now not to be finite, each told once. wait: of all that were noted."""
        broken = []
        for flags, numbers in self._late.take(wait):
            self._recent.flags.extend(not finite for finite in flags.tolist())
            broken += [number for finite, number in zip(flags.tolist(), numbers, strict=True) if not finite]
        return broken

    def too_many(self, ended: bool = False) -> bool:
        """Whether more than `guard.max_skipped_share` of the last `guard.window` samples are not finite. ended: of the
        samples that there were, if they are fewer."""
        return self._recent.too_many(ended)

    def __str__(self) -> str:
        return str(self._recent)
