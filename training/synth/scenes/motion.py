"""Motion of the camera and of objects, in pixels and degrees over the time u in [0, 1] of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A slow camera path that starts at the middle of the canvas without zoom, so that frame 0 does not depend on
    it."""

    pan: tuple[float, float] = (0.0, 0.0)  # pixels of the canvas covered from u = 0 to u = 1
    zoom: float = 1.0  # magnification at u = 1

    @property
    def moves(self) -> bool:
        return self.pan != (0.0, 0.0) or self.zoom != 1.0

    def at(self, u: float) -> tuple[float, float, float]:
        """Magnification and the offset of the view's centre from the canvas's, at time u in [0, 1]."""
        return 1 + (self.zoom - 1) * u, self.pan[0] * u, self.pan[1] * u


@dataclass(frozen=True)
class ObjectMotion:
    """An object's own motion on top of the camera's; all zero means that it is locked to the world."""

    drift: tuple[float, float] = (0.0, 0.0)  # pixels from u = 0 to u = 1
    bob: float = 0.0  # pixels up and down, through the air
    hop: float = 0.0  # pixels up from the ground
    sway: float = 0.0  # degrees to either side
    turns: float = 1.0  # periods of bob, hop and sway from u = 0 to u = 1
    growth: float = 1.0  # magnification at u = 1: what comes nearer grows

    def lift(self, u: float) -> float:
        """Height of a hop above the ground at time u, in pixels."""
        return self.hop * abs(math.sin(math.pi * self.turns * u))


Pose = tuple[float, float, float, float]
"""Centre x and y in pixels, magnification, angle in degrees."""


def pose(centre: tuple[float, float], motion: ObjectMotion, camera: Camera, u: float, width: int, height: int) -> Pose:
    """The pose at time u of an object at ``centre`` in frame 0, without its hop."""
    zoom, ox, oy = camera.at(u)
    wave = math.sin(2 * math.pi * motion.turns * u)
    x = centre[0] + motion.drift[0] * u - width / 2 - ox
    y = centre[1] + motion.drift[1] * u + motion.bob * wave - height / 2 - oy
    scale = zoom * (1 + (motion.growth - 1) * u)
    return x * zoom + width / 2, y * zoom + height / 2, scale, motion.sway * wave


def sample_camera(rng: np.random.Generator, width: int, height: int, still: float) -> Camera:
    """A camera that stands still with probability ``still``, else pans, zooms or does both."""
    if rng.random() < still:
        return Camera()
    zoom = float(rng.uniform(1.0, 1.14)) if rng.random() < 0.5 else 1.0
    reach = 0.11 if rng.random() < 0.8 else 0.0
    pan = (float(rng.uniform(-reach, reach)) * width, float(rng.uniform(-reach, reach) * 0.6) * height)
    return Camera(pan, zoom)


def sample_motion(rng: np.random.Generator, x: float, width: int, height: int, airborne: bool) -> ObjectMotion:
    """A random motion for an object ``x`` pixels from the left: it stands, walks, hops, sways, flies, comes or
    leaves."""
    kind = rng.random()
    if kind < 0.4:
        return ObjectMotion()
    turns = float(rng.uniform(0.6, 1.4))
    across = float(rng.uniform(0.05, 0.2)) * width * (1 if rng.random() < 0.5 else -1)
    if kind < 0.48:  # out of the frame through the nearer side
        return ObjectMotion(drift=((0.45 if x > width / 2 else -0.45) * width, 0.0))
    if airborne:
        bob = float(rng.uniform(0.03, 0.08)) * height
        return ObjectMotion(drift=(across, float(rng.uniform(-0.08, 0.08)) * height), bob=bob, turns=turns)
    if kind < 0.66:
        return ObjectMotion(drift=(across, 0.0))
    if kind < 0.78:
        return ObjectMotion(drift=(across * 0.6, 0.0), hop=float(rng.uniform(0.06, 0.14)) * height, turns=2 * turns)
    if kind < 0.9:
        return ObjectMotion(
            drift=(across * 0.4, 0.0), sway=float(rng.uniform(4, 11)) * (1 if across > 0 else -1), turns=turns
        )
    return ObjectMotion(drift=(across * 0.5, 0.05 * height), growth=float(rng.uniform(1.12, 1.3)))
