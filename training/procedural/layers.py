"""Pixels of one object or one subtitle: tinted, shadowed, moved, and laid over frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.procedural.scene import Camera, SceneObject

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
    low, middle, high = np.percentile(solid, (2, 50, 98)) if solid.size else (0.0, 128.0, 255.0)
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


_FIRM = np.interp(np.arange(256), (12, 232), (0, 255)).astype(np.uint8)
"""Opacity with both ends made certain."""


@dataclass(frozen=True)
class Patch:
    """What one object puts on one frame: premultiplied colour and 255 - opacity, (h, w, 3) uint8, at (x, y)."""

    x: int
    y: int
    paint: np.ndarray
    keep: np.ndarray

    def over(self, frame: np.ndarray) -> None:
        """Blend onto ``frame`` (H, W, 3) uint8, in place."""
        h, w = self.paint.shape[:2]
        view = frame[self.y : self.y + h, self.x : self.x + w]
        cv2.add(cv2.multiply(view, self.keep, scale=1 / 255), self.paint, dst=view)


@dataclass(frozen=True)
class Layer:
    """One object over a clip: a patch per frame (None where it is out of sight) and its silhouette in frame 0."""

    patches: list[Patch | None]
    mask: np.ndarray  # (H, W) bool


def _padded(drawing: np.ndarray, side: float, gain: float, flip: bool) -> np.ndarray:
    """The drawing at its size with a soft contact shadow below, premultiplied, (h, w, 4) uint8."""
    h, w = drawing.shape[:2]
    scale = side / max(h, w)
    size = (max(2, round(w * scale)), max(2, round(h * scale)))
    # Compression leaves almost opaque pixels inside and faint ones around, through which a new background would show.
    alpha = cv2.LUT(np.ascontiguousarray(drawing[..., 3]), _FIRM)
    premultiplied = cv2.multiply(drawing[..., :3], cv2.merge([alpha] * 3), scale=gain / 255)
    picture = np.dstack([premultiplied, alpha])
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if flip:
        picture = picture[:, ::-1]
    pad = max(3, round(0.1 * side))
    picture = cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    shadow = np.zeros(picture.shape[:2], np.uint8)
    foot = (picture.shape[1] // 2, pad + size[1] - max(1, round(0.02 * side)))
    cv2.ellipse(shadow, foot, (max(2, round(0.38 * size[0])), max(1, round(0.055 * side))), 0, 0, 360, 105, -1)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.8, 0.03 * side))
    shadow = cv2.multiply(shadow, 255 - picture[..., 3], scale=1 / 255)
    picture[..., 3] = cv2.add(np.ascontiguousarray(picture[..., 3]), shadow)
    return picture


def _patch(picture: np.ndarray, pose: tuple[float, float, float, float], width: int, height: int) -> Patch | None:
    """The premultiplied picture (h, w, 4) moved to the pose and cut to the frame."""
    x, y, zoom, angle = pose
    h, w = picture.shape[:2]
    turn = math.radians(abs(angle))
    half_w = 0.5 * zoom * (w * math.cos(turn) + h * math.sin(turn)) + 1
    half_h = 0.5 * zoom * (h * math.cos(turn) + w * math.sin(turn)) + 1
    left, top = math.floor(max(0, x - half_w)), math.floor(max(0, y - half_h))
    right, bottom = math.ceil(min(width, x + half_w)), math.ceil(min(height, y + half_h))
    if right <= left or bottom <= top:
        return None
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, zoom)
    matrix[:, 2] += (x - left - w / 2, y - top - h / 2)
    moved = cv2.warpAffine(picture, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    b, g, r, alpha = cv2.split(moved)
    keep = 255 - alpha
    return Patch(left, top, cv2.merge([b, g, r]), cv2.merge([keep, keep, keep]))


def object_layer(
    thing: SceneObject, camera: Camera, times: list[float], width: int, height: int, gain: float = 1.0
) -> Layer:
    """The object over a clip: ``times`` are u in [0, 1] of its frames, ``gain`` is the scene's light (1 = as drawn)."""
    drawings = thing.sprite.frames
    pictures: dict[int, np.ndarray] = {}
    patches: list[Patch | None] = []
    drawn: dict[tuple[int, tuple[float, float, float, float]], Patch | None] = {}
    for index, u in enumerate(times):
        cell = (thing.phase + index) % len(drawings) if thing.animated else thing.phase % len(drawings)
        if cell not in pictures:
            drawing = tinted(drawings[cell], thing.tint) if thing.tint else drawings[cell]
            pictures[cell] = _padded(drawing, thing.side, gain, thing.flip)
        key = (cell, thing.pose(camera, u, width, height))
        if key not in drawn:
            drawn[key] = _patch(pictures[cell], key[1], width, height)
        patches.append(drawn[key])
    return Layer(patches, _silhouette(patches[0], width, height))


def _silhouette(patch: Patch | None, width: int, height: int) -> np.ndarray:
    """Where a patch is more than half opaque (a shadow never is)."""
    mask = np.zeros((height, width), bool)
    if patch is not None:
        h, w = patch.keep.shape[:2]
        mask[patch.y : patch.y + h, patch.x : patch.x + w] = patch.keep[..., 0] < 128
    return mask


GLYPH_ADVANCE = 12
"""Pixels from one letter of a subtitle to the next, in every frame size."""

_FONT_SIZE = 20


def subtitle_patch(text: str, font_of: Callable[[int], ImageFont.FreeTypeFont], width: int, height: int) -> Patch:
    """White letters with a black outline, centred near the bottom; ``font_of(size)`` gives a monospaced bold font."""
    font = font_of(_FONT_SIZE)
    line_height = 26
    left = (width - GLYPH_ADVANCE * len(text)) // 2 - 4
    strip = Image.new("L", (GLYPH_ADVANCE * len(text) + 8, line_height), 0)
    outline = strip.copy()
    pens = ImageDraw.Draw(strip), ImageDraw.Draw(outline)
    for i, letter in enumerate(text):
        where = (4 + GLYPH_ADVANCE * i + GLYPH_ADVANCE / 2, 20)
        pens[0].text(where, letter, font=font, fill=255, anchor="ms")
        pens[1].text(where, letter, font=font, fill=255, anchor="ms", stroke_width=2)
    white, dark = np.asarray(strip), np.asarray(outline)
    keep = 255 - np.maximum(white, dark)
    top = height - line_height - round(0.03 * height)
    return Patch(max(0, left), top, cv2.merge([white] * 3), cv2.merge([keep] * 3))
