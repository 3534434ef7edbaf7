"""Which variants of a scene are worth drawing, and which directed edits lead from one to another.

A variant differs from its scene in one field or two; an edit is listed only where its instruction determines the target
from the source.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from training.synth.edits.object_edits import plan_move, plan_objects, plan_recolour, plan_resize
from training.synth.edits.styles import STYLES, WEATHERS
from training.synth.edits.tasks import TASKS, Edit, subtitle
from training.synth.edits.variants import Pair, Plan, Variant
from training.synth.material.pack import Pack, Split
from training.synth.scenes.backgrounds import BACKGROUNDS
from training.synth.scenes.scene import Scene

__all__ = ["Pair", "Plan", "Variant", "make_plan"]

_ABSENT = ("remove", "remove", "recolour", "replace", "move", "resize")


def make_plan(pack: Pack, scene: Scene, rng: np.random.Generator, split: Split, tasks: Collection[str] = TASKS) -> Plan:
    """Variants and pairs of a scene for the tasks wanted. Some tasks may find nothing to do in some scenes.

    A plan for all tasks takes each of them with a chance, so that groups stay small; one for a single task tries it.
    """
    plan = Plan(scene, list(scene.objects))
    everything = set(tasks) == set(TASKS)

    def wanted(chance: float, *names: str) -> bool:
        return not set(names).isdisjoint(tasks) and (not everything or rng.random() < chance)

    if wanted(1.0, "add", "remove", "replace"):
        plan_objects(plan, pack, rng, 0.35 if everything else 0.5)
    if wanted(0.7, "recolour") or ("identity" in tasks and not everything):
        plan_recolour(plan, rng)
    if wanted(1.0, "style"):
        style = str(rng.choice(STYLES))
        plan.link(plan.base, replace(plan.base, style=style), Edit("style", style=style))
    if wanted(0.4, "weather"):
        weather = str(rng.choice(WEATHERS))
        plan.link(plan.base, replace(plan.base, weather=weather), Edit("weather", weather=weather))
    if wanted(0.7, "background"):
        _plan_background(plan, rng)
    if wanted(0.65, "subtitle_add", "subtitle_remove", "subtitle_change"):
        _plan_subtitles(plan, rng, split)
    if wanted(0.5, "move"):
        plan_move(plan, rng)
    if wanted(0.45, "resize"):
        plan_resize(plan, rng)
    if wanted(0.7, "identity"):
        _plan_identity(plan, pack, rng, split)
    return plan


def _plan_background(plan: Plan, rng: np.random.Generator) -> None:
    base, own = plan.base, plan.scene.backdrop.name
    names = [str(name) for name in rng.permutation(BACKGROUNDS) if name != own][:2]
    first = replace(base, background=names[0])
    plan.link(base, first, Edit("background", background=names[0]))
    if own:
        plan.link(first, base, Edit("background", background=own))
    elif rng.random() < 0.3:
        second = replace(base, background=names[1])
        plan.link(first, second, Edit("background", background=names[1]))
        plan.link(second, first, Edit("background", background=names[0]))


def _plan_subtitles(plan: Plan, rng: np.random.Generator, split: Split) -> None:
    base = plan.base
    texts = [base.text] if base.text else []
    while len(texts) < 2:
        text = subtitle(rng, plan.scene.width, split)
        if text not in texts:
            texts.append(text)
    # The old text is seldom worth saying, and one text in quotes leaves no doubt which one is to be written.
    said = [text if rng.random() < 0.4 else "" for text in texts]
    bare = replace(base, text="")
    first, second = (replace(base, text=text) for text in texts)
    plan.link(bare, first, Edit("subtitle_add", text=texts[0]))
    plan.link(first, bare, Edit("subtitle_remove", old_text=texts[0]))
    plan.link(first, second, Edit("subtitle_change", text=texts[1], old_text=said[0]))
    plan.link(second, first, Edit("subtitle_change", text=texts[0], old_text=said[1]))


def _plan_identity(plan: Plan, pack: Pack, rng: np.random.Generator, split: Split) -> None:
    """Instructions that leave a clip as it is: about what is not there, about what is done already, or plainly so."""
    kind = rng.random()
    fulfilled = _fulfilled(plan)
    if kind < 0.45:
        edit = _about_what_is_absent(plan, pack, rng, split)
        if edit is not None:
            plan.link(plan.base, plan.base, edit)
    elif kind < 0.85 and fulfilled:
        asked = str(rng.choice(sorted({edit.asked for _, edit in fulfilled})))
        same = [(variant, edit) for variant, edit in fulfilled if edit.asked == asked]
        variant, edit = same[int(rng.integers(len(same)))]
        plan.link(variant, variant, edit)
    else:
        variant = plan.variants[int(rng.integers(len(plan.variants)))]
        plan.link(variant, variant, Edit("identity"))


def _about_what_is_absent(plan: Plan, pack: Pack, rng: np.random.Generator, split: Split) -> Edit | None:
    """An edit of a thing that neither the scene nor its place shows."""
    taken = [thing.name for thing in plan.scene.objects]
    seen = plan.scene.backdrop.seen.union(*(name.lower().split() for name in taken))
    names = sorted({sprite.name for sprite in pack.sprites(split) if seen.isdisjoint(sprite.name.lower().split())})
    if not names:
        return None
    asked = _ABSENT[int(rng.integers(len(_ABSENT)))]
    name, *other = (str(n) for n in rng.choice(names, min(2, len(names)), replace=False))
    edit = Edit("identity", asked=asked, object=name)
    if asked == "recolour":
        return replace(edit, colour=str(rng.choice(("red", "yellow", "green", "blue", "purple", "black"))))
    if asked == "move":
        return replace(edit, position=str(rng.choice(("left", "right", "center"))))
    if asked == "resize":
        return replace(edit, size=str(rng.choice(("small", "large"))))
    if asked == "replace":
        return replace(edit, new_object=other[0]) if other else None
    return edit


def _fulfilled(plan: Plan) -> list[tuple[Variant, Edit]]:
    """Variants of the plan with an edit that each of them fulfils already."""
    found = []
    for variant in plan.variants:
        if variant.style:
            found.append((variant, Edit("identity", asked="style", style=variant.style)))
            continue
        if variant.weather:
            found.append((variant, Edit("identity", asked="weather", weather=variant.weather)))
            continue
        place = variant.background or plan.scene.backdrop.name
        if place:
            found.append((variant, Edit("identity", asked="background", background=place)))
        if variant.text:
            found.append((variant, Edit("identity", asked="subtitle_change", text=variant.text)))
        else:
            found.append((variant, Edit("identity", asked="subtitle_remove")))
        names = [thing.name for thing in plan.things(variant)]
        for thing in plan.things(variant):
            if thing.tint and names.count(thing.name) == 1:
                edit = Edit("identity", asked="recolour", object=thing.name, colour=thing.tint)
                found.append((variant, edit))
    return found
