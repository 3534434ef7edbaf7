"""Recolours drawings."""

from __future__ import annotations

import cv2
import numpy as np

_RAMPS: dict[str, tuple[tuple[int, int, int], ...]] = {
    # shadow, deep, body, light, highlight: luminance 0, 1/4, 1/2, 3/4, 1
    "red": ((40, 2, 6), (138, 10, 18), (222, 32, 36), (250, 110, 100), (255, 226, 220)),
    "orange": ((58, 18, 0), (164, 70, 4), (246, 132, 20), (255, 180, 92), (255, 238, 214)),
    "yellow": ((70, 44, 0), (180, 132, 8), (250, 212, 28), (255, 232, 112), (255, 252, 222)),
    "green": ((2, 34, 10), (14, 96, 36), (40, 166, 66), (118, 216, 128), (226, 252, 226)),
    "blue": ((2, 10, 52), (12, 46, 138), (34, 98, 226), (112, 168, 250), (222, 238, 255)),
    "purple": ((24, 4, 46), (78, 22, 122), (138, 58, 200), (188, 134, 236), (242, 228, 254)),
    "pink": ((74, 10, 44), (184, 52, 118), (248, 122, 182), (255, 178, 212), (255, 236, 246)),
    "brown": ((26, 12, 4), (74, 42, 20), (126, 78, 42), (178, 132, 90), (236, 216, 190)),
    "black": ((4, 4, 6), (20, 20, 24), (42, 42, 48), (92, 92, 100), (190, 190, 198)),
    "white": ((66, 68, 78), (170, 172, 182), (230, 231, 236), (248, 248, 250), (255, 255, 255)),
}


def tinted(drawing: np.ndarray, colour: str) -> np.ndarray:
    """The drawing (h, w, 4) uint8 in the named colour (one of COLOURS): its luminance, centred, on that ramp."""
    grey = cv2.cvtColor(drawing[..., :3], cv2.COLOR_RGB2GRAY)
    solid = grey[drawing[..., 3] > 127]
    below = np.bincount(solid.ravel(), minlength=256).cumsum()
    low, middle, high = (float(np.searchsorted(below, share * below[-1])) for share in (0.02, 0.5, 0.98))
    if not solid.size:
        low, middle, high = 0.0, 128.0, 255.0
    low, high = min(low, middle - 20), max(high, middle + 20)  # a flat drawing is all body, without false contrast
    levels = np.arange(256, dtype=np.float32)
    place = np.interp(levels, (low - 40, low, middle, high, high + 40), (0, 0.08, 0.5, 0.9, 1))
    stops = np.linspace(0, 1, 5)
    ramp = np.stack([np.interp(place, stops, [c[k] for c in _RAMPS[colour]]) for k in range(3)], axis=-1)
    rgb = cv2.LUT(cv2.merge([grey, grey, grey]), np.round(ramp).astype(np.uint8)[None])
    return np.dstack([rgb, drawing[..., 3]])


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of the colours (0-255) of two versions of a drawing, where it is solid."""
    solid = a[..., 3] > 127
    if not solid.any():
        return 0.0
    return float(np.abs(a[solid][:, :3].astype(np.int16) - b[solid][:, :3]).mean())
