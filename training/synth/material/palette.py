"""Names of colours, measured from pixels."""

from __future__ import annotations

import cv2
import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")


def _classify(pixels: np.ndarray) -> np.ndarray:
    """Index into `COLOURS` of each of (n, 3) uint8 RGB pixels."""
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels[:, None]), cv2.COLOR_RGB2HSV)[:, 0].astype(np.float32)
    hue, saturation, value = hsv[:, 0] * 2, hsv[:, 1] / 255, hsv[:, 2] / 255
    edges = np.array([13, 42, 68, 168, 252, 290, 345], dtype=np.float32)  # where people change the word
    order = np.array([COLOURS.index(name) for name in COLOURS[:7]] + [0])
    named = order[np.digitize(hue, edges)]

    def put(where: np.ndarray, colour: str) -> None:
        named[where] = COLOURS.index(colour)

    warm = (hue < 46) | (hue >= 345)
    put(warm & (hue >= 10) & (hue < 345) & (value < 0.72), "brown")
    put((hue >= 46) & (hue < 62) & (value < 0.5), "brown")
    put(((hue < 11) | (hue >= 345)) & ((value < 0.4) | ((saturation < 0.65) & (value < 0.62))), "brown")
    put((hue >= 336) & (saturation > 0.7), "red")
    put(((hue >= 330) | (hue < 14)) & (saturation < 0.6) & (value > 0.75), "pink")
    put((hue >= 14) & (hue < 42) & (saturation < 0.55) & (value >= 0.5), "brown")  # beige and tan
    put((saturation < 0.16) | ((saturation < 0.25) & (hue >= 168) & (hue < 290)), "gray")  # bluish grays look gray
    put((saturation < 0.16) & (value > 0.82), "white")
    put((hue >= 200) & (hue < 335) & (saturation < 0.55) & (value < 0.48), "black")  # a drawn black is often bluish
    put(value < 0.25, "black")
    return named


def sprite_colour(image: np.ndarray) -> str:
    """The most frequent colour word, one of `COLOURS`, of the opaque pixels of an (h, w, 4) uint8 RGBA image.

    Raises:
        ValueError: the image has no opaque pixel.
    """
    opaque = image[image[..., 3] > 127][:, :3]
    if len(opaque) == 0:
        raise ValueError("an image without opaque pixels has no colour")
    return COLOURS[int(np.bincount(_classify(opaque), minlength=len(COLOURS)).argmax())]
