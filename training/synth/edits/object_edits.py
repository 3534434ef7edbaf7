"""Chooses the edits of single objects in a scene: add, remove, replace, recolour, move, resize."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np

from training.synth.edits.tasks import COLOURS, POSITIONS, RESIZE_FACTOR, SIZES, Edit
from training.synth.edits.variants import SceneEdits, SceneVariant
from training.synth.material.pack import Pack, Sprite
from training.synth.scenes.scene import (
    CANONICAL_STYLE,
    SceneObject,
    by_familiarity,
    clashes,
    fits,
    jitter,
    likely_places,
    moved,
    overlap,
    placed,
    placed_beside,
    resized,
    successor,
)
from training.synth.scenes.tint import colour_distance, tinted
from training.synth.words.telling import Reference, choose_reference, plain_colour, sample_of

VISIBLE = 34.0
"""Mean colour difference (0-255) above which a recoloured drawing is plainly another one."""

_HIDDEN = 0.25
"""Most of a new or moved object's box, or of another's, that may be shared with another object."""


def new_sprites(pack: Pack, edits: SceneEdits) -> list[Sprite]:
    """Sprites that may be added: the canonical one of each name that the scene does not show yet."""
    taken = [thing.name for thing in edits.scene.objects]
    seen = edits.scene.backdrop.seen
    return [
        sprite
        for sprite in pack.sprites("train", target=True, style=CANONICAL_STYLE)
        if not clashes(sprite.name, taken) and seen.isdisjoint(sprite.name.split())
    ]


def refer(edits: SceneEdits, variant: SceneVariant, number: int, rng: np.random.Generator) -> Reference | None:
    """How an instruction identifies an object of a variant; None where nothing identifies it."""
    index = variant.objects.index(number)
    return choose_reference(edits.things(variant), index, rng, edits.scene.width, edits.scene.height)


def mention(edits: SceneEdits, variant: SceneVariant, rng: np.random.Generator) -> str:
    """Words for the background in one of ten cases, else "": for instructions that may name the place."""
    return (variant.background or edits.scene.backdrop.words) if rng.random() < 0.1 else ""


def choose_objects(edits: SceneEdits, pack: Pack, rng: np.random.Generator, chance: float) -> None:
    """Add, remove and replace edits. ``chance``: probability of the optional ones."""
    base, focus = edits.base, edits.scene.focus
    sprites = new_sprites(pack, edits)
    drawn = []
    if sprites:
        number = min(4, len(sprites))
        drawn = [sprites[int(i)] for i in rng.choice(len(sprites), number, replace=False, p=by_familiarity(sprites))]
    if focus >= 0:
        _choose_removal(edits, focus, rng)
        if len(base.objects) > 1 and rng.random() < 0.5 * chance:
            _choose_removal(edits, int(rng.choice([i for i in base.objects if i != focus])), rng)
    if drawn:
        _choose_addition(edits, drawn[0], rng)
        if focus >= 0:
            _choose_replacement(edits, drawn[-1], drawn[1] if len(drawn) > 2 and rng.random() < chance else None, rng)
        if len(drawn) > 3 and rng.random() < chance:
            _choose_addition(edits, drawn[2], rng)


def _choose_removal(edits: SceneEdits, number: int, rng: np.random.Generator) -> None:
    base, thing = edits.base, edits.objects[number]
    which = refer(edits, base, number, rng)
    without = edits.without(base, number)
    if which is not None:
        edits.link(base, without, Edit("remove", **which, scene=mention(edits, base, rng)))
    if thing.canonical and thing.position is not None:
        edits.link(without, base, Edit("add", new_object=thing.name, position=thing.position, size=thing.size))


def _choose_addition(edits: SceneEdits, sprite: Sprite, rng: np.random.Generator) -> None:
    base = edits.base
    thing, edit = _newcomer(edits, sprite, rng)
    new = edits.add_object(thing)
    more = edits.with_objects(base, (*base.objects, new))
    edits.link(base, more, replace(edit, scene=mention(edits, base, rng)))
    which = refer(edits, more, new, rng)
    if which is not None:
        edits.link(more, base, Edit("remove", **which))


def _newcomer(edits: SceneEdits, sprite: Sprite, rng: np.random.Generator) -> tuple[SceneObject, Edit]:
    """A new object and the edit that asks for it: at a place, beside another object, or at the default place.

    Places are tried until it overlaps little with other objects; else the best one is used.
    """
    scene, objects = edits.scene, edits.things(edits.base)
    size = str(rng.choice(tuple(SIZES), p=(0.22, 0.53, 0.25)))
    if objects and rng.random() < 0.45:
        anchor = objects[int(rng.integers(len(objects)))]
        single = sum(other.name == anchor.name for other in objects) == 1
        for word in rng.permutation(("left", "right")) if single else ():
            thing = placed_beside(sprite, anchor, str(word), size, scene.width, scene.height)
            if thing is not None and _hidden(thing, objects) < _HIDDEN:
                return thing, Edit("add", new_object=sprite.name, size=size, beside=str(word), near=anchor.name)
    play = jitter(rng, scene.width)
    places = [""] if rng.random() < 0.25 else [str(p) for p in rng.permutation(likely_places(sprite))]
    options = [placed(sprite, place, size, scene.width, scene.height, play) for place in places]
    thing = next((t for t in options if _hidden(t, objects) < _HIDDEN), None) or min(
        options, key=lambda t: _hidden(t, objects)
    )
    return thing, Edit("add", new_object=sprite.name, position=thing.position or "", size=size)


def _hidden(thing: SceneObject, others: list[SceneObject]) -> float:
    return max((overlap(thing, other) for other in others), default=0.0)


def _choose_replacement(edits: SceneEdits, sprite: Sprite, again: Sprite | None, rng: np.random.Generator) -> None:
    """Replace the focus by ``sprite``, and that one by ``again`` if given."""
    base, focus = edits.base, edits.scene.focus
    old = edits.objects[focus]
    heir = edits.add_object(successor(sprite, old))
    swapped = edits.exchanged(base, focus, heir)
    which, its = refer(edits, base, focus, rng), refer(edits, swapped, heir, rng)
    if which is not None:
        edit = Edit("replace", **which, new_object=sprite.name, scene=mention(edits, base, rng))
        edits.link(base, swapped, edit)
    if its is None or swapped not in edits.variants:
        return
    if old.canonical:
        edits.link(swapped, base, Edit("replace", **its, new_object=old.name))
    edits.link(swapped, edits.without(base, focus), Edit("remove", **its))
    if again is not None:
        third = edits.exchanged(swapped, heir, edits.add_object(successor(again, edits.objects[heir])))
        edits.link(swapped, third, Edit("replace", **its, new_object=again.name))


def choose_recolour(edits: SceneEdits, rng: np.random.Generator) -> None:
    """Recolour one object, preferably one whose own colour has a name."""
    base = edits.base
    if not base.objects:
        return
    plain = [number for number in base.objects if plain_colour(edits.objects[number])]
    number = plain[int(rng.integers(len(plain)))] if plain and rng.random() < 0.8 else edits.scene.focus
    thing = edits.objects[number]
    drawing = sample_of(thing.sprite)
    own = plain_colour(thing)
    rivals = [plain_colour(other) for other in edits.things(base) if other is not thing and other.name == thing.name]
    order = [str(c) for c in rng.permutation(COLOURS) if c not in (own, *rivals) and c not in thing.name.split()]
    shown = tinted(drawing, thing.tint) if thing.tint else drawing
    colours = list(islice((c for c in order if colour_distance(tinted(drawing, c), shown) > VISIBLE), 2))
    tints = [edits.add_object(replace(thing, tint=colour)) for colour in colours]
    variants = [edits.exchanged(base, number, tint) for tint in tints]
    both = len(variants) == 2 and rng.random() < 0.5
    steps = [(base, number, variants[0], colours[0])] if variants else []
    steps += [(variants[0], tints[0], base, own)] if variants and own else []
    steps += [(variants[0], tints[0], variants[1], colours[1])] if both else []
    steps += [(variants[1], tints[1], variants[0], colours[0])] if both else []
    for source, what, target, colour in steps:
        which = refer(edits, source, what, rng)
        if which is not None:
            edits.link(source, target, Edit("recolour", **which, colour=colour))


def choose_move(edits: SceneEdits, rng: np.random.Generator) -> None:
    """Move one object far enough, to a place where it does not hide others."""
    base = edits.base
    found = _first_told(edits, rng)
    if found is None:
        return
    number, which = found
    scene, thing = edits.scene, edits.objects[number]
    others = [edits.objects[other] for other in base.objects if other != number]
    names = tuple(POSITIONS) if thing.airborne else ("left", "right", "center", "left", "right", "bottom")
    names += ("bottom left", "bottom right")
    for position in rng.permutation(names):
        there = moved(thing, str(position), scene.width, scene.height)
        dx, dy = there.centre[0] - thing.centre[0], there.centre[1] - thing.centre[1]
        far = abs(dx) > 0.2 * scene.width or abs(dy) > 0.2 * scene.height
        if far and _hidden(there, others) < _HIDDEN:
            target = edits.exchanged(base, number, edits.add_object(there))
            edits.link(base, target, Edit("move", **which, position=str(position), scene=mention(edits, base, rng)))
            return


def choose_resize(edits: SceneEdits, rng: np.random.Generator) -> None:
    """Make one object larger or smaller, and add the reverse edit."""
    base = edits.base
    found = _first_told(edits, rng)
    if found is None:
        return
    number, which = found
    scene, thing = edits.scene, edits.objects[number]
    others = [edits.objects[other] for other in base.objects if other != number]
    unit = min(scene.height, 0.75 * scene.width)
    for size in rng.permutation(("large", "small")):
        other = resized(thing, RESIZE_FACTOR if size == "large" else 1 / RESIZE_FACTOR)
        if size == "small" and other.side < 0.22 * unit:
            continue
        if size == "large" and not (other.side < unit and fits(other, scene.width, scene.height, margin=0)):
            continue
        if _hidden(other, others) > 2 * _HIDDEN:
            continue
        new = edits.add_object(other)
        target = edits.exchanged(base, number, new)
        edits.link(base, target, Edit("resize", **which, size=str(size), scene=mention(edits, base, rng)))
        back = refer(edits, target, new, rng)
        if back is not None:
            edits.link(target, base, Edit("resize", **back, size="small" if size == "large" else "large"))
        return


def _first_told(edits: SceneEdits, rng: np.random.Generator) -> tuple[int, Reference] | None:
    """An object that is well visible and can be identified, with its reference; the focus is often tried first."""
    base, scene = edits.base, edits.scene
    rest = [int(number) for number in rng.permutation(base.objects)]
    order = [scene.focus, *rest] if scene.focus >= 0 and rng.random() < 0.6 else rest
    for number in order:
        thing = edits.objects[number]
        x, y = thing.centre
        in_sight = 0.08 * scene.width < x < 0.92 * scene.width and 0.08 * scene.height < y < 0.95 * scene.height
        which = refer(edits, base, number, rng)
        if in_sight and which is not None:
            return number, which
    return None
