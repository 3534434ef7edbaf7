"""The contents of a clip before it is drawn: background, camera and objects; and how a random scene is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sama.shapes import Bucket
from training.synth.edits.tasks import COLOURS, DEFAULT_PLACE, POSITIONS, SIZES, object_side
from training.synth.edits.texts import subtitle
from training.synth.material.pack import Pack, Split, Sprite
from training.synth.scenes.backdrop import Backdrop, choice, sample_backdrop
from training.synth.scenes.backgrounds import PLAIN
from training.synth.scenes.foreground import Foreground, sample_foreground
from training.synth.scenes.light import Light, light_of
from training.synth.scenes.motion import ObjectMotion, sample_motion
from training.synth.words.kinds import familiarity, flies
from training.synth.words.telling import plain_colour, telling_words

CANONICAL_STYLE = "fluent"
"""The style of the one drawing per name that "add" and "replace" ask for."""

CLIP_UNIT = 16
"""Frames in which a camera path or a motion runs its course; longer clips run it over their own length."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class SceneObject:
    """An object: its sprite, its place in frame 0 (centre and longest side in pixels) and its motion."""

    sprite: Sprite
    centre: tuple[float, float]
    side: float
    motion: ObjectMotion = field(default_factory=ObjectMotion)
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
    def airborne(self) -> bool:
        """Whether it is a flying thing."""
        return flies(self.sprite.name)

    @property
    def canonical(self) -> bool:
        """Whether "add a <name>" determines every pixel: the canonical sprite, not mirrored, animated or tinted."""
        return is_canonical(self.sprite) and not (self.flip or self.animated or self.tint)

    @property
    def foot(self) -> float:
        """Distance of its lowest point from the top in frame 0, in pixels."""
        return self.box()[3]

    def box(self) -> Box:
        """Its box in frame 0, from the drawing's aspect ratio."""
        half_w, half_h = _halves(self.sprite, self.side)
        x, y = self.centre
        return x - half_w, y - half_h, x + half_w, y + half_h

    def grounded(self, light: Light, height: int) -> bool:
        """Whether it stands on the ground: not far above the horizon, and not a flying thing."""
        highest = max(0.5, light.horizon - 0.12)
        return light.surface == "ground" and not self.airborne and self.foot > highest * height


@dataclass(frozen=True)
class Scene:
    """A clip to be drawn. ``objects`` are in drawing order, the last one in front."""

    width: int
    height: int
    frames: int
    backdrop: Backdrop
    light: Light
    objects: tuple[SceneObject, ...]
    focus: int  # the object that the edits are about; -1 where nothing is drawn
    foreground: Foreground | None = None
    text: str = ""

    def time(self, index: int) -> float:
        """Time u in [0, 1] of frame ``index``."""
        return index / max(self.frames - 1, CLIP_UNIT)


def _halves(sprite: Sprite, side: float) -> tuple[float, float]:
    """Half the width and half the height of a drawing whose longest side is ``side``."""
    h, w = sprite.frames[0].shape[:2]
    return 0.5 * side * w / max(h, w), 0.5 * side * h / max(h, w)


def is_canonical(sprite: Sprite) -> bool:
    """Whether this is the one drawing of its name that "add" and "replace" ask for."""
    return sprite.target and sprite.style == CANONICAL_STYLE


def depth_order(objects: Sequence[SceneObject], numbers: Sequence[int]) -> tuple[int, ...]:
    """Object numbers from the farthest to the nearest: the lower its foot, the nearer an object is."""
    return tuple(sorted(numbers, key=lambda number: (objects[number].foot, number)))


def placed(sprite: Sprite, position: str, size: str, width: int, height: int, play: tuple[float, float]) -> SceneObject:
    """A new object at a named place ("" = the default one), in the named size, inside the frame."""
    fx, fy = POSITIONS[position] if position else DEFAULT_PLACE
    side = object_side(size, width, height, fy)
    thing = SceneObject(sprite, (fx * width + play[0], fy * height + play[1]), side, position=position, size=size)
    return inside(thing, width, height)


def placed_beside(
    sprite: Sprite, anchor: SceneObject, word: str, size: str, width: int, height: int
) -> SceneObject | None:
    """A new object next to another one, on its "left" or "right": feet on one line, a small gap between them.

    None where the frame has no room for it.
    """
    side = object_side(size, width, height, anchor.centre[1] / height)
    half_w, half_h = _halves(sprite, side)
    left, _, right, bottom = anchor.box()
    gap = 0.03 * width
    x = left - gap - half_w if word == "left" else right + gap + half_w
    y = anchor.centre[1] if flies(sprite.name) or anchor.airborne else bottom - half_h
    thing = SceneObject(sprite, (x, y), side, size=size)
    return thing if fits(thing, width, height) else None


def successor(sprite: Sprite, old: SceneObject) -> SceneObject:
    """A new object of ``sprite`` with the place, longest side and motion of ``old``; feet stay on the ground."""
    x, y = old.centre
    if not (flies(sprite.name) or old.airborne):
        y = old.foot - _halves(sprite, old.side)[1]
    return SceneObject(sprite, (x, y), old.side, motion=old.motion)


def resized(thing: SceneObject, factor: float) -> SceneObject:
    """The object larger or smaller where it stands, or around its middle if it flies."""
    x, y = thing.centre
    if not thing.airborne:
        y += (1 - factor) * (thing.foot - y)
    return replace(thing, centre=(x, y), side=factor * thing.side, position=None)


def moved(thing: SceneObject, position: str, width: int, height: int) -> SceneObject:
    """The object at a named place: a side or the "center" keeps its height, "top" and "bottom" its distance from the
    sides, so that what stands on the ground stays there."""
    fx, fy = POSITIONS[position]
    x = thing.centre[0] if position in ("top", "bottom") else fx * width
    y = thing.centre[1] if position in ("left", "right", "center") else fy * height
    return inside(replace(thing, centre=(x, y), position=None), width, height)


def fits(thing: SceneObject, width: int, height: int, margin: float = 2.0) -> bool:
    """Whether the whole object is in frame 0."""
    left, top, right, bottom = thing.box()
    return left >= margin and top >= margin and right <= width - margin and bottom <= height - margin


def inside(thing: SceneObject, width: int, height: int, margin: float = 3.0) -> SceneObject:
    """The object, shifted so that it lies in the frame."""
    half_w, half_h = _halves(thing.sprite, thing.side)
    x = min(max(thing.centre[0], half_w + margin), width - half_w - margin)
    y = min(max(thing.centre[1], half_h + margin), height - half_h - margin)
    return replace(thing, centre=(x, y))


def overlap(a: SceneObject, b: SceneObject) -> float:
    """Shared area of the two boxes, as a fraction of the smaller box."""
    al, at, ar, ab = a.box()
    bl, bt, br, bb = b.box()
    shared = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    return shared / max(1.0, min((ar - al) * (ab - at), (br - bl) * (bb - bt)))


def clashes(name: str, names: Sequence[str]) -> bool:
    """Whether two names in one scene could be taken for each other ("cat", "cat face")."""
    words = set(name.lower().split())
    return any(words & set(other.lower().split()) for other in names)


def jitter(rng: np.random.Generator, width: int) -> tuple[float, float]:
    """A small random displacement in pixels."""
    return float(rng.uniform(-0.01, 0.01)) * width, float(rng.uniform(-0.01, 0.01)) * width


def by_familiarity(sprites: Sequence[Sprite]) -> np.ndarray:
    """How likely each of the drawings is asked for: probabilities that sum to 1."""
    weights = np.array([familiarity(sprite.name) for sprite in sprites])
    return weights / weights.sum()


def sample_scene(pack: Pack, rng: np.random.Generator, bucket: Bucket, frames: int, split: Split) -> Scene:
    """A random scene. In the test split every picture and every drawing is one that training never shows."""
    width, height = bucket
    backdrop = sample_backdrop(pack, rng, bucket, frames, split)
    light = light_of(backdrop.view(width, height), backdrop.words)
    things = _Cast(pack, rng, backdrop, light, bucket, split).sample()
    order = depth_order(things, range(len(things)))
    focus = order.index(0) if things else -1
    outdoors = light.surface == "ground" and backdrop.name not in PLAIN
    near = outdoors and rng.random() < 0.2
    foreground = sample_foreground(rng, light, width, height) if near else None
    text = subtitle(rng, width, split) if rng.random() < 0.08 else ""
    objects = tuple(things[number] for number in order)
    return Scene(width, height, frames, backdrop, light, objects, focus, foreground, text)


class _Cast:
    """Samples the objects of a scene; the first one is the focus of its edits."""

    def __init__(
        self, pack: Pack, rng: np.random.Generator, backdrop: Backdrop, light: Light, bucket: Bucket, split: Split
    ) -> None:
        self.rng, self.light = rng, light
        self.width, self.height = bucket
        self.empty_share = 0.0 if backdrop.name else 0.1
        everything = pack.sprites(split)
        seen = backdrop.seen
        unmistakable = [sprite for sprite in everything if seen.isdisjoint(sprite.name.split())]
        self.everything = unmistakable or everything
        self.favourites = [sprite for sprite in self.everything if is_canonical(sprite)] or self.everything
        self.chances = by_familiarity(self.favourites)

    def sample(self) -> list[SceneObject]:
        """Zero to four objects; often two or three of one name, which can be told apart."""
        rng = self.rng
        if rng.random() < self.empty_share:
            return []
        count = 1 + int(rng.choice(4, p=(0.26, 0.38, 0.26, 0.10)))
        alike = count > 1 and rng.random() < 0.5
        limit = 0.2 if rng.random() < 0.7 else 0.45  # in some scenes one thing stands in front of another
        things: list[SceneObject] = []
        for index in range(count):
            for _ in range(24):
                thing = self._twin(things[0], limit) if alike and index == 1 else self._other(things, index)
                if thing is None or any(overlap(thing, other) > limit for other in things):
                    continue
                things.append(thing)
                break
        if alike and len(things) > 2 and rng.random() < 0.4:
            return self._row(things[0]) or things
        return things

    def _other(self, things: list[SceneObject], index: int) -> SceneObject | None:
        rng = self.rng
        if rng.random() < 0.5:
            sprite = self.favourites[int(rng.choice(len(self.favourites), p=self.chances))]
        else:
            sprite = choice(rng, self.everything)
        if clashes(sprite.name, [thing.name for thing in things]):
            return None
        if index == 0 and is_canonical(sprite) and rng.random() < 0.5:
            position, size = choice(rng, likely_places(sprite)), choice(rng, tuple(SIZES))
            return placed(sprite, position, size, self.width, self.height, jitter(rng, self.width))
        return self._free(sprite)

    def _free(self, sprite: Sprite) -> SceneObject:
        """An object at a random place; on the ground, lower objects are larger."""
        rng = self.rng
        side = float(rng.uniform(0.34, 0.62)) * min(self.height, 0.75 * self.width)
        x = float(rng.uniform(0.12, 0.88)) * self.width
        if flies(sprite.name):
            y = float(rng.uniform(0.16, 0.6)) * self.height
        elif self.light.surface == "ground":
            foot = float(rng.uniform(min(0.9, max(0.6, self.light.horizon + 0.03)), 0.99))
            side *= 0.55 + 0.6 * foot
            y = foot * self.height - _halves(sprite, side)[1]
        else:
            y = float(rng.uniform(0.2, 0.84)) * self.height
        thing = SceneObject(
            sprite,
            (x, y),
            side,
            motion=sample_motion(rng, x, self.width, self.height, flies(sprite.name)),
            flip=bool(rng.random() < (0.15 if is_canonical(sprite) else 0.5)),
            phase=int(rng.integers(len(sprite.frames))),
            animated=len(sprite.frames) > 1,
        )
        return inside(thing, self.width, self.height, margin=-0.12 * side)

    def _twin(self, first: SceneObject, limit: float) -> SceneObject | None:
        """Another object of the first one's name, sometimes in another colour; None where the two could not be told
        apart."""
        rng = self.rng
        same = [s for s in self.everything if s.name == first.name and s.id != first.sprite.id]
        sprite = choice(rng, same) if same and rng.random() < 0.4 else first.sprite
        thing = self._free(sprite)
        if overlap(thing, first) > limit:
            return None
        own = plain_colour(first)
        if own and rng.random() < 0.6:
            other = [colour for colour in COLOURS if colour != own and colour not in first.name.split()]
            thing = replace(thing, tint=choice(rng, other))
        return thing if telling_words(thing, first, self.width, self.height) else None

    def _row(self, first: SceneObject) -> list[SceneObject]:
        """Three objects of the first one's sprite beside each other, in random order."""
        rng, width = self.rng, self.width
        side = min(first.side, 0.27 * width)
        xs = (np.array((0.18, 0.5, 0.82)) + rng.uniform(-0.03, 0.03, 3)) * width
        feet = first.foot + rng.uniform(-0.04, 0.04, 3) * self.height
        row = []
        for x, foot in zip(xs.tolist(), feet.tolist(), strict=True):
            centre = (x, foot - _halves(first.sprite, side)[1])
            thing = replace(first, centre=centre, side=side, position=None, motion=ObjectMotion())
            row.append(inside(thing, width, self.height))
        return [row[int(i)] for i in rng.permutation(3)]


def likely_places(sprite: Sprite) -> tuple[str, ...]:
    """Named places for a new object, likely ones repeated: things that fly are high, others low."""
    ground = ("", "left", "right", "center", "bottom left", "bottom right", "bottom")
    sky = ("top left", "top", "top right")
    if flies(sprite.name):
        return ("", "left", "right", "center", *sky, *sky)
    return (*ground, *ground, *ground, *sky)
