"""Shapes to draw backgrounds with. Coordinates are fractions of the sides: a picture looks alike at any size."""

from __future__ import annotations

import cv2
import numpy as np

Canvas = np.ndarray
"""(height, width, 3) float32 RGB in [0, 255]; what is drawn is drawn in place."""
Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


def pixel_grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres: x of (1, width) and y of (height, 1), both in [0, 1]."""
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    return x[None, :], y[:, None]


def gradient(width: int, height: int, stops: list[tuple[float, Colour]]) -> Canvas:
    """A vertical gradient through the colours at the given heights (0 top, 1 bottom), float32 (height, width, 3)."""
    _, y = pixel_grid(width, height)
    where = [stop for stop, _ in stops]
    channels = [np.interp(y[:, 0], where, [colour[c] for _, colour in stops]) for c in range(3)]
    column = np.stack(channels, axis=-1).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(column[:, None, :], (height, width, 3)))


def smooth_noise(width: int, height: int, cells: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth fixed noise in [-1, 1] of (height, width): ``cells`` values across and down, interpolated."""
    values = np.random.default_rng(seed).uniform(-1, 1, (cells[1], cells[0])).astype(np.float32)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)


def whole_pixels(width: int, height: int, points: Points) -> np.ndarray:
    """The points as whole pixels, (n, 2) int32."""
    return np.round(np.array(points) * (width, height)).astype(np.int32)


def polygon(canvas: Canvas, points: Points, colour: Colour) -> None:
    """A filled polygon with smooth edges."""
    height, width = canvas.shape[:2]
    cv2.fillPoly(canvas, [whole_pixels(width, height, points)], colour, lineType=cv2.LINE_AA)


def bar(canvas: Canvas, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    """A filled rectangle with smooth edges."""
    polygon(canvas, [(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def disc(canvas: Canvas, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc; the radius is a fraction of the shorter side."""
    height, width = canvas.shape[:2]
    centre = (round(x * width), round(y * height))
    cv2.circle(canvas, centre, max(1, round(radius * min(width, height))), colour, -1, lineType=cv2.LINE_AA)


def glow(canvas: Canvas, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
    """Light around a point; the radius is a fraction of the shorter side."""
    height, width = canvas.shape[:2]
    gx, gy = pixel_grid(width, height)
    unit = min(width, height)
    distance = ((gx - x) * width / unit) ** 2 + ((gy - y) * height / unit) ** 2
    weight = (strength * np.exp(-distance / (2 * radius**2)))[..., None]
    canvas += (np.array(colour, np.float32) - canvas) * weight


def cloud(canvas: Canvas, x: float, y: float, size: float, colour: Colour = (255, 255, 255)) -> None:
    """Five discs around a point; the size is a fraction of the shorter side."""
    for dx, dy, r in ((-1.0, 0.15, 0.5), (-0.4, -0.15, 0.7), (0.3, -0.05, 0.6), (0.9, 0.18, 0.42), (0.0, 0.25, 0.5)):
        height, width = canvas.shape[:2]
        unit = min(width, height) * size
        disc(canvas, x + dx * unit / width, y + dy * unit / height, r * size, colour)


def ridge(canvas: Canvas, base: float, rise: float, peaks: int, seed: int, colour: Colour) -> Points:
    """A jagged mountain range from the left edge to the right one; returns its crest."""
    rng = np.random.default_rng(seed)
    xs = np.linspace(-0.05, 1.05, 2 * peaks + 1)
    ys = np.where(np.arange(len(xs)) % 2, base - rise * rng.uniform(0.65, 1.0, len(xs)), base - 0.2 * rise)
    crest = list(zip(xs.tolist(), ys.tolist(), strict=True))
    polygon(canvas, [(-0.05, 1.0), *crest, (1.05, 1.0)], colour)
    return crest


def hill(canvas: Canvas, level: float, swell: float, phase: float, waves: float, colour: Colour) -> None:
    """The ground below a wave: ``level`` is its mean height, ``swell`` its amplitude."""
    xs = np.linspace(-0.02, 1.02, 48)
    ys = level - swell * np.sin(2 * np.pi * waves * xs + phase)
    polygon(canvas, [(-0.02, 1.02), *zip(xs.tolist(), ys.tolist(), strict=True), (1.02, 1.02)], colour)


def texture(canvas: Canvas, top: float, amount: float, cells: tuple[int, int], seed: int) -> None:
    """Add brightness noise below the height ``top``."""
    height, width = canvas.shape[:2]
    start = int(top * height)
    canvas[start:] += amount * smooth_noise(width, height, cells, seed)[start:, :, None]
