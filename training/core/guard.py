"""Stops a run that cannot learn any more: too many skipped steps, or too many samples that cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from training.config import GuardConfig


class Guard:
    """Counts what is not finite among the last `guard.window` steps (gradients) or samples (latents, text, anchors).

    The device finds out, and the host reads it when it has arrived, without waiting: on a GPU a run is therefore
    stopped a step or two after the one that was too many. On a CPU everything is known at once.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._recent: deque[bool] = deque(maxlen=config.window)
        self._arriving: deque[tuple[Tensor, torch.cuda.Event | None, Sequence[int]]] = deque()

    def note(self, bad: Tensor, numbers: Sequence[int] = (0,)) -> None:
        """Take bool verdicts, (B,) or one without dimensions, on any device; true is bad. numbers: one for each, by
        which `settle` tells the bad ones."""
        bad, arrived = bad.detach().flatten(), None
        host = torch.empty(bad.shape, dtype=torch.bool, pin_memory=bad.is_cuda).copy_(bad, non_blocking=True)
        if bad.is_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        self._arriving.append((host, arrived, numbers))

    def settle(self, wait: bool = False) -> list[int]:
        """Count the verdicts that have arrived (wait: all of them); returns the numbers of the bad ones, each once."""
        found = []
        while self._arriving:
            host, arrived, numbers = self._arriving[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    break
                arrived.synchronize()
            self._arriving.popleft()
            self._recent.extend(host.tolist())
            found += [number for number, bad in zip(numbers, host.tolist(), strict=True) if bad]
        return found

    @property
    def last_was_bad(self) -> bool:
        """Whether the newest verdict that the host knows of is bad."""
        return bool(self._recent) and self._recent[-1]

    def too_many(self, ended: bool = False) -> bool:
        """Whether more than `guard.max_skipped_share` of a whole window is bad. ended: the run is over, so that a
        shorter window is judged as well."""
        counted = len(self._recent) if ended else self.config.window
        return sum(self._recent) > self.config.max_skipped_share * counted

    def __str__(self) -> str:
        return f"{sum(self._recent)} of the last {len(self._recent)}"

    def state_dict(self) -> list[bool]:
        """The last verdicts, oldest first. Waits for those that were noted."""
        self.settle(wait=True)
        return list(self._recent)

    def load_state_dict(self, state: Sequence[bool]) -> None:
        """Go on from stored verdicts."""
        self._recent.extend(state)
