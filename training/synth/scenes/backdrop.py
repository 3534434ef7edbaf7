"""Samples the background of a clip (a film shot, a photograph or a drawn place) and its camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from sama.shapes import Bucket
from training.synth.material.pack import Pack, Split
from training.synth.scenes.backgrounds import BACKGROUNDS, PLAIN, background
from training.synth.scenes.motion import Camera, sample_camera

Item = TypeVar("Item")

CANVAS_MARGIN = 1.25
"""Sides of a background's canvas relative to the frame: what the camera may pan over."""

_SEEN: dict[str, str] = {
    "beach": "sun cloud wave sand",
    "green meadow": "cloud flower flowers grass",
    "starry night sky": "star moon stars",
    "snowy mountains": "mountain snow",
    "desert": "sun sand",
    "city skyline at night": "building house houses hotel tower",
    "sunset over the sea": "sun wave",
    "brick wall": "brick bricks",
    "wooden room": "window",
    "outer space": "planet star glowing",
    "forest": "tree pine",
    "underwater": "seaweed",
    "autumn park": "tree leaf leaves",
    "road": "mountain",
    "volcano": "volcano cloud mountain",
}
_SMALL_WORDS = "a an the of in on at and with by red green blue white brown gray purple pink orange"
_NO_THINGS = frozenset(_SMALL_WORDS.split())
_SEEN_RECORDED = "tree flower leaves leaf cloud green grass rabbit squirrel bird butterfly apple rock mushroom"


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A background and a camera.

    Attributes:
        name: one of BACKGROUNDS, or "" for recorded pictures.
        words: the background's name or the caption.
        pictures: (1 or frames, h, w, 3) uint8 canvases, h and w at least the frame's.
        camera: how they are looked at.
    """

    name: str
    words: str
    pictures: np.ndarray
    camera: Camera

    @property
    def seen(self) -> frozenset[str]:
        """Names of things that the background itself shows; no object of such a name is added."""
        own = _SEEN.get(self.name, "") if self.name else _SEEN_RECORDED
        return frozenset((*own.split(), *self.words.lower().split())) - _NO_THINGS

    def view(self, width: int, height: int) -> np.ndarray:
        """The picture that the camera sees in frame 0, (height, width, 3) uint8."""
        return middle(self.pictures[0], width, height)


def canvas_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a canvas with room for camera motion: the frame's plus an even number of pixels."""
    return width + 2 * round((CANVAS_MARGIN - 1) / 2 * width), height + 2 * round((CANVAS_MARGIN - 1) / 2 * height)


def middle(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The central view of a canvas, of the given size."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def choice(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of the items, with equal probability."""
    return items[int(rng.integers(len(items)))]


def sample_backdrop(pack: Pack, rng: np.random.Generator, bucket: Bucket, frames: int, split: Split) -> Backdrop:
    """A random background of a split, with random crop, mirroring and camera."""
    width, height = bucket
    canvas = canvas_size(width, height)
    kind = rng.random()
    if kind < 0.46 and (shots := pack.shots(split, min_frames=frames)):
        camera = sample_camera(rng, width, height, still=0.7)
        weights = np.sqrt([len(shot) for shot in shots])  # long shots hold more pictures
        shot = shots[int(rng.choice(len(shots), p=weights / weights.sum()))]
        step = 2 if len(shot) >= 2 * frames and rng.random() < 0.25 else 1
        clip = pack.film(shot, int(rng.integers(len(shot) - step * (frames - 1))), frames, step)
        size = canvas if camera.moves else (width, height)
        return Backdrop("", shot.caption, _framed(rng, clip, *size, closest=0.66), camera)
    if kind < 0.64 and (stills := pack.stills(split)):
        camera = sample_camera(rng, width, height, still=0.2)
        still = choice(rng, stills)
        return Backdrop("", still.caption, _framed(rng, still.image[None], *canvas, closest=0.55), camera)
    plain = rng.random() < 0.2
    name = choice(rng, [name for name in BACKGROUNDS if (name in PLAIN) == plain])
    return Backdrop(name, name, background(name, *canvas)[None], sample_camera(rng, width, height, still=0.35))


def _framed(rng: np.random.Generator, pictures: np.ndarray, width: int, height: int, closest: float) -> np.ndarray:
    """A random window of the pictures (n, h, w, 3) at ``width`` x ``height``: the largest that fits, or down to
    ``closest`` times that, mirrored in half of the cases."""
    h, w = pictures.shape[1:3]
    scale = min(w / width, h / height) * float(rng.uniform(closest, 1.0))
    cw, ch = min(w, round(width * scale)), min(h, round(height * scale))
    x, y = int(rng.integers(w - cw + 1)), int(rng.integers(h - ch + 1))
    mirrored = rng.random() < 0.5
    way = cv2.INTER_AREA if cw > width else cv2.INTER_LINEAR
    out = np.empty((len(pictures), height, width, 3), np.uint8)
    for picture, target in zip(pictures, out, strict=True):
        cv2.resize(picture[y : y + ch, x : x + cw], (width, height), dst=target, interpolation=way)
        if mirrored:
            cv2.flip(target, 1, dst=target)
    return out
