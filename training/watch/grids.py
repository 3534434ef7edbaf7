"""One picture of what a model does to held-out clips: source, target, and what its weights and their average make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.watch.contact_sheet import contact_sheet

FRAME_HEIGHT = 128


@dataclass
class GridRow:
    """One held-out clip. Each list holds the same frames, (H, W, 3) uint8 or floats in [0, 1]; the last two are None
    where the time was up.

    words: the instruction. numbers: which frames of the clip are shown.
    """

    words: str
    numbers: tuple[int, ...]
    source: Sequence[np.ndarray]
    target: Sequence[np.ndarray]
    raw: Sequence[np.ndarray] | None = None
    averaged: Sequence[np.ndarray] | None = None


def shown_frames(count: int) -> tuple[int, ...]:
    """Which frames of a clip of `count` are drawn: the first, the middle one and the last."""
    return tuple(sorted({0, count // 2, count - 1}))


def draw_grid(rows: Sequence[GridRow], path: Path, title: str = "", height: int = FRAME_HEIGHT) -> Path:
    """Draw the clips below each other, one line for each frame shown, with source, target, raw and averaged side by
    side; `path` is a .jpg, .png or .webp. Raises ValueError without rows."""
    lines = []
    for row in rows:
        clips = [clip for clip in (row.source, row.target, row.raw, row.averaged) if clip is not None]
        for index, number in enumerate(row.numbers):
            label = f"frame {number}" if index else row.words
            lines.append((label, [clip[index] for clip in clips]))
    columns = ("source", "target", "raw weights", "EMA weights")
    return contact_sheet(lines, path, frame_height=height, columns=columns, title=title, font_size=14)
