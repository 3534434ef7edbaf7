"""Meters a run: the floating-point operations of a step, its speed, the time spent waiting, and its progress.

The blocks count by the formula of `sama.flops`, and the layers around them by their real sizes. Training is three
forward passes; what is computed again under gradient checkpointing is not counted. MFU (model FLOPs utilisation) =
model FLOPs / (seconds x GPUs x dense bfloat16 peak of the device).
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from sama.flops import Flops, block_flops, peak_flops
from sama.shapes import PATCH_SIZE, LatentShape, TokenCounts, token_counts
from training.core.batch import EncodedBatch

GIB = 2**30


def forward_flops(config: Mapping[str, Any], tokens: TokenCounts, text_tokens: int) -> Flops:
    """One forward pass of one sample. config: the transformer's. Norms, activations, modulation and rotary factors are
    not counted."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    blocks = block_flops(tokens.total, text_tokens, d, config["ffn_dim"], config["num_layers"])
    patch, hidden = math.prod(PATCH_SIZE), config["semantic_hidden_dim"]
    around = (tokens.source + tokens.target) * patch * config["in_channels"] * d  # patch embedding
    around += tokens.target * d * patch * config["out_channels"]  # output projection
    around += tokens.semantic * (config["semantic_dim"] + d) * hidden  # semantic projector
    around += tokens.semantic * d * config["semantic_dim"]  # semantic head
    around += text_tokens * (config["text_dim"] * d + d**2)  # text embedder
    around += config["freq_dim"] * d + 7 * d**2  # time embedder and modulation
    return Flops(blocks.linear + 2 * around, blocks.attention)


def training_flops(forward: Flops, frozen: bool = False) -> int:
    """Forward and backward: three forward passes. frozen: the weights take no gradients of their own (LoRA, whose
    small matrices are not counted), so that layers cost two passes and attention three."""
    return (2 if frozen else 3) * forward.linear + 3 * forward.attention


class Cost(NamedTuple):
    """The cost of a micro-step."""

    samples: int
    tokens: int
    flops: int


def batch_cost(config: Mapping[str, Any], batch: EncodedBatch, frozen: bool = False) -> Cost:
    """The cost of training on a batch, from its real sizes. config: the transformer's. frozen: see
    `training_flops`. In a sequence-parallel group it is the cost for the group together."""
    shape, samples = LatentShape(*batch.target.shape[2:]), len(batch.target)
    semantic = 0 if batch.anchors is None else batch.anchors.shape[1]
    tokens = token_counts(shape, with_source=batch.source is not None, semantic_tokens=semantic)
    each = training_flops(forward_flops(config, tokens, batch.text.shape[1]), frozen)
    return Cost(samples, samples * tokens.total, samples * each)


def distillation_cost(config: Mapping[str, Any], batch: EncodedBatch, own: Cost, steps: int, substeps: int) -> Cost:
    """The cost of distilling `steps` x `substeps` guided steps into `steps` on a batch. own: of one training pass."""
    semantic = 0 if batch.anchors is None else batch.anchors.shape[1]
    shape = LatentShape(*batch.target.shape[2:])
    tokens = token_counts(shape, with_source=batch.source is not None, semantic_tokens=semantic)
    taught = 2 * steps * substeps * own.samples * forward_flops(config, tokens, batch.text.shape[1]).total
    return Cost(own.samples, own.tokens, steps * own.flops + taught)


def mfu(flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Share of the hardware's peak, 0 to 1; None for an unknown peak. flops: of all devices, in those seconds."""
    return None if peak is None or seconds <= 0 else flops / (seconds * devices * peak)


class Meter:
    """Figures of the time since the last reading.

    devices: all processes. data_ranks: those that see different samples (`DataRank.count`): what one of them adds
    counts for each, since all have the same bucket in the same micro-step.
    """

    def __init__(self, device: torch.device, devices: int = 1, data_ranks: int = 1) -> None:
        self.device, self.devices, self.data_ranks = device, devices, data_ranks
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
        """Count one micro-step of this process."""
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
        """Time in the block is not counted: validation, samples, saving."""
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
        device's peak is known. The next reading starts here. Waits for the device."""
        self._settle()
        seconds = max(time.monotonic() - self._start - self._away, 1e-9)
        samples, tokens, flops = (count * self.data_ranks for count in self._cost)
        record = {
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
            "data_share": self._waited / seconds,
            "memory_gib": self._peak_memory() / GIB,
        }
        share = mfu(flops, seconds, self.devices, self.peak)
        if share:
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
