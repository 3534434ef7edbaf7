"""Holds rendered groups as latents on the device: encoded once, drawn often in other pairs, wordings and noise, then
replaced by new ones.

Memory is laid out in slots of one group each, so that a pair never outlives its clips:

    shelf of a bucket   slot 0            slot 1            ...   slot capacity-1
                        16 latents        16 latents
                        14 anchors        14 anchors
                        24 pairs          24 pairs                source, target (within the slot), task
                        24 x K prompts    24 x K prompts
                                          ^ the oldest group, replaced by the next that comes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sama.model.pretext import PRETEXT_TASKS
from sama.shapes import Bucket
from training.core.randomness import derived_seed
from training.data.drawn.scenes import ALL_TASKS, MAX_CLIPS, MAX_PAIRS, NO_TASK

EDITS, RESTORATIONS = 0, 1


@dataclass
class DrawnRows:
    """Rows of one bucket, on the device.

    source, target: (B, C, F, H, W) normalised latents; pictures: (B, 3, 128, 128) uint8, the targets' first frames;
    token_ids: (B, L) of the instructions. tasks: (B,), numbers in `ALL_TASKS`.
    """

    source: Tensor
    target: Tensor
    pictures: Tensor
    token_ids: Tensor
    tasks: Tensor


@dataclass
class _Shelf:
    """The S slots of one bucket. `counts` (clips, edits, restorations of each slot) is on the host, so that
    counting does not wait for the device."""

    latents: Tensor  # (S, 16, C, F, H, W)
    pictures: Tensor  # (S, 16, 3, 128, 128)
    pairs: Tensor  # (S, 24, 3)
    tokens: Tensor  # (S, 24, K, L)
    added: int
    counts: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    chances: Tensor | None = None  # (2, S * 24) cumulative weights of edits and of restorations; None: out of date


class LatentStore:
    """Latents, anchor pictures and tokenised instructions of the last `capacity` groups of each bucket.

    Draws batches of one bucket; each bucket held comes once in every round, in an order that is the same for all ranks.
    Edits are drawn task by task, in the shares that `task_weights` sets (1 where it says nothing), however many pairs
    each task has; restorations are drawn apart, in the share asked for. The n-th draw is a function of the seed, the
    rank, n and what is held.
    """

    def __init__(
        self,
        device: torch.device,
        capacity: int,
        task_weights: Mapping[str, float],
        seed: int,
        rank: int = 0,
        gone: int = 0,
    ) -> None:
        """capacity: groups of one bucket, at least 1. gone: groups of each bucket that came before the first that is
        added; slots go on from there. Raises ValueError for a weight of a task that does not exist."""
        unknown = set(task_weights) - set(ALL_TASKS)
        if unknown:
            raise ValueError(f"task_weights names unknown tasks {sorted(unknown)}: use some of {', '.join(ALL_TASKS)}")
        if capacity < 1:
            raise ValueError(f"a store needs room for a group of each bucket, not {capacity}")
        self.device, self.capacity = device, capacity
        self.seed, self.rank, self.gone = seed, rank, gone
        edits = [0.0 if task in PRETEXT_TASKS else task_weights.get(task, 1.0) for task in ALL_TASKS]
        restorations = [float(task in PRETEXT_TASKS) for task in ALL_TASKS]
        self._weights = torch.tensor([[*edits, 0.0], [*restorations, 0.0]], dtype=torch.double, device=device)
        self._random = torch.Generator(device)
        self._shelves: dict[Bucket, _Shelf] = {}

    def add(self, group: Mapping[str, Any], latents: Tensor) -> None:
        """Keep a group of `training.data.drawn.scenes.GroupedPairs`, in place of its bucket's oldest if there is no
        room.

        group: `pairs` on the host, the others anywhere; latents: (N, C, F, H, W) of its N clips. Raises ValueError for
        a group without pairs.
        """
        tasks = group["pairs"][:, 2].numpy()
        pairs = int((tasks < NO_TASK).sum())
        edits = int((tasks < NO_TASK - len(PRETEXT_TASKS)).sum())
        if not pairs:
            raise ValueError("a group without pairs has nothing to draw")
        bucket = Bucket(*group["bucket"])
        shelf = self._shelves.get(bucket)
        if shelf is None:
            shelf = self._shelves[bucket] = self._empty(group, latents)
        slot = shelf.added % self.capacity
        shelf.latents[slot, : len(latents)].copy_(latents, non_blocking=True)
        shelf.pictures[slot, : len(group["anchors"])].copy_(group["anchors"], non_blocking=True)
        shelf.pairs[slot].copy_(group["pairs"], non_blocking=True)
        shelf.tokens[slot].copy_(group["tokens"], non_blocking=True)
        shelf.counts[slot] = (len(latents), edits, pairs - edits)
        shelf.added += 1
        shelf.chances = None

    def counts(self) -> dict[str, int]:
        """Numbers of groups, clips, edit pairs and restorations held."""
        counts = [count for shelf in self._shelves.values() for count in shelf.counts.values()]
        sums = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
        return {"groups": len(counts), **dict(zip(("clips", "edits", "restorations"), sums, strict=True))}

    def draw(self, number: int, size: int, pretext_share: float) -> DrawnRows:
        """The `number`-th batch, of `size`, drawn with replacement: first the edits, then round(size * pretext_share)
        restorations. Raises RuntimeError while the store is empty."""
        shelf = self._shelf_of(number)
        self._random.manual_seed(derived_seed("rows", self.seed, self.rank, number))
        counts = shelf.counts.values()
        if shelf.chances is None:
            shelf.chances = self._chances(shelf.pairs[: len(counts)])
        restorations = round(size * pretext_share) if any(count[2] for count in counts) else 0
        if not any(count[1] for count in counts):
            restorations = size
        rows = torch.cat(
            [
                self._rows(shelf.chances[EDITS], size - restorations),
                self._rows(shelf.chances[RESTORATIONS], restorations),
            ]
        )
        slot = rows // MAX_PAIRS
        source, target, tasks = shelf.pairs.view(-1, 3)[rows].long().unbind(1)
        wordings = shelf.tokens.shape[2]
        wording = torch.randint(wordings, (size,), generator=self._random, device=self.device)
        return DrawnRows(
            shelf.latents[slot, source],
            shelf.latents[slot, target],
            shelf.pictures[slot, target],
            shelf.tokens.flatten(0, 1)[rows, wording].long(),
            tasks,
        )

    def _empty(self, group: Mapping[str, Any], latents: Tensor) -> _Shelf:
        def room(like: Tensor, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(self.capacity, *sizes, dtype=dtype or like.dtype, device=self.device)

        return _Shelf(
            room(latents, MAX_CLIPS, *latents.shape[1:], dtype=torch.bfloat16),
            room(group["anchors"], MAX_CLIPS, *group["anchors"].shape[1:]),
            room(group["pairs"], *group["pairs"].shape),
            room(group["tokens"], *group["tokens"].shape),
            self.gone,
        )

    def _shelf_of(self, number: int) -> _Shelf:
        if not self._shelves:
            raise RuntimeError("nothing was added to the store yet")
        buckets = sorted(self._shelves)
        turn, place = divmod(number, len(buckets))
        order = np.random.default_rng(derived_seed("shelves", self.seed, turn)).permutation(len(buckets))
        return self._shelves[buckets[int(order[place])]]

    def _chances(self, pairs: Tensor) -> Tensor:
        """Cumulative weights (2, pairs) of `pairs` (slots, 24, 3): a task's weight is shared by its pairs."""
        tasks = pairs[..., 2].long().flatten()
        counts = torch.zeros(NO_TASK + 1, dtype=torch.double, device=self.device)
        counts.index_add_(0, tasks, torch.ones_like(tasks, dtype=torch.double))
        weights = self._weights.clone()
        weights[EDITS] /= counts.clamp_min(1)  # restorations are drawn evenly: their tasks' shares are in the groups
        return weights[:, tasks].cumsum(1)

    def _rows(self, chances: Tensor, count: int) -> Tensor:
        """`count` rows drawn by cumulative weights; rows of no weight are never drawn."""
        points = torch.rand(count, generator=self._random, device=self.device).double() * chances[-1]
        return torch.searchsorted(chances, points, right=True)
