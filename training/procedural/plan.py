"""Which variants of a scene are worth drawing, and which directed edits lead from one to another.

A variant differs from its scene in one field or two; an edit is listed only where its instruction determines the target
from the source.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from training.procedural.backgrounds import BACKGROUNDS
from training.procedural.edits import COLOURS, POSITIONS, SIZES, TASKS, Edit, subtitle
from training.procedural.layers import colour_distance, tinted
from training.procedural.pack import Pack, Split, Sprite
from training.procedural.scene import (
    CANONICAL_STYLE,
    Scene,
    SceneObject,
    clashes,
    jitter,
    overlap,
    placed,
    telling_words,
)
from training.procedural.styles import STYLES, WEATHERS

DESCRIBED = 30.0
"""Mean colour difference (0-255) below which a drawing counts as being of the colour that its tint would give it."""

VISIBLE = 34.0
"""Mean colour difference (0-255) above which a recoloured drawing is plainly another one."""


@dataclass(frozen=True)
class Variant:
    """A version of the scene. ``objects`` index the plan's objects, the last one in front."""

    objects: tuple[int, ...]
    background: str = ""  # "" = the scene's own
    style: str = ""
    weather: str = ""
    text: str = ""


@dataclass(frozen=True)
class Pair:
    """An edit that leads from clip ``source`` to clip ``target``."""

    source: int
    target: int
    edit: Edit


@dataclass
class Plan:
    """Variants to draw and the pairs among them. Variant 0 is the scene itself."""

    scene: Scene
    objects: list[SceneObject]
    variants: list[Variant] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def variant(self, variant: Variant) -> int:
        """The index of a variant, which is added if it is new."""
        if variant not in self.variants:
            self.variants.append(variant)
        return self.variants.index(variant)

    def link(self, source: Variant, target: Variant, edit: Edit) -> None:
        self.pairs.append(Pair(self.variant(source), self.variant(target), edit))

    def add_object(self, thing: SceneObject) -> int:
        self.objects.append(thing)
        return len(self.objects) - 1


def make_plan(pack: Pack, scene: Scene, rng: np.random.Generator, split: Split, tasks: Collection[str] = TASKS) -> Plan:
    """Variants and pairs of a scene for the tasks wanted. Some tasks may find nothing to do in some scenes."""
    objects = list(scene.objects)
    plan = Plan(scene, objects)
    base = Variant(tuple(range(len(objects))), text=scene.text)
    plan.variant(base)
    targets = _new_names(pack, scene)
    if not {"add", "remove", "replace"}.isdisjoint(tasks):
        _plan_objects(plan, base, targets, rng)
    if "recolour" in tasks:
        _plan_recolour(plan, base, rng)
    everything = set(tasks) == set(TASKS)
    if "style" in tasks:
        for style in rng.choice(STYLES, size=2 if everything and rng.random() < 0.5 else 1, replace=False):
            plan.link(base, replace(base, style=str(style)), Edit("style", style=str(style)))
    if "weather" in tasks and (not everything or rng.random() < 0.45):
        weather = str(rng.choice(WEATHERS))
        plan.link(base, replace(base, weather=weather), Edit("weather", weather=weather))
    if "background" in tasks and (not everything or rng.random() < 0.8):
        _plan_background(plan, base, rng)
    if not {"subtitle_add", "subtitle_remove", "subtitle_change"}.isdisjoint(tasks) and (
        not everything or rng.random() < 0.65
    ):
        _plan_subtitles(plan, base, rng, split)
    return plan


def which_word(scene: Scene, index: int, rng: np.random.Generator) -> str:
    """The spatial word that tells object ``index`` from another of its name, "" if it is the only one."""
    thing = scene.objects[index]
    others = [o for i, o in enumerate(scene.objects) if i != index and o.name == thing.name]
    if not others:
        return ""
    words = telling_words(thing, others[0], scene.width, scene.height)
    return words[int(rng.integers(len(words)))]


def _new_names(pack: Pack, scene: Scene) -> list[Sprite]:
    """Drawings that may be added: the one known drawing of each name that is not in the scene yet."""
    taken = [thing.name for thing in scene.objects]
    return [
        sprite
        for sprite in pack.sprites("train", target=True, style=CANONICAL_STYLE)
        if not clashes(sprite.name, taken)
    ]


def _said_colour(thing: SceneObject, rng: np.random.Generator) -> str:
    """The object's colour, half of the time, where it is plain and its name does not say it."""
    word = plain_colour(thing)
    if not word or rng.random() < 0.5:
        return ""
    return word


def plain_colour(thing: SceneObject) -> str:
    """The colour word that describes the whole object well; "" if none does."""
    word = thing.sprite.colour
    if word not in COLOURS or any(colour in thing.name.split() for colour in (*COLOURS, "gray", "grey")):
        return ""
    drawing = _sample(thing)
    return word if colour_distance(tinted(drawing, word), drawing) < DESCRIBED else ""


def _sample(thing: SceneObject) -> np.ndarray:
    """Every third pixel of the drawing: enough to judge its colours by."""
    return thing.sprite.frames[0][::3, ::3]


def _plan_objects(plan: Plan, base: Variant, targets: list[Sprite], rng: np.random.Generator) -> None:
    scene, focus = plan.scene, plan.scene.focus
    old = plan.objects[focus]
    without = replace(base, objects=tuple(i for i in base.objects if i != focus))
    which, said = which_word(scene, focus, rng), _said_colour(old, rng)
    plan.link(base, without, Edit("remove", object=old.name, which=which, old_colour=said))
    if old.canonical and old.position is not None and focus == len(scene.objects) - 1:
        plan.link(without, base, Edit("add", new_object=old.name, position=old.position, size=old.size))
    if len(scene.objects) > 1 and rng.random() < 0.35:
        other = int(rng.choice([i for i in range(len(scene.objects)) if i != focus]))
        fewer = replace(base, objects=tuple(i for i in base.objects if i != other))
        thing = plan.objects[other]
        edit = Edit(
            "remove", object=thing.name, which=which_word(scene, other, rng), old_colour=_said_colour(thing, rng)
        )
        plan.link(base, fewer, edit)
    if not targets:
        return
    first, second = (targets[int(i)] for i in rng.integers(len(targets), size=2))
    new = plan.add_object(_newcomer(first, scene, rng))
    thing = plan.objects[new]
    more = replace(base, objects=(*base.objects, new))
    plan.link(base, more, Edit("add", new_object=first.name, position=thing.position or "", size=thing.size))
    plan.link(more, base, Edit("remove", object=first.name))
    heir = plan.add_object(successor(second, old))
    swapped = replace(base, objects=tuple(heir if i == focus else i for i in base.objects))
    edit = Edit("replace", object=old.name, new_object=second.name, which=which, old_colour=said)
    plan.link(base, swapped, edit)
    if old.canonical:
        plan.link(swapped, base, Edit("replace", object=second.name, new_object=old.name))
    plan.link(swapped, without, Edit("remove", object=second.name))


def _newcomer(sprite: Sprite, scene: Scene, rng: np.random.Generator) -> SceneObject:
    """A new object at a place that does not hide the others too much; half of the time at the default place."""
    size = str(rng.choice(tuple(SIZES), p=(0.25, 0.5, 0.25)))
    play = jitter(rng, scene.width)
    places = [""] if rng.random() < 0.3 else [str(p) for p in rng.permutation(tuple(POSITIONS))]
    options = [placed(sprite, place, size, scene.width, scene.height, play) for place in places]

    def hidden(thing: SceneObject) -> float:
        return max((overlap(thing, other) for other in scene.objects), default=0.0)

    return next((thing for thing in options if hidden(thing) < 0.25), min(options, key=hidden))


def successor(sprite: Sprite, old: SceneObject) -> SceneObject:
    """The object that takes over another's centre, longest side and motion, in its one drawing."""
    return SceneObject(sprite, old.centre, old.side, motion=old.motion)


def _plan_recolour(plan: Plan, base: Variant, rng: np.random.Generator) -> None:
    scene = plan.scene
    plain = [i for i, thing in enumerate(scene.objects) if plain_colour(thing)]
    index = plain[int(rng.integers(len(plain)))] if plain and rng.random() < 0.8 else scene.focus
    thing, drawing = plan.objects[index], _sample(plan.objects[index])
    own = plain_colour(thing)
    which, said = which_word(scene, index, rng), own if rng.random() < 0.4 else ""
    order = [str(c) for c in rng.permutation(COLOURS) if c != own and c not in thing.name.split()]
    colours = [c for c in order if colour_distance(tinted(drawing, c), drawing) > VISIBLE][:2]
    tints = [plan.add_object(replace(thing, tint=colour)) for colour in colours]
    variants = [replace(base, objects=tuple(t if i == index else i for i in base.objects)) for t in tints]

    def turn(colour: str, old: str) -> Edit:
        return Edit("recolour", object=thing.name, colour=colour, old_colour=old, which=which)

    if variants:
        plan.link(base, variants[0], turn(colours[0], said))
        if own:
            plan.link(variants[0], base, turn(own, colours[0] if rng.random() < 0.5 else ""))
    if len(variants) == 2 and rng.random() < 0.6:
        plan.link(variants[0], variants[1], turn(colours[1], colours[0] if rng.random() < 0.5 else ""))
        plan.link(variants[1], variants[0], turn(colours[0], colours[1] if rng.random() < 0.5 else ""))


def _plan_background(plan: Plan, base: Variant, rng: np.random.Generator) -> None:
    own = plan.scene.background
    names = [str(name) for name in rng.permutation(BACKGROUNDS) if name != own][:2]
    first = replace(base, background=names[0])
    plan.link(base, first, Edit("background", background=names[0]))
    if own:
        plan.link(first, base, Edit("background", background=own))
    elif rng.random() < 0.4:
        second = replace(base, background=names[1])
        plan.link(first, second, Edit("background", background=names[1]))
        plan.link(second, first, Edit("background", background=names[0]))


def _plan_subtitles(plan: Plan, base: Variant, rng: np.random.Generator, split: Split) -> None:
    texts = [base.text] if base.text else []
    while len(texts) < 2:
        text = subtitle(rng, plan.scene.width, split)
        if text not in texts:
            texts.append(text)
    bare = replace(base, text="")
    first, second = (replace(base, text=text) for text in texts)
    plan.link(bare, first, Edit("subtitle_add", text=texts[0]))
    plan.link(first, bare, Edit("subtitle_remove", old_text=texts[0]))
    plan.link(first, second, Edit("subtitle_change", text=texts[1], old_text=texts[0]))
    plan.link(second, first, Edit("subtitle_change", text=texts[0], old_text=texts[1]))


__all__ = ["Pair", "Plan", "Variant", "make_plan", "plain_colour", "successor", "which_word"]
