"""The events that an edit yields while it runs, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PHASES = ("reading", "planning", "painting", "saving", "done")
MAX_PLANS = 16
"""Windows whose semantic tokens are kept: a long clip's plans would fill the memory."""


@dataclass(frozen=True)
class EditResult:
    """A finished edit.

    output, settings: the video and the JSON that repeats it. seconds: how long it took.
    kept_source: whether unchanged places show the source's own pixels.
    kept_detail: whether the edit was given the source's detail.
    changed: the share of the picture that changed by more than a faint amount, over all frames, 0 to 1. Measured at the
        model's size against the decoded source; where neither `keep_source` nor `detail` needs that one, against the
        source itself, so that what the autoencoder loses counts too.
    semantic_tokens: (windows, steps, 65, D) float32, the plan of each of the first `MAX_PLANS` windows as it formed.
    anchor_source, anchor_result: (h, w, 3) uint8, the first frame as the model saw it and as the model painted it.
    unread, unread_negative: the end of the instruction and of the negative prompt that were too long for the model to
        read; "" where all was read.
    notices: sentences about what of the source was changed besides, or not kept (HDR, subtitles, ...); mostly none.
    """

    output: Path
    settings: Path
    frames: int
    fps: Fraction
    width: int
    height: int
    seed: int
    seconds: float
    kept_source: bool
    kept_detail: bool
    changed: float
    semantic_tokens: NDArray[np.float32]
    anchor_source: NDArray[np.uint8]
    anchor_result: NDArray[np.uint8]
    unread: str = ""
    unread_negative: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditEvent:
    """How far an edit is.

    phase: one of `PHASES`. step of steps in window of windows, counted from 1; 0 where there is none yet.
    message: a few words for people. preview: (h, w, 3) uint8, the first frame as the model imagines it, or None.
    region: (8, 8) float32, where the plan means to change the window's first frame, from the first step on, see
        `sama.model.semantics.plan_region`; None where the model cannot say.
    written: frames of the result that are in its file by now, with the events about saving a frame; else 0.
    warning: one sentence about what the user should know although the edit goes on; the event is then about that alone.
    result: with the last event only.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 0
    windows: int = 0
    message: str = ""
    preview: NDArray[np.uint8] | None = None
    region: NDArray[np.float32] | None = None
    written: int = 0
    warning: str = ""
    result: EditResult | None = None
