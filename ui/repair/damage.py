"""Damages a clip as in training, at once and without a model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sama.model.pretext import PRETEXT_TASKS
from sama.presets import canvas_of
from sama.shapes import TEMPORAL_FACTOR, nearest_bucket
from sama.video import read_clip
from ui.errors import PromptError
from ui.media.clips import PageClip
from ui.media.limits import PRETEXT_FRAMES


@dataclass(frozen=True)
class Break:
    """The choice of a damage: a key of `PRETEXT_TASKS`, the first frame, the seed, and one of the task's strengths."""

    task: str
    start: int = 0
    seed: int = 0
    strength: float = 0.0

    @classmethod
    def of(cls, task: str, start: float | None, seed: float | None, strength: float | None = None) -> Break:
        """A choice from the values of a form; no strength, or 0, is that of training.

        Raises PromptError for a task or a strength that does not exist.
        """
        if task not in PRETEXT_TASKS:
            raise PromptError(f"The task {task!r} does not exist; choose one of {', '.join(PRETEXT_TASKS)}.")
        known = PRETEXT_TASKS[task]
        wanted = strength or known.trained
        nearest = min(known.strengths, key=lambda each: abs(each - wanted))
        if abs(nearest - wanted) > 1e-6:
            there = ", ".join(f"{each:g}" for each in known.strengths)
            raise PromptError(f"The strength {wanted:g} does not exist for {task!r}; choose one of {there}.")
        return cls(task, max(0, int(start or 0)), int(seed or 0), float(nearest))


@dataclass(frozen=True)
class Piece:
    """A piece that was cut out of a clip: where it came from and where it is shown.

    Each place is (first frame, frames, top, height, left, width). number counts from 1, by origin.
    """

    number: int
    origin: tuple[int, int, int, int, int, int]
    shown: tuple[int, int, int, int, int, int]

    @property
    def moved(self) -> bool:
        return self.origin != self.shown


@dataclass(frozen=True)
class Damaged:
    """A clip before and after. clean, given: (T, H, W, 3) uint8; hidden: (T, H, W) bool, what was taken or moved.

    prefix: the task's token. detail: what was done, in numbers.
    """

    choice: Break
    clean: np.ndarray
    given: np.ndarray
    hidden: np.ndarray
    prefix: str
    detail: dict[str, Any]

    @property
    def touched(self) -> np.ndarray:
        """(T,) in [0, 1]: the share of each frame that was taken or moved."""
        shares: np.ndarray = self.hidden.mean(axis=(1, 2))
        return shares

    @property
    def sources(self) -> list[int | None]:
        """For each frame that the model sees, the frame of the clean clip that it is; None for one that is none."""
        if "index" in self.detail:
            return list(self.detail["index"])
        return [None if share else index for index, share in enumerate(self.touched)]

    @property
    def pieces(self) -> list[Piece]:
        """The pieces that were put in another order; none for other tasks."""
        if "tubes" not in self.detail:
            return []
        counts = self.detail["tubes"]
        sizes = [side // count for side, count in zip(self.clean.shape[:3], counts, strict=True)]
        places = [
            tuple(value for index, size in zip(corner, sizes, strict=True) for value in (index * size, size))
            for corner in product(*map(range, counts))
        ]
        found = [Piece(origin + 1, places[origin], places[place]) for place, origin in enumerate(self.detail["order"])]
        return sorted(found, key=lambda piece: piece.number)


def damage(clip: PageClip, choice: Break, preset: str) -> Damaged:
    """Damage the first 4k+1 frames from `choice.start` (at most 17), in the model's size."""
    import torch

    start = min(choice.start, clip.frames - 1)
    count = (min(PRETEXT_FRAMES, clip.frames - start) - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
    bucket = nearest_bucket(clip.width, clip.height, canvas_of(preset).buckets)
    clean = read_clip(clip.path, start, count, size=(bucket.width, bucket.height))
    task = PRETEXT_TASKS[choice.task]
    strength = () if choice.strength == task.trained else (choice.strength,)
    done = task.perturb(torch.from_numpy(clean), torch.Generator().manual_seed(choice.seed), *strength)
    return Damaged(choice, clean, done.frames.numpy(), done.hidden.numpy(), task.prefix, done.detail)
