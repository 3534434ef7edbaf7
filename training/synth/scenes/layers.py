"""Draws one object over the frames of a clip: tinted, lit, with its shadow, and moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from training.synth.scenes.light import Light
from training.synth.scenes.motion import Camera, Pose, pose
from training.synth.scenes.scene import SceneObject
from training.synth.scenes.tint import tinted

_FIRM = np.interp(np.arange(256), (12, 232), (0, 255)).astype(np.uint8)
"""Opacity with both ends made certain."""

_SOFTNESS = 0.55
"""Standard deviation in pixels of the blur that a lens would give to an edge."""


@dataclass(frozen=True)
class Patch:
    """An object's pixels in one frame: premultiplied colour and 255 - opacity, (h, w, 3) uint8, at (x, y).

    A patch without paint is a shadow.
    """

    x: int
    y: int
    paint: np.ndarray | None
    keep: np.ndarray

    def over(self, frame: np.ndarray) -> None:
        """Blend onto ``frame`` (H, W, 3) uint8, in place."""
        h, w = self.keep.shape[:2]
        view = frame[self.y : self.y + h, self.x : self.x + w]
        if self.paint is None:
            cv2.multiply(view, self.keep, dst=view, scale=1 / 255)
        else:
            cv2.add(cv2.multiply(view, self.keep, scale=1 / 255), self.paint, dst=view)


@dataclass(frozen=True)
class Layer:
    """An object in a clip: for each frame its patch and its shadow's (None where there is none), and its mask in frame
    0, (H, W) bool, without the shadow."""

    patches: list[Patch | None]
    shadows: list[Patch | None]
    mask: np.ndarray


@dataclass(frozen=True)
class _Shadow:
    """A shadow's opacity (h, w) uint8 and the way to its centre from the object's, in pixels at magnification 1."""

    opacity: np.ndarray
    dx: float
    dy: float


def object_layer(
    thing: SceneObject, camera: Camera, times: list[float], width: int, height: int, light: Light
) -> Layer:
    """Draw an object for all frames in the light of its place; ``times`` are u in [0, 1] of the frames."""
    drawings = thing.sprite.frames
    pictures: dict[int, np.ndarray] = {}
    shadow: _Shadow | None = None
    grounded = thing.grounded(light, height)
    patches: list[Patch | None] = []
    shadows: list[Patch | None] = []
    drawn: dict[tuple[int, Pose], Patch | None] = {}
    cast: dict[tuple[float, Pose], Patch | None] = {}
    for index, u in enumerate(times):
        cell = (thing.phase + index) % len(drawings) if thing.animated else thing.phase % len(drawings)
        if cell not in pictures:
            pictures[cell] = _lit(thing, drawings[cell], light, grounded)
            shadow = shadow or _shadow(pictures[cell], thing.side, light, grounded, thing.airborne)
        x, y, scale, angle = pose(thing.centre, thing.motion, camera, u, width, height)
        lift = thing.motion.lift(u) * scale
        key = (cell, (x, y - lift, scale, angle))
        if key not in drawn:
            drawn[key] = _object_patch(pictures[cell], key[1], width, height)
        patches.append(drawn[key])
        if shadow is None:
            shadows.append(None)
            continue
        fade = 1 / (1 + 6 * lift / thing.side)  # what leaves the ground leaves its shadow paler
        place = (fade, (x + shadow.dx * scale, y + shadow.dy * scale, scale, 0.0))
        if place not in cast:
            cast[place] = _shadow_patch(shadow.opacity, place[1], fade, width, height)
        shadows.append(cast[place])
    return Layer(patches, shadows, _silhouette(patches[0], width, height))


def _lit(thing: SceneObject, drawing: np.ndarray, light: Light, grounded: bool) -> np.ndarray:
    """The drawing scaled, lit and premultiplied, with soft edges and a margin, (h, w, 4) uint8."""
    if thing.tint:
        drawing = tinted(drawing, thing.tint)
    h, w = drawing.shape[:2]
    scale = thing.side / max(h, w)
    size = (max(2, round(w * scale)), max(2, round(h * scale)))
    # Compression leaves almost opaque pixels inside and faint ones around, through which a new background would show.
    alpha = cv2.LUT(np.ascontiguousarray(drawing[..., 3]), _FIRM)
    picture = np.dstack([cv2.multiply(drawing[..., :3], cv2.merge([alpha] * 3), scale=1 / 255), alpha])
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if thing.flip:
        picture = cv2.flip(picture, 1)
    picture = cv2.multiply(picture, _shading(light, grounded, size), scale=1 / 128)
    picture = cv2.copyMakeBorder(picture, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    return cv2.GaussianBlur(picture, (3, 3), _SOFTNESS)


def _shading(light: Light, grounded: bool, size: tuple[int, int]) -> np.ndarray:
    """Factors of a drawing's pixels in 1/128, (h, w, 4) uint8: the place's tone, brighter towards the light, darker
    towards the ground. Opacity keeps its value."""
    turn = 0.09 * light.side
    corners = np.ones((2, 2, 4), np.float32)
    low = 0.9 if grounded else 0.96
    for channel, gain in enumerate(light.gain):
        corners[..., channel] = gain * np.array(((1.05 - turn, 1.05 + turn), (low - turn, low + turn)))
    return cv2.resize(np.round(128 * corners).clip(0, 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)


def _shadow(picture: np.ndarray, side: float, light: Light, grounded: bool, airborne: bool) -> _Shadow | None:
    """The shadow of an object on the ground below it or on the wall behind it; None where it has none."""
    if light.surface == "wall" and not airborne:
        return _wall_shadow(picture[..., 3], side, light)
    return _ground_shadow(picture[..., 3], side, light) if grounded else None


def _wall_shadow(alpha: np.ndarray, side: float, light: Light) -> _Shadow:
    """The silhouette, blurred, a little away from the light."""
    pad = max(3, round(0.09 * side))
    opacity = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    opacity = cv2.convertScaleAbs(cv2.GaussianBlur(opacity, (0, 0), 0.04 * side), alpha=0.8 * light.strength)
    return _Shadow(opacity, -0.05 * side * (light.side + (0.4 if light.side >= 0 else -0.4)), 0.06 * side)


def _ground_shadow(alpha: np.ndarray, side: float, light: Light) -> _Shadow:
    """A dark contact area and the silhouette projected on the ground, away from the light."""
    h, w = alpha.shape
    rows = np.flatnonzero(alpha.max(axis=1) > 127)
    foot = int(rows[-1]) if len(rows) else h - 1
    sole = np.flatnonzero(alpha[max(0, foot - max(2, round(0.1 * side))) : foot + 1].max(axis=0) > 127)
    left, right = (int(sole[0]), int(sole[-1])) if len(sole) else (0, w - 1)
    pad = max(4, round(0.16 * side))
    lean, flat = -0.5 * light.side, 0.16  # sideways and up the ground, in heights of what throws it
    reach = round(abs(lean) * foot)
    width, height = w + 2 * (pad + reach), round(flat * foot) + 2 * pad
    base = height - pad
    matrix = np.array(((1, -lean, pad + reach + lean * foot), (0, flat, base - flat * foot)), np.float32)
    opacity = cv2.convertScaleAbs(cv2.warpAffine(alpha, matrix, (width, height)), alpha=0.55 * light.strength)
    middle = (pad + reach + (left + right) // 2, base - max(1, round(0.015 * side)))
    axes = (max(2, round(0.5 * (right - left) + 0.03 * side)), max(1, round(0.05 * side)))
    contact = np.zeros_like(opacity)
    cv2.ellipse(contact, middle, axes, 0, 0, 360, 255 * light.strength, -1)
    opacity = cv2.GaussianBlur(cv2.max(opacity, contact), (0, 0), max(0.8, 0.03 * side))
    return _Shadow(opacity, 0.0, foot - h / 2 + height / 2 - base)


def _warped(picture: np.ndarray, place: Pose, width: int, height: int) -> tuple[int, int, np.ndarray] | None:
    """Left, top and pixels of the picture in its pose, cut to the frame; None if it is outside."""
    x, y, zoom, angle = place
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
    return left, top, cv2.warpAffine(picture, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)


def _object_patch(picture: np.ndarray, place: Pose, width: int, height: int) -> Patch | None:
    """The premultiplied picture (h, w, 4) in its place."""
    found = _warped(picture, place, width, height)
    if found is None:
        return None
    left, top, moved = found
    keep = cv2.bitwise_not(cv2.extractChannel(moved, 3))
    return Patch(left, top, cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB), cv2.merge([keep, keep, keep]))


def _shadow_patch(opacity: np.ndarray, place: Pose, fade: float, width: int, height: int) -> Patch | None:
    found = _warped(opacity, place, width, height)
    if found is None:
        return None
    left, top, moved = found
    keep = cv2.bitwise_not(cv2.convertScaleAbs(moved, alpha=fade) if fade < 1 else moved)
    return Patch(left, top, None, cv2.merge([keep, keep, keep]))


def _silhouette(patch: Patch | None, width: int, height: int) -> np.ndarray:
    """Pixels where a patch is more than half opaque, (height, width) bool."""
    mask = np.zeros((height, width), bool)
    if patch is not None:
        h, w = patch.keep.shape[:2]
        mask[patch.y : patch.y + h, patch.x : patch.x + w] = patch.keep[..., 0] < 128
    return mask
