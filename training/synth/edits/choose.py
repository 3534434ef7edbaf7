"""Chooses the variants of a scene and the directed edits between them.

A variant differs from its scene in one or two fields. An edit is kept only where source and instruction determine the
target.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from training.synth.edits.object_edits import choose_move, choose_objects, choose_recolour, choose_resize
from training.synth.edits.styles import STYLES, WEATHERS
from training.synth.edits.tasks import TASKS, Edit
from training.synth.edits.texts import subtitle
from training.synth.edits.variants import SceneEdits, SceneVariant
from training.synth.material.pack import Pack, Split
from training.synth.scenes.backgrounds import BACKGROUNDS
from training.synth.scenes.scene import Scene

_ABSENT = ("remove", "remove", "recolour", "replace", "move", "resize")


def choose_edits(
    pack: Pack, scene: Scene, rng: np.random.Generator, split: Split, tasks: Collection[str] = TASKS
) -> SceneEdits:
    """Choose variants and pairs of a scene for the given tasks. Some scenes allow no edit of some tasks.

    With all tasks, each is used with some probability only, so that groups stay small; otherwise all are tried.
    """
    edits = SceneEdits(scene, list(scene.objects))
    everything = set(tasks) == set(TASKS)

    def wanted(chance: float, *names: str) -> bool:
        return not set(names).isdisjoint(tasks) and (not everything or rng.random() < chance)

    if wanted(1.0, "add", "remove", "replace"):
        choose_objects(edits, pack, rng, 0.35 if everything else 0.5)
    if wanted(0.7, "recolour") or ("identity" in tasks and not everything):
        choose_recolour(edits, rng)
    if wanted(1.0, "style"):
        style = str(rng.choice(STYLES))
        edits.link(edits.base, replace(edits.base, style=style), Edit("style", style=style))
    if wanted(0.4, "weather"):
        weather = str(rng.choice(WEATHERS))
        edits.link(edits.base, replace(edits.base, weather=weather), Edit("weather", weather=weather))
    if wanted(0.7, "background"):
        _choose_background(edits, rng)
    if wanted(0.65, "subtitle_add", "subtitle_remove", "subtitle_change"):
        _choose_subtitles(edits, rng, split)
    if wanted(0.5, "move"):
        choose_move(edits, rng)
    if wanted(0.45, "resize"):
        choose_resize(edits, rng)
    if wanted(0.7, "identity"):
        _choose_identity(edits, pack, rng, split)
    return edits


def _choose_background(edits: SceneEdits, rng: np.random.Generator) -> None:
    base, own = edits.base, edits.scene.backdrop.name
    names = [str(name) for name in rng.permutation(BACKGROUNDS) if name != own][:2]
    first = replace(base, background=names[0])
    edits.link(base, first, Edit("background", background=names[0]))
    if own:
        edits.link(first, base, Edit("background", background=own))
    elif rng.random() < 0.3:
        second = replace(base, background=names[1])
        edits.link(first, second, Edit("background", background=names[1]))
        edits.link(second, first, Edit("background", background=names[0]))


def _choose_subtitles(edits: SceneEdits, rng: np.random.Generator, split: Split) -> None:
    base = edits.base
    texts = [base.text] if base.text else []
    while len(texts) < 2:
        text = subtitle(rng, edits.scene.width, split)
        if text not in texts:
            texts.append(text)
    # The old text is seldom worth saying, and one text in quotes leaves no doubt which one is to be written.
    said = [text if rng.random() < 0.4 else "" for text in texts]
    bare = replace(base, text="")
    first, second = (replace(base, text=text) for text in texts)
    edits.link(bare, first, Edit("subtitle_add", text=texts[0]))
    edits.link(first, bare, Edit("subtitle_remove", old_text=texts[0]))
    edits.link(first, second, Edit("subtitle_change", text=texts[1], old_text=said[0]))
    edits.link(second, first, Edit("subtitle_change", text=texts[0], old_text=said[1]))


def _choose_identity(edits: SceneEdits, pack: Pack, rng: np.random.Generator, split: Split) -> None:
    """Add an instruction that leaves the clip unchanged: it asks for what is absent or done already, or for no
    change."""
    kind = rng.random()
    fulfilled = _fulfilled(edits)
    if kind < 0.45:
        edit = _about_what_is_absent(edits, pack, rng, split)
        if edit is not None:
            edits.link(edits.base, edits.base, edit)
    elif kind < 0.85 and fulfilled:
        asked = str(rng.choice(sorted({edit.asked for _, edit in fulfilled})))
        same = [(variant, edit) for variant, edit in fulfilled if edit.asked == asked]
        variant, edit = same[int(rng.integers(len(same)))]
        edits.link(variant, variant, edit)
    else:
        variant = edits.variants[int(rng.integers(len(edits.variants)))]
        edits.link(variant, variant, Edit("identity"))


def _about_what_is_absent(edits: SceneEdits, pack: Pack, rng: np.random.Generator, split: Split) -> Edit | None:
    """An edit of an object that neither the scene nor its background shows; None where every object may be seen."""
    taken = [thing.name for thing in edits.scene.objects]
    seen = edits.scene.backdrop.seen.union(*(name.lower().split() for name in taken))
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


def _fulfilled(edits: SceneEdits) -> list[tuple[SceneVariant, Edit]]:
    """Pairs of a variant and an edit whose result the variant shows already."""
    found = []
    for variant in edits.variants:
        if variant.style:
            found.append((variant, Edit("identity", asked="style", style=variant.style)))
            continue
        if variant.weather:
            found.append((variant, Edit("identity", asked="weather", weather=variant.weather)))
            continue
        place = variant.background or edits.scene.backdrop.name
        if place:
            found.append((variant, Edit("identity", asked="background", background=place)))
        if variant.text:
            found.append((variant, Edit("identity", asked="subtitle_change", text=variant.text)))
        else:
            found.append((variant, Edit("identity", asked="subtitle_remove")))
        names = [thing.name for thing in edits.things(variant)]
        for thing in edits.things(variant):
            if thing.tint and names.count(thing.name) == 1:
                edit = Edit("identity", asked="recolour", object=thing.name, colour=thing.tint)
                found.append((variant, edit))
    return found
