"""How busy this machine is: how much slower it computes now than when its speed was measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_TRIAL = 0.2  # seconds
_FRESH = 15.0  # seconds for which an answer holds
_SIDE = 768  # of a matrix whose product takes some milliseconds, as a layer of the small model does


class Machine:
    """Times a piece of work now and then.

    work: makes the piece, which takes some milliseconds; None for a device whose pace does not depend on what else
    runs on this machine, such as a GPU.
    """

    def __init__(self, work: Callable[[], Callable[[], object]] | None) -> None:
        self._make = work
        self._work: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._reference = 0.0
        self._told, self._when = 1.0, float("-inf")

    def refer(self) -> None:
        """Note how long the work takes at its best now: `pace` will be relative to that."""
        if self._make is None:
            return
        with self._lock:
            self._work = self._make()
            self._reference = min(self._timed())

    def pace(self) -> float:
        """How many times longer the work takes than when `refer` was called; 1 before that."""
        with self._lock:
            if self._work is not None and time.monotonic() - self._when > _FRESH:
                runs = self._timed()
                self._told, self._when = sum(runs) / len(runs) / self._reference, time.monotonic()
            return self._told

    def _timed(self) -> list[float]:
        assert self._work is not None
        self._work()  # the first run finds cold caches
        runs: list[float] = []
        while sum(runs) < _TRIAL:
            before = time.perf_counter()
            self._work()
            runs.append(time.perf_counter() - before)
        return runs


def matrix_product() -> Callable[[], object]:
    """A matrix product with all of torch's threads, as a model's layers are."""
    import torch

    factor = torch.ones(_SIDE, _SIDE)
    return lambda: torch.mm(factor, factor)
