"""Draws things close to the camera that hide a part of the scene: grass, leaves out of focus, posts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.synth.scenes.light import Light
from training.synth.scenes.motion import Camera

_NEARNESS = 1.5
"""How much faster the foreground goes past than the place behind it."""

_REACH = 0.2
"""Room on either side of the frame, as a fraction of its width, that a moving camera may come to see."""


@dataclass(frozen=True, eq=False)
class Foreground:
    """A strip along the bottom of the frame: premultiplied colour and 255 - opacity, (h, w, 3) uint8, wider than it."""

    paint: np.ndarray
    keep: np.ndarray

    def at(self, camera: Camera, u: float, width: int, height: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Top row, paint and keep of the visible part at time u."""
        h, w = self.paint.shape[:2]
        shift = round((w - width) / 2 + _NEARNESS * camera.pan[0] * u)
        left = min(max(0, shift), w - width)
        return height - h, self.paint[:, left : left + width], self.keep[:, left : left + width]

    def over(self, frame: np.ndarray, camera: Camera, u: float) -> None:
        """Blend onto ``frame`` (H, W, 3) uint8, in place."""
        top, paint, keep = self.at(camera, u, frame.shape[1], frame.shape[0])
        view = frame[top:]
        cv2.add(cv2.multiply(view, keep, scale=1 / 255), paint, dst=view)

    def mask(self, width: int, height: int) -> np.ndarray:
        """Pixels of frame 0 that it hides by more than half, (height, width) bool."""
        top, _, keep = self.at(Camera(), 0.0, width, height)
        hidden = np.zeros((height, width), bool)
        hidden[top:] = keep[..., 0] < 128
        return hidden


def sample_foreground(rng: np.random.Generator, light: Light, width: int, height: int) -> Foreground:
    """Random grass, leaves or posts in the light of the place."""
    draw = (_grass, _leaves, _posts)[int(rng.integers(3))]
    canvas = np.zeros((round(0.42 * height), round((1 + 2 * _REACH) * width), 4), np.uint8)
    draw(canvas, rng)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.008 * height if draw is not _leaves else 0.018 * height)
    paint = cv2.multiply(canvas, (*light.gain, 1.0))
    keep = 255 - canvas[..., 3]
    return Foreground(np.ascontiguousarray(paint[..., :3]), cv2.merge([keep, keep, keep]))


def _grass(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Blades of different length, closer together at the bottom."""
    h, w = canvas.shape[:2]
    for _ in range(w // 3):
        x, tall = float(rng.uniform(0, w)), h * float(rng.uniform(0.15, 0.6))
        bend, wide = float(rng.uniform(-0.4, 0.4)) * tall, float(rng.uniform(0.008, 0.018)) * w / 1.4
        shade = float(rng.uniform(0.65, 1.0))
        colour = (round(70 * shade), round(140 * shade), round(52 * shade), 255)
        blade = np.array(((x - wide, h), (x + wide, h), (x + bend, h - tall)))
        cv2.fillPoly(canvas, [np.round(blade).astype(np.int32)], colour, lineType=cv2.LINE_AA)


def _leaves(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """A bush at one corner, out of focus."""
    h, w = canvas.shape[:2]
    corner = (0.08 if rng.random() < 0.5 else 0.92) * w * float(rng.uniform(0.95, 1.05))
    for _ in range(46):
        x, y = corner + float(rng.normal(0, 0.1)) * w, h * (1 - abs(float(rng.normal(0, 0.38))))
        shade = float(rng.uniform(0.55, 1.0))
        colour = (round(54 * shade), round(118 * shade), round(60 * shade), 255)
        axes = (round(0.05 * w), round(0.02 * w))
        cv2.ellipse(canvas, (round(x), round(y)), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


def _posts(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """A low fence."""
    h, w = canvas.shape[:2]
    wood = ((150, 108, 70, 255), (222, 216, 204, 255))[int(rng.integers(2))]
    dark = (*(round(0.75 * c) for c in wood[:3]), 255)
    step, wide = max(12, round(0.13 * w)), max(3, round(0.02 * w))
    top = round(h * float(rng.uniform(0.5, 0.68)))
    rail = round(top + 0.4 * (h - top))
    cv2.rectangle(canvas, (0, rail), (w, rail + max(2, wide // 2)), dark, -1)
    for x in range(int(rng.integers(step)), w, step):
        tip = np.array(((x, h), (x, top + wide), (x + wide // 2, top), (x + wide, top + wide), (x + wide, h)))
        cv2.fillPoly(canvas, [tip.astype(np.int32)], wood, lineType=cv2.LINE_AA)
