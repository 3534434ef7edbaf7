"""A look that the embedded model does not know: the outlines of things as glowing tubes in their own colours, before a
dark room."""

from __future__ import annotations

import cv2
import numpy as np

_WORKING_WIDTH = 256
"""Outlines and glow are measured in pixels of a picture this wide, whatever the size of the frame."""
_ROOM = np.array(((8, 6, 22), (26, 18, 58), (40, 30, 84)), np.float32)
"""What dark, middle and light grounds become, RGB."""


def neon(frame: np.ndarray) -> np.ndarray:
    """A frame (height, width, 3) uint8 RGB in neon. It depends on the frame alone: there is one right answer."""
    unit = frame.shape[1] / _WORKING_WIDTH
    lines = _outlines(frame, unit)[..., None]
    tubes = _pure_colours(frame, unit) * lines
    glow = cv2.GaussianBlur(tubes, (0, 0), 4 * unit)
    hot = 90 * np.clip(lines - 0.6, 0, 1)  # the brightest tubes are nearly white
    return np.clip(0.8 * _room(frame) + 1.1 * glow + tubes + hot, 0, 255).astype(np.uint8)


def _outlines(frame: np.ndarray, unit: float) -> np.ndarray:
    """How much of an outline each pixel is, (height, width) in [0, 1]: the strongest channel's morphological
    gradient."""
    side = 2 * round(unit) + 1
    smooth = cv2.GaussianBlur(frame, (0, 0), 0.8 * unit)
    change = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)).max(axis=-1)
    return np.clip(2.2 * change.astype(np.float32) - 18, 0, 255) / 255


def _pure_colours(frame: np.ndarray, unit: float) -> np.ndarray:
    """The colours nearby at full brightness and high saturation, float32."""
    hsv = cv2.cvtColor(cv2.GaussianBlur(frame, (0, 0), 2 * unit), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(2 * hsv[..., 1].astype(int) + 90, 0, 255)
    hsv[..., 2] = 255
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def _room(frame: np.ndarray) -> np.ndarray:
    """The dark ground, float32: what little light there is follows the frame's."""
    light = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    stops = np.linspace(0, 255, len(_ROOM))
    return np.stack([np.interp(light, stops, _ROOM[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)
