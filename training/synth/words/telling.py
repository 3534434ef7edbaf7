"""Finds words that identify one object among several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from training.synth.edits.tasks import COLOURS
from training.synth.material.pack import Sprite
from training.synth.scenes.tint import colour_distance, tinted
from training.synth.words.kinds import kind_words

if TYPE_CHECKING:
    from training.synth.scenes.scene import SceneObject

DESCRIBED = 30.0
"""Mean colour difference (0-255) below which a drawing counts as being of the colour that its tint would give it."""

_ORDINALS = ("first", "second", "third")
_ANY_THING = ("object", "thing", "one")


class Reference(TypedDict):
    """The fields of an Edit that say which object is meant."""

    object: str
    which: str
    old_colour: str
    kind: str


def telling_words(thing: SceneObject, other: SceneObject, width: int, height: int) -> list[str]:
    """Words that surely tell ``thing`` from ``other`` of its kind; empty if there are none."""
    dx, dy = thing.centre[0] - other.centre[0], thing.centre[1] - other.centre[1]
    words = []
    if abs(dx) > 0.25 * width:
        words.append("left" if dx < 0 else "right")
    if abs(dy) > 0.3 * height:
        words.append("top" if dy < 0 else "bottom")
    if max(thing.side, other.side) > 1.5 * min(thing.side, other.side):
        words.append("small" if thing.side < other.side else "large")
    if thing.name == other.name and thing.tint != other.tint:
        own, its = plain_colour(thing), plain_colour(other)
        if own and its and own != its:
            words.append("colour")
    return words


def plain_colour(thing: SceneObject) -> str:
    """The colour word that describes the whole object well; "" if none does."""
    if thing.tint:
        return thing.tint
    return _own_colour(thing.sprite)


@lru_cache(maxsize=2048)
def _own_colour(sprite: Sprite) -> str:
    word = sprite.colour
    if word not in COLOURS or any(colour in sprite.name.split() for colour in (*COLOURS, "gray", "grey")):
        return ""
    drawing = sample_of(sprite)
    return word if colour_distance(tinted(drawing, word), drawing) < DESCRIBED else ""


def sample_of(sprite: Sprite) -> np.ndarray:
    """Every third pixel of the drawing, for judging its colours."""
    return sprite.frames[0][::3, ::3]


def which_options(
    objects: Sequence[SceneObject], index: int, rivals: Sequence[int], width: int, height: int
) -> list[str]:
    """Words that tell object ``index`` from all ``rivals``; [""] where there are none to tell it from."""
    thing = objects[index]
    if not rivals:
        return [""]
    common = set(telling_words(thing, objects[rivals[0]], width, height))
    for rival in rivals[1:]:
        common &= set(telling_words(thing, objects[rival], width, height))
    words = sorted(common)
    if len(rivals) == 2:
        row = sorted((index, *rivals), key=lambda number: objects[number].centre[0])
        xs = [objects[number].centre[0] for number in row]
        if min(xs[1] - xs[0], xs[2] - xs[1]) > 0.16 * width:
            rank = row.index(index)
            words.append(_ORDINALS[rank])
            if rank == 1:
                words.append("middle")
    return words


def choose_reference(
    objects: Sequence[SceneObject], index: int, rng: np.random.Generator, width: int, height: int
) -> Reference | None:
    """How to say which object is meant: by its name, with one more word if others share it, or by kind and place.

    None where nothing identifies it.
    """
    thing = objects[index]
    others = [number for number in range(len(objects)) if number != index]
    namesakes = [number for number in others if objects[number].name == thing.name]
    options = which_options(objects, index, namesakes, width, height)
    if others and rng.random() < 0.22:
        generic = _generic(objects, index, others, rng, width, height)
        if generic is not None:
            return generic
    if not options:
        return None
    if not namesakes and others and rng.random() < 0.12:  # "the cat on the left", though there is one cat only
        options = [w for w in which_options(objects, index, others, width, height) if w in ("left", "right")] or [""]
    which = options[int(rng.integers(len(options)))]
    colour = plain_colour(thing)
    if which != "colour" and rng.random() < 0.5:
        colour = ""
    return Reference(object=thing.name, which=which, old_colour=colour, kind="")


def _generic(
    objects: Sequence[SceneObject],
    index: int,
    others: Sequence[int],
    rng: np.random.Generator,
    width: int,
    height: int,
) -> Reference | None:
    """A reference that does not name the object: "the animal", "the one on the left"."""
    sprite = objects[index].sprite
    words = kind_words(sprite.name, sprite.category)
    rivals = [number for number in others if objects[number].sprite.category == sprite.category]
    if not words or rng.random() < 0.5:
        words, rivals = _ANY_THING, list(others)
    options = [w for w in which_options(objects, index, rivals, width, height) if w != "colour"]
    if not options:
        return None
    which = options[int(rng.integers(len(options)))]
    kind = words[int(rng.integers(len(words)))]
    return Reference(object=sprite.name, which=which, old_colour="", kind=kind)
