"""How fast a run is, and what holds it up: samples and tokens per second, MFU, the share of time spent on waiting for
data, and the most memory in use.

    meter = Meter(device, devices=accelerator.num_processes, places=place.count)
    while training:
        with meter.loading():
            batch = next(batches)
        meter.add(batch_cost(transformer.config, batch))
        ...
        with meter.paused():                        # validation, samples, saving
            ...
        if it is time to log:
            record |= meter.read()

The formula of MFU stands in `training.core.cost`. `read` waits for the device, which logging does anyway.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sama.flops import peak_flops
from training.core.cost import Cost, mfu

GIB = 2**30


class Meter:
    """Figures of the time since the last reading.

    devices: all processes. places: those that see different samples (`Place.count`): what one place adds counts for
    each, since all have the same bucket in the same micro-step.
    """

    def __init__(self, device: torch.device, devices: int = 1, places: int = 1) -> None:
        self.device, self.devices, self.places = device, devices, places
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.peak = peak_flops(name)
        """Dense bfloat16 peak of the device in FLOP/s; None if it is not known, and there is then no MFU."""
        self._restart()

    def _restart(self) -> None:
        self._start = time.monotonic()
        self._waited = self._away = 0.0
        self._cost = Cost(0, 0, 0)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def add(self, cost: Cost) -> None:
        """Count one micro-step of this process's place."""
        self._cost = Cost(*(sum(pair) for pair in zip(self._cost, cost, strict=True)))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Time in the block is spent on getting a batch."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in the block is none of training's."""
        self._settle()
        start = time.monotonic()
        try:
            yield
        finally:
            self._settle()
            self._away += time.monotonic() - start

    def read(self) -> dict[str, float]:
        """`samples_per_second` and `tokens_per_second` of all processes together, `data_share` (0 to 1) of this
        process's time, `memory_gib` (peak on the device; of the process on a CPU), and `mfu` (0 to 1) where the
        device's peak is known. The next reading starts here."""
        self._settle()
        seconds = max(time.monotonic() - self._start - self._away, 1e-9)
        record = {
            "samples_per_second": self._cost.samples * self.places / seconds,
            "tokens_per_second": self._cost.tokens * self.places / seconds,
            "data_share": self._waited / seconds,
            "memory_gib": self._peak_memory() / GIB,
        }
        share = mfu(self._cost.flops * self.places, seconds, self.devices, self.peak)
        if share is not None and self._cost.flops:
            record["mfu"] = share
        self._restart()
        return record

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
