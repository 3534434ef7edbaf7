"""How much of the picture an edit changed, measured and told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.compose import FAINT, Mask

NOTHING = 0.001
"""Below this share of the picture nothing changed that anybody would see."""

NOTHING_CHANGED = (
    "Nothing changed: the model left the clip as it was. Say it in other words, try another seed, "
    "or show the model's whole picture (keep source: off)."
)
NOTHING_CHANGED_INSIDE = (
    "Nothing changed: the model left what lies inside the mask as it was. Say it in other words, make the mask larger, "
    "or show all that the model painted inside it (keep source: off)."
)


def shown_change(apart: Mask, mask: Mask | None) -> NDArray[np.uint8]:
    """How far each pixel moves away from the source where `mask` shows the result: (T, h, w), 0 to 255.

    apart: (T, h, w) in [0, 1], by `sama.edit.composing.compose.differences`.
    mask: (T, h, w) in [0, 1]; None shows the result everywhere.
    """
    shown = apart if mask is None else apart * mask
    return np.asarray(np.rint(shown * np.float32(255)), np.uint8)


def changed_share(change: NDArray[np.uint8] | NDArray[np.float32]) -> float:
    """The share of one picture that changes by more than a faint amount, 0 to 1. change: (h, w), by `shown_change`."""
    return float((change >= FAINT * 255).mean())


def told_change(share: float) -> str:
    """A share of the picture that changed as people say it, "changed 11 % of the picture"; "" for nothing."""
    if share < NOTHING:
        return ""
    percent = round(100 * share)
    return f"changed {percent} % of the picture" if percent else "changed less than 1 % of the picture"
