"""Rules that decide where an edit is shown and where the source stays, and the measures of what each one shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.compose import FAINT, Mask, changes_everything, compose, differences, edit_mask
from sama.edit.composing.region import vouched
from training.evaluation.held_out import metrics
from training.evaluation.held_out.scoring import UNCHANGED

Clip = NDArray[np.uint8]  # (T, H, W, 3) RGB

NEARER = 1.0
"""dB by which the result of an edit that was followed is nearer to the truth than the source is."""
_AWAY = 8  # pixels around the edit that was asked for in which nothing counts as elsewhere


@dataclass(frozen=True)
class CaseKey:
    """kind: "usual" or "large"."""

    kind: str
    task: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.task}-{self.seed}.npz"


@dataclass(frozen=True)
class EditedPair:
    """A pair and what the model made of its source, at the model's size.

    reference: the decoded source. regions: (2, 8, 8), where the plan means to change the picture, by
    `sama.model.semantics.plan_region`, at the first and at the last step. scale: of the source's tokens.
    """

    key: CaseKey
    source: Clip
    target: Clip
    result: Clip
    reference: Clip
    regions: NDArray[np.float32]
    scale: float

    @property
    def asked(self) -> NDArray[np.bool_]:
        """The mask of pixels where the pair differs, (T, h, w)."""
        return metrics.changed_mask(self.source, self.target)


@dataclass(frozen=True)
class Shown:
    """The measures of what one rule shows of an edit. None where a measure does not apply.

    whole: whether the whole result is shown. inside, outside: PSNR in dB against the truth. border: mean difference of
    the gradients of picture and truth where the mask goes from 0 to 1, of 255. elsewhere: share of the picture that
    changed away from what was asked for. alone: whether a clip that was to stay as it is was left alone.
    followed: whether the result is nearer to the truth than the source, by `NEARER`, where a change was asked for.
    reach: the highest cell of the plan's region, as a share of the source's own scale.
    """

    key: CaseKey
    whole: bool
    right: bool
    inside: float | None
    outside: float | None
    border: float | None
    elsewhere: float
    alone: bool | None
    followed: bool | None
    reach: float


Rule = Callable[[EditedPair], Mask | None]
"""The mask of what is shown, (T, h, w) in [0, 1]; None shows the whole result."""


def by_pixels(edit: EditedPair) -> Mask | None:
    apart = differences(edit.result, edit.reference)
    return None if changes_everything(apart) else edit_mask(apart)


def by_plan(edit: EditedPair) -> Mask | None:
    """The plan decides alone."""
    if _plan_is_whole(edit):
        return None
    return np.repeat(_wanted(edit)[None], len(edit.source), axis=0)


def plan_decides_whole(edit: EditedPair) -> Mask | None:
    """The plan decides whether the whole result is shown, and the pixels where else."""
    return None if _plan_is_whole(edit) else edit_mask(differences(edit.result, edit.reference))


def plan_and_pixels(edit: EditedPair) -> Mask | None:
    """Shown where both mean a change."""
    mask = by_pixels(edit)
    return None if mask is None else mask * _wanted(edit)


def plan_vouches(edit: EditedPair) -> Mask | None:
    """Regions of the pixels' mask, connected in space and time, that the plan touches or that appear later than the
    first frame, which is all that the plan is about."""
    mask = by_pixels(edit)
    if mask is None:
        return None
    return vouched(mask, edit.regions[-1], edit.scale)


def soft(edit: EditedPair) -> Mask | None:
    """The difference counts for more where the plan means a change, and for less where it does not."""
    apart = differences(edit.result, edit.reference)
    if changes_everything(apart):
        return None
    return edit_mask(apart * (0.6 + 0.6 * _wanted(edit)))


RULES: dict[str, Rule] = {
    "pixels": by_pixels,
    "plan": by_plan,
    "plan decides whole": plan_decides_whole,
    "plan and pixels": plan_and_pixels,
    "plan vouches for regions (in use)": plan_vouches,
    "soft": soft,
}
WHOLE_PLAN = 0.40
"""Median of the plan's region from which on the plan means the whole picture."""
WANTED = (0.3, 0.7)
"""A cell of the plan's region means no change up to the first, and certainly one from the second on, as shares of the
source's own scale."""


def _plan_is_whole(edit: EditedPair) -> bool:
    return float(np.median(edit.regions[-1])) > WHOLE_PLAN


def _wanted(edit: EditedPair) -> NDArray[np.float32]:
    """How far the plan means a change at each pixel or near it, (h, w) in [0, 1]."""
    low, high = (share * edit.scale for share in WANTED)
    cells = np.clip((edit.regions[-1] - low) / (high - low), 0, 1).astype(np.float32)
    height, width = edit.source.shape[1:3]
    near = cv2.dilate(cells, np.ones((3, 3), np.uint8))  # what lies across a cell's edge belongs to it
    return np.asarray(cv2.resize(near, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def measure_shown(edit: EditedPair, mask: Mask | None) -> Shown:
    """The measures of what a mask shows."""
    shown = edit.result
    if mask is not None:
        shown = np.stack([compose(*frame) for frame in zip(edit.source, edit.result, mask, strict=True)])
    asked = edit.asked
    away = ~np.stack([cv2.dilate(frame.astype(np.uint8), np.ones((2 * _AWAY + 1,) * 2)) > 0 for frame in asked])
    elsewhere = float(((differences(shown, edit.source) >= FAINT) & away).mean())
    identity = edit.key.task == "identity"
    whole = float(asked.mean()) > 0.5
    return Shown(
        edit.key,
        mask is None,
        (mask is None) == whole,
        _db(metrics.psnr(shown, edit.target, asked)),
        _db(metrics.psnr(shown, edit.target, ~asked)) if not whole else None,
        None if mask is None else _border(shown, edit.target, mask),
        elsewhere,
        metrics.psnr(shown, edit.source) > UNCHANGED if identity else None,
        None
        if identity or whole
        else bool(
            metrics.psnr(edit.result, edit.target, asked) > metrics.psnr(edit.source, edit.target, asked) + NEARER
        ),
        float(edit.regions[-1].max()) / edit.scale,
    )


def _db(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _border(shown: Clip, truth: Clip, mask: Mask) -> float | None:
    band = (mask > 0.02) & (mask < 0.98)
    if not band.any():
        return None
    error = shown.astype(np.float32) - truth
    steps = [np.abs(np.gradient(error, axis=axis)).max(axis=-1) for axis in (1, 2)]
    return float(np.maximum(*steps)[band].mean())
