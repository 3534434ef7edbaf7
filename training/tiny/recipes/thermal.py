"""A style that the embedded model does not know: a heat camera, from violet (cold) to white (hot)."""

from __future__ import annotations

import cv2
import numpy as np

_WORKING_WIDTH = 256
"""A heat camera sees no fine detail: its blur is measured in pixels of a picture this wide, whatever the frame's
size."""
_COLOURS = ((8, 6, 38), (66, 14, 104), (148, 32, 112), (226, 76, 62), (252, 160, 46), (255, 238, 176))
"""The colours of the scale from dark to light, RGB, evenly spaced; each is lighter than the one before."""


def thermal(frame: np.ndarray) -> np.ndarray:
    """A frame (height, width, 3) uint8 RGB in heat colours, by its luminance only, so that the target is
    unambiguous."""
    light = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    soft = cv2.GaussianBlur(light, (0, 0), 0.8 * frame.shape[1] / _WORKING_WIDTH)
    return _palette()[soft]


def _palette() -> np.ndarray:
    """Colours of the 256 levels, (256, 3) uint8."""
    stops = np.linspace(0, 255, len(_COLOURS))
    columns = [np.interp(np.arange(256), stops, channel) for channel in zip(*_COLOURS, strict=True)]
    return np.stack(columns, axis=-1).round().astype(np.uint8)
