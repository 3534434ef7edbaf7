"""What a clip shows, before any pixel is drawn: a background, a camera path, and objects that stand or move in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import cv2
import numpy as np

from sama.shapes import Bucket
from training.procedural.backgrounds import BACKGROUNDS, PLAIN, background
from training.procedural.edits import DEFAULT_PLACE, POSITIONS, SIZES, object_side, subtitle
from training.procedural.pack import Pack, Split, Sprite

Item = TypeVar("Item")

CANVAS_MARGIN = 1.25
"""Sides of a background's canvas relative to the frame: what the camera may pan over."""

CANONICAL_STYLE = "fluent"
"""The style of the one drawing per name that "add" and "replace" ask for."""

CLIP_UNIT = 16
"""Frames in which a camera path or a motion runs its course; longer clips run it over their own length."""


@dataclass(frozen=True)
class Camera:
    """A slow path that starts at the middle of the canvas without zoom, so that frame 0 always looks the same."""

    pan: tuple[float, float] = (0.0, 0.0)  # pixels of the canvas covered from u = 0 to u = 1
    zoom: float = 1.0  # magnification at u = 1

    @property
    def moves(self) -> bool:
        return self.pan != (0.0, 0.0) or self.zoom != 1.0

    def at(self, u: float) -> tuple[float, float, float]:
        """Magnification and the offset of the view's centre from the canvas's, at time u in [0, 1]."""
        return 1 + (self.zoom - 1) * u, self.pan[0] * u, self.pan[1] * u


@dataclass(frozen=True)
class Motion:
    """An object's own motion on top of the camera's; all zero means that it is locked to the world."""

    drift: tuple[float, float] = (0.0, 0.0)  # pixels from u = 0 to u = 1
    bob: float = 0.0  # pixels up and down
    sway: float = 0.0  # degrees to either side
    turns: float = 1.0  # periods of bob and sway from u = 0 to u = 1


@dataclass(frozen=True)
class SceneObject:
    """One object: which drawing, where in frame 0 (centre and longest side in pixels) and how it moves."""

    sprite: Sprite
    centre: tuple[float, float]
    side: float
    motion: Motion = field(default_factory=Motion)
    flip: bool = False
    phase: int = 0  # first frame of an animated drawing
    animated: bool = False
    tint: str = ""
    position: str | None = None  # the named place where it stands, if an "add" would put it exactly there
    size: str = ""

    @property
    def name(self) -> str:
        return self.sprite.name

    @property
    def canonical(self) -> bool:
        """Whether "add a <name>" determines every pixel of it: the one drawing of its name, upright, as it is."""
        return is_canonical(self.sprite) and not (self.flip or self.animated or self.tint)

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in frame 0, in pixels, from the drawing's aspect ratio."""
        h, w = self.sprite.frames[0].shape[:2]
        half_w, half_h = 0.5 * self.side * w / max(h, w), 0.5 * self.side * h / max(h, w)
        x, y = self.centre
        return x - half_w, y - half_h, x + half_w, y + half_h

    def pose(self, camera: Camera, u: float, width: int, height: int) -> tuple[float, float, float, float]:
        """Centre x, y (pixels), magnification and angle (degrees) at time u."""
        zoom, ox, oy = camera.at(u)
        wave = math.sin(2 * math.pi * self.motion.turns * u)
        x = self.centre[0] + self.motion.drift[0] * u - width / 2 - ox
        y = self.centre[1] + self.motion.drift[1] * u - height / 2 - oy
        return x * zoom + width / 2, y * zoom + height / 2 + self.motion.bob * wave, zoom, self.motion.sway * wave


@dataclass(frozen=True)
class Scene:
    """A clip to be drawn. ``objects`` are in drawing order, the last one in front."""

    width: int
    height: int
    frames: int
    camera: Camera
    background: str  # one of BACKGROUNDS, or "" for recorded pictures
    description: str  # the background in words
    pictures: np.ndarray  # (1 or frames, h, w, 3) uint8 canvases, h and w at least the frame's
    objects: tuple[SceneObject, ...]
    focus: int  # the object that the edits are about
    text: str = ""

    def time(self, index: int) -> float:
        """Time u in [0, 1] of frame ``index``."""
        return index / max(self.frames - 1, CLIP_UNIT)


def is_canonical(sprite: Sprite) -> bool:
    """Whether this is the one drawing of its name that "add" and "replace" ask for."""
    return sprite.target and sprite.style == CANONICAL_STYLE


def canvas_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a canvas that leaves room for the camera, even numbers of pixels more than the frame."""
    return width + 2 * round((CANVAS_MARGIN - 1) / 2 * width), height + 2 * round((CANVAS_MARGIN - 1) / 2 * height)


def placed(sprite: Sprite, position: str, size: str, width: int, height: int, play: tuple[float, float]) -> SceneObject:
    """A new object at a named place ("" = the default one), in the named size, inside the frame."""
    side = object_side(size, width, height)
    fx, fy = POSITIONS[position] if position else DEFAULT_PLACE
    thing = SceneObject(sprite, (fx * width + play[0], fy * height + play[1]), side, position=position, size=size)
    return _inside(thing, width, height)


def _inside(thing: SceneObject, width: int, height: int, margin: float = 3.0) -> SceneObject:
    left, top, right, bottom = thing.box()
    half_w, half_h = (right - left) / 2, (bottom - top) / 2
    x = min(max(thing.centre[0], half_w + margin), width - half_w - margin)
    y = min(max(thing.centre[1], half_h + margin), height - half_h - margin)
    return replace(thing, centre=(x, y))


def overlap(a: SceneObject, b: SceneObject) -> float:
    """Shared area of the two boxes, as a fraction of the smaller box."""
    al, at, ar, ab = a.box()
    bl, bt, br, bb = b.box()
    shared = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    return shared / max(1.0, min((ar - al) * (ab - at), (br - bl) * (bb - bt)))


def telling_words(thing: SceneObject, other: SceneObject, width: int, height: int) -> list[str]:
    """Words that single out ``thing`` from ``other`` of its kind beyond doubt; empty if there are none."""
    dx, dy = thing.centre[0] - other.centre[0], thing.centre[1] - other.centre[1]
    words = []
    if abs(dx) > 0.27 * width:
        words.append("left" if dx < 0 else "right")
    if abs(dy) > 0.3 * height:
        words.append("top" if dy < 0 else "bottom")
    if max(thing.side, other.side) > 1.5 * min(thing.side, other.side):
        words.append("small" if thing.side < other.side else "large")
    return words


def clashes(name: str, names: Sequence[str]) -> bool:
    """Whether two names in one scene could be taken for each other ("cat", "cat face")."""
    words = set(name.lower().split())
    return any(words & set(other.lower().split()) for other in names)


def _choice(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def _camera(rng: np.random.Generator, width: int, height: int, still: float) -> Camera:
    if rng.random() < still:
        return Camera()
    zoom = float(rng.uniform(1.0, 1.14)) if rng.random() < 0.5 else 1.0
    reach = 0.11 if rng.random() < 0.8 else 0.0
    pan = (float(rng.uniform(-reach, reach)) * width, float(rng.uniform(-reach, reach) * 0.6) * height)
    return Camera(pan, zoom)


def _crop(rng: np.random.Generator, pictures: np.ndarray, width: int, height: int, zoom: float) -> np.ndarray:
    """A random window of the pictures in the aspect of ``width`` x ``height``, at least ``zoom`` of their size."""
    h, w = pictures.shape[1:3]
    scale = min(w / width, h / height) * float(rng.uniform(zoom, 1.0))
    cw, ch = min(w, round(width * scale)), min(h, round(height * scale))
    x, y = int(rng.integers(w - cw + 1)), int(rng.integers(h - ch + 1))
    return pictures[:, y : y + ch, x : x + cw]


def _backdrop(
    pack: Pack, rng: np.random.Generator, bucket: Bucket, frames: int, split: Split
) -> tuple[str, str, np.ndarray, Camera]:
    """Name ("" if recorded), words, canvases and camera of a background."""
    width, height = bucket
    canvas = canvas_size(width, height)
    kind = rng.random()
    shots = pack.shots(split, min_frames=frames) if kind < 0.43 else []
    if shots:
        camera = _camera(rng, width, height, still=0.75)
        shot = _choice(rng, shots)
        clip = pack.film(shot, int(rng.integers(len(shot) - frames + 1)), frames)
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        size = canvas if camera.moves else (width, height)
        return "", shot.caption, resized(_crop(rng, clip, *size, zoom=0.8), *size), camera
    stills = pack.stills(split) if kind < 0.64 else []
    if stills:
        camera = _camera(rng, width, height, still=0.2)
        still = _choice(rng, stills)
        picture = still.image[None] if rng.random() < 0.5 else still.image[None, :, ::-1]
        return "", still.caption, resized(_crop(rng, picture, *canvas, zoom=0.6), *canvas), camera
    plain = rng.random() < 0.2
    names = [name for name in BACKGROUNDS if (name in PLAIN) == plain]
    name = _choice(rng, names)
    return name, name, background(name, *canvas)[None], _camera(rng, width, height, still=0.35)


def resized(pictures: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pictures (n, h, w, 3) at the given size."""
    way = cv2.INTER_AREA if pictures.shape[2] > width else cv2.INTER_LINEAR
    return np.stack([cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=way) for p in pictures])


def _motion(rng: np.random.Generator, width: int, height: int) -> Motion:
    kind = rng.random()
    if kind < 0.4:
        return Motion()
    drift = (float(rng.uniform(-0.2, 0.2)) * width, float(rng.uniform(-0.08, 0.08)) * height)
    bob, sway = float(rng.uniform(0.02, 0.05)) * height, float(rng.uniform(4, 11)) * (1 if rng.random() < 0.5 else -1)
    turns = float(rng.uniform(0.6, 1.4))
    if kind < 0.65:
        return Motion(drift=drift)
    if kind < 0.82:
        return Motion(drift=(drift[0] * 0.4, 0.0), bob=bob, turns=turns)
    return Motion(drift=(drift[0] * 0.4, 0.0), sway=sway, turns=turns)


def _free_object(rng: np.random.Generator, sprite: Sprite, width: int, height: int) -> SceneObject:
    side = float(rng.uniform(0.3, 0.64)) * object_side("", width, height) / SIZES[""]
    centre = (float(rng.uniform(0.14, 0.86)) * width, float(rng.uniform(0.2, 0.84)) * height)
    animated = len(sprite.frames) > 1
    thing = SceneObject(
        sprite,
        centre,
        side,
        motion=_motion(rng, width, height),
        flip=bool(rng.random() < (0.15 if is_canonical(sprite) else 0.5)),
        phase=int(rng.integers(len(sprite.frames))),
        animated=animated,
    )
    return _inside(thing, width, height, margin=-0.1 * side)


def sample_scene(pack: Pack, rng: np.random.Generator, bucket: Bucket, frames: int, split: Split) -> Scene:
    """A random scene. In the test split every picture and every drawing is one that training never shows."""
    width, height = bucket
    name, words, pictures, camera = _backdrop(pack, rng, bucket, frames, split)
    everything = pack.sprites(split)
    favourites = [sprite for sprite in everything if is_canonical(sprite)] or everything
    count = 1 + int(rng.choice(4, p=(0.28, 0.36, 0.26, 0.10)))
    twin = count > 1 and rng.random() < 0.45
    things: list[SceneObject] = []
    for index in range(count):
        for _ in range(24):
            sprite = _choice(rng, favourites if rng.random() < 0.4 else everything)
            if index == 1 and twin:
                sprite = _twin(rng, things[0].sprite, everything)
            elif clashes(sprite.name, [thing.name for thing in things]):
                continue
            if index == 0 and is_canonical(sprite) and rng.random() < 0.55:
                position, size = _choice(rng, ("", *POSITIONS)), _choice(rng, tuple(SIZES))
                thing = placed(sprite, position, size, width, height, jitter(rng, width))
            else:
                thing = _free_object(rng, sprite, width, height)
            crowded = any(overlap(thing, other) > 0.2 for other in things)
            blurred = index == 1 and twin and not telling_words(thing, things[0], width, height)
            if not crowded and not blurred:
                things.append(thing)
                break
    focus = 0
    front = things.pop(0)
    if rng.random() < 0.6 or front.position is not None:
        focus = len(things)
        things.append(front)
    else:
        things.insert(0, front)
    text = subtitle(rng, width, split) if rng.random() < 0.08 else ""
    return Scene(width, height, frames, camera, name, words, pictures, tuple(things), focus, text)


def jitter(rng: np.random.Generator, width: int) -> tuple[float, float]:
    """A small displacement in pixels: the play that a named place leaves."""
    return float(rng.uniform(-0.01, 0.01)) * width, float(rng.uniform(-0.01, 0.01)) * width


def _twin(rng: np.random.Generator, sprite: Sprite, pool: Sequence[Sprite]) -> Sprite:
    """Another drawing of the same name if there is one, else the same drawing."""
    same = [other for other in pool if other.name == sprite.name and other.id != sprite.id]
    return _choice(rng, same) if same and rng.random() < 0.5 else sprite
