"""Estimates the light and the ground of a place from its picture and its description.

Both depend on these two only, so that an editor that sees the source can know shadow and tone of a new object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

Surface = Literal["ground", "wall", "none"]

_HORIZONS: dict[str, float] = {
    "beach": 0.66,
    "green meadow": 0.6,
    "starry night sky": 0.86,
    "snowy mountains": 0.74,
    "desert": 0.56,
    "city skyline at night": 0.87,
    "checkered floor": 0.57,
    "wooden room": 0.63,
    "forest": 0.78,
    "underwater": 0.84,
    "autumn park": 0.74,
    "road": 0.52,
    "volcano": 0.82,
}
_DEFAULT_HORIZON = 0.55
_BOTTOMLESS = ("outer space", "sunset over the sea", "galaxies", "abstract")
_UPRIGHT = ("brick wall", "from above", "from high above", "gravel", "brushes")
_SKY = ("sky", "clouds")
_LAND = (
    "meadow", "grass", "field", "forest", "tree", "trees", "bush", "bushes", "hill", "branch", "ground", "pad", "soil",
    "spikes", "flowers",
)  # fmt: skip


@dataclass(frozen=True)
class Light:
    """How a place lights what stands in it.

    Attributes:
        side: where the light comes from, -1 from the left to 1 from the right.
        gain: factors of red, green and blue for a drawing; dark places make things darker, coloured ones tint them.
        strength: opacity of a shadow at its darkest, in [0, 1].
        surface: "ground" to stand on, a "wall" behind (or a floor seen from above), or "none" to throw a shadow on.
        horizon: where the ground begins, as a fraction of the height.
    """

    side: float
    gain: tuple[float, float, float]
    strength: float
    surface: Surface
    horizon: float


def light_of(picture: np.ndarray, words: str) -> Light:
    """The light in a picture (h, w, 3) uint8 that ``words`` describe (a background's name or a caption)."""
    small = cv2.resize(picture, (16, 12), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    luminance = small @ np.array((0.299, 0.587, 0.114), np.float32)
    mean = float(luminance.mean())
    upper = luminance[:8] ** 3
    across = (np.arange(16, dtype=np.float32) - 7.5) / 7.5
    side = 2.5 * float((upper * across).sum() / max(1e-6, upper.sum()))
    colour = small.reshape(-1, 3).mean(0) / max(mean, 0.05)
    level = 0.72 + 0.32 * mean**0.5
    gain = np.clip(level * (0.86 + 0.14 * colour), 0.72, 1.05)
    surface, horizon = _surface(words)
    strength = 0.36 + 0.3 * min(1.0, mean / 0.5)
    return Light(
        max(-1.0, min(1.0, side)), (float(gain[0]), float(gain[1]), float(gain[2])), strength, surface, horizon
    )


def _surface(words: str) -> tuple[Surface, float]:
    """The kind of surface and its horizon."""
    if words in _HORIZONS:
        return "ground", _HORIZONS[words]
    if any(part in words for part in _BOTTOMLESS):
        return "none", 1.0
    if any(part in words for part in _UPRIGHT):
        return "wall", 0.0
    said = set(words.split())
    if said & set(_SKY) and not said & set(_LAND):
        return "none", 1.0
    return "ground", _DEFAULT_HORIZON
