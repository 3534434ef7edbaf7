"""Puts edits into sentences, by a small grammar.

A *pattern* is a line with alternatives, ``(remove|delete) {object}(| from the video)``; written out, it gives several
*templates*, each with slots that noun phrases fill. ``split="test"`` draws only from templates that ``split="train"``
never uses (see :data:`PARAPHRASE_HOLDOUT`), so that understanding of new wordings can be measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from training.synth.edits.tasks import Edit
from training.synth.tables import text_hash
from training.synth.words.nouns import (
    article,
    definite,
    indefinite,
    is_mass,
    is_plural,
    listing,
    plural,
    with_adjectives,
)
from training.synth.words.wording import grammar, phrases

PARAPHRASE_HOLDOUT = 0.2
"""Fraction of each task's ordinary templates that only ``split="test"`` uses. The plainest wordings (each task's first
pattern) are never held out; patterns that begin with "!" always are, since their very verbs are unknown in training."""

SPLITS = ("train", "test")

_SLOT = re.compile(r"\{(\w+)\}")
_GROUP = re.compile(r"\(([^()]*)\)")
_QUESTIONS = (
    "what about",
    "what if",
    "what would",
    "how about",
    "how would",
    "can ",
    "could ",
    "may ",
    "would ",
    "is it ",
)
_TYPO_SHARE = 0.03
_MENTIONS_CLIP = re.compile(r"\b(?:video|clip|scene|picture|frame|screen|footage|:)")
_CORE_SHARE = 0.3
_NUMBERS = ("", "a", "two", "three", "four", "five", "six")

Slots = dict[str, str]
Groups = tuple[tuple[str, ...], ...]
"""Templates, grouped by the pattern that they come from."""


def instruction(edit: Edit, rng: np.random.Generator, split: str = "train") -> str:
    """One sentence that asks for ``edit``; the same ``rng`` state gives the same sentence.

    Everything that decides the right answer is said (a place, which of two, the new text); other facts may be left out.
    Subtitle texts stand unchanged in double quotes. Raises ``ValueError`` for an unknown task or split, or for an edit
    that lacks what its task needs.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: use 'train' or 'test'.")
    for task in filter(None, (edit.task, edit.asked)):
        if task not in grammar().patterns:
            raise ValueError(f"Unknown task {task!r}: use one of {', '.join(grammar().patterns)}.")
    slots, required = _slots(replace(edit, task=edit.asked) if edit.asked else edit, rng)
    core, more = _eligible(edit.asked or edit.task, split, frozenset(slots), required)
    if not core and not more:
        raise ValueError(f"The edit says too little for an instruction: {edit}.")
    groups = core if core and (not more or rng.random() < _CORE_SHARE) else more
    group = groups[int(rng.integers(len(groups)))]  # patterns are equally likely, however many templates they give
    template = _with_scene(_pick(group, rng), edit.scene, slots, rng)
    return _finish(_with_typo(template, rng), slots, rng)


def caption(background: str, objects: Sequence[str], rng: np.random.Generator) -> str:
    """A plain description of a clip ("a cat and two dogs in front of a beach"), for the pretext tasks.

    ``background`` and ``objects`` are names as in :class:`Edit`; either may be empty. An object named twice is counted.
    """
    things = []
    for name, count in Counter(objects).items():
        number = _NUMBERS[count] if count < len(_NUMBERS) else "several"
        things.append(indefinite(name, rng) if count == 1 else f"{number} {plural(name)}")
    slots: Slots = {}
    if things:
        slots["objects"] = listing([things[int(i)] for i in rng.permutation(len(things))])
    if background:
        slots["background"] = _background(background, rng)
    templates = [t for t in _expand_all(grammar().captions) if frozenset(_SLOT.findall(t)) == frozenset(slots)]
    return _case(_fill(_pick(templates, rng), slots), rng) + _pick(("", "."), rng)


def templates(task: str, split: str) -> tuple[str, ...]:
    """All surface templates of a task in one split; no template is in both."""
    core, more = _split_templates(task, split)
    return tuple(template for group in core + more for template in group)


def _with_scene(template: str, scene: str, slots: Slots, rng: np.random.Generator) -> str:
    """The template with the background added ("in the video of a beach"), unless it mentions the clip already."""
    if not scene or scene.startswith("plain ") or template.startswith("=") or _MENTIONS_CLIP.search(template):
        return template
    slots["scene"] = _background(scene, rng) if scene in phrases().backgrounds else scene
    clip = _pick(("video", "clip", "scene"), rng)
    if rng.random() < 0.5:
        return f"=in {_pick(('the', 'this'), rng)} {clip} of {{scene}}, {template}"
    return f"{template} in the {clip} of {{scene}}"


def _with_typo(template: str, rng: np.random.Generator) -> str:
    """The template, rarely with a typing error in one of its own words; slots are never changed."""
    if rng.random() >= _TYPO_SHARE:
        return template
    words = list(re.finditer(r"[a-z]{5,}", _SLOT.sub(lambda slot: "_" * len(slot.group()), template)))
    if not words:
        return template
    found = words[int(rng.integers(len(words)))]
    at = found.start() + int(rng.integers(1, len(found.group()) - 2))
    pair = template[at : at + 2]
    return template[:at] + (pair[::-1] if rng.random() < 0.6 else pair[0]) + template[at + 2 :]


def _finish(template: str, slots: Mapping[str, str], rng: np.random.Generator) -> str:
    """Complete the sentence: polite words, slots, case of the first letter, final mark."""
    imperative = not template.startswith("=")
    template = template.removeprefix("=")
    sentence, mark = _fill(template, slots), "?" if template.startswith(_QUESTIONS) else "."
    if imperative and rng.random() < 0.22:
        prefix = _pick(grammar().prefixes, rng)
        sentence = prefix + sentence
        mark = "?" if prefix.startswith(_QUESTIONS) else "."
    elif imperative and rng.random() < 0.08:
        sentence += _pick(grammar().suffixes, rng)
    if rng.random() < 0.5:
        sentence += mark
    return _case(sentence, rng)


def _case(sentence: str, rng: np.random.Generator) -> str:
    """The sentence, in 62 % of cases with a capital first letter."""
    return sentence[:1].upper() + sentence[1:] if rng.random() < 0.62 else sentence


def _fill(template: str, slots: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda found: slots[found.group(1)], template)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _slots(edit: Edit, rng: np.random.Generator) -> tuple[Slots, frozenset[str]]:
    """Values of all slots that the edit can fill, and the names of those that a template must use."""
    if edit.task in ("add", "replace"):
        return _slots_of_new_thing(edit, rng)
    if edit.task in ("remove", "recolour"):
        return _references(edit, rng) | (_new_colour(edit, rng) if edit.task == "recolour" else {}), frozenset()
    if edit.task in ("move", "resize"):
        return _references(edit, rng) | _new_place_or_size(edit, rng), frozenset()
    if edit.task == "identity":
        return {}, frozenset()
    if edit.task.startswith("subtitle"):
        return _slots_of_subtitle(edit, rng)
    if edit.task == "style":
        return _slots_of_phrases(edit.style, phrases().styles, {"attribute": edit.style}, rng)
    if edit.task == "weather":
        return _slots_of_phrases(edit.weather, phrases().weathers, {"noun": edit.weather}, rng)
    return ({"background": _background(edit.background, rng)} if edit.background else {}), frozenset()


def _new_colour(edit: Edit, rng: np.random.Generator) -> Slots:
    """Slots of the colour that an object gets."""
    if not edit.colour:
        return {}
    colour = _colour(edit.colour, rng)
    a_one = f"{colour} ones" if is_plural(edit.object) else f"{article(colour)} {colour} one"
    return {"colour": colour, "a_colour": f"{article(colour)} {colour}", "a_one": a_one}


def _new_place_or_size(edit: Edit, rng: np.random.Generator) -> Slots:
    """Slots of where an object goes, or of how large it becomes."""
    if edit.task == "move":
        return {"place": _pick(_expand_all(phrases().destinations[edit.position]), rng)} if edit.position else {}
    if edit.size not in phrases().resizing:
        return {}
    slots = {slot: _pick(options, rng) for slot, options in phrases().resizing[edit.size].items()}
    sized, comparative = slots.pop("sized"), slots["comparative"]
    one = f"{sized} ones" if is_plural(edit.object) and not edit.kind else f"{article(sized)} {sized} one"
    return {**slots, "a_sized": one, "a_comparative": f"{article(comparative)} {comparative}"}


def _slots_of_new_thing(edit: Edit, rng: np.random.Generator) -> tuple[Slots, frozenset[str]]:
    """Slots of add and replace: the thing that appears, where, and what it replaces."""
    name = edit.new_object or (edit.object if edit.task == "add" else "")
    if not name:
        return {}, frozenset()
    size = _pick(phrases().sizes[edit.size], rng) if edit.size else ""
    colour = _colour(edit.colour, rng) if edit.colour else ""
    slots = {"thing": indefinite(name, rng, (size, colour))}
    slots["are"] = "are" if is_plural(name) and not slots["thing"].startswith("a ") else "is"
    if not is_plural(name) and not is_mass(name):
        slots["single"] = with_adjectives(name, (size, colour))
    if edit.task == "replace":
        return slots | _references(edit, rng), frozenset()
    if edit.beside and edit.near:
        slots["place"] = f"{_pick(phrases().beside, rng).format(side=edit.beside)} {definite(edit.near)}"
    elif edit.position:
        slots["place"] = _pick(_expand_all(phrases().places[edit.position]), rng)
    return slots, frozenset({"place"} & slots.keys())


def _references(edit: Edit, rng: np.random.Generator) -> Slots:
    """Ways to name the object concerned: ``object`` ("the red cat on the left"), ``name`` (bare, where clear), ..."""
    if not edit.object:
        return {}
    noun = edit.kind or edit.object
    colour = _colour(edit.old_colour, rng) if edit.old_colour else ""
    before = after = ""
    if edit.which in phrases().which:
        before, after = _pick(phrases().which[edit.which], rng).split("_")
    elif edit.position and edit.task != "move":
        after = _pick(_expand_all(phrases().places[edit.position]), rng)
    phrase = definite(noun, (before.strip(), colour))
    after = after.strip()
    slots = {"object": f"{phrase} {after}" if after else phrase}
    if not after:
        slots["possessive"] = phrase + ("'" if phrase.endswith("s") else "'s")
    if not edit.which and not edit.position and not edit.kind:
        slots["name"] = with_adjectives(noun, (colour,))
        slots["bare"] = noun
    if colour:
        slots["old_colour"] = colour
    slots |= {"is": "are", "its": "their"} if is_plural(noun) else {"is": "is", "its": "its"}
    return slots


def _slots_of_subtitle(edit: Edit, rng: np.random.Generator) -> tuple[Slots, frozenset[str]]:
    slots = {"text": f'"{edit.text}"'} if edit.text else {}
    if edit.old_text:
        slots["old_text"] = f'"{edit.old_text}"'
    if edit.position:
        places = phrases().places_of_text.get(edit.position, phrases().places[edit.position])
        slots["place"] = _pick(_expand_all(places), rng)
    if edit.task == "subtitle_remove":
        slots.pop("text", None)
        return slots, frozenset()
    if edit.task == "subtitle_change" or not edit.position:
        return slots, frozenset({"text"})
    return slots, frozenset({"text", "place"})


def _slots_of_phrases(
    name: str, looks: Mapping[str, Mapping[str, Sequence[str]]], default: Slots, rng: np.random.Generator
) -> tuple[Slots, frozenset[str]]:
    """Slots of a named look, from its table, or ``default`` where the table does not know the name."""
    if not name:
        return {}, frozenset()
    known = looks.get(name)
    if known is None:
        return default, frozenset()
    slots = {slot: _pick(options, rng) for slot, options in known.items()}
    if "adjective" in slots:
        slots["an_adjective"] = f"{article(slots['adjective'])} {slots['adjective']}"
    return slots, frozenset()


def _colour(colour: str, rng: np.random.Generator) -> str:
    return _pick(("gray", "grey"), rng) if colour in ("gray", "grey") else colour


def _background(name: str, rng: np.random.Generator) -> str:
    if name in phrases().backgrounds:
        return _pick(phrases().backgrounds[name], rng)
    colour = name.removeprefix("plain ")
    if colour == name:
        return indefinite(name, rng)
    surface = _pick(("background", "background", "color", "wall", "backdrop"), rng)
    return _pick((name, name, f"a plain {colour} {surface}", f"{article(colour)} {colour} {surface}", colour), rng)


def _expand(pattern: str) -> list[str]:
    """All strings that a pattern with (nested) alternatives stands for."""
    group = _GROUP.search(pattern)
    if group is None:
        return [re.sub(r" +", " ", pattern).strip()]
    options = (pattern[: group.start()] + option + pattern[group.end() :] for option in group.group(1).split("|"))
    return [line for option in options for line in _expand(option)]


@lru_cache(maxsize=256)
def _expand_all(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for pattern in patterns for line in _expand(pattern)))


@lru_cache(maxsize=64)
def _split_templates(task: str, split: str) -> tuple[Groups, Groups]:
    """(core, others) of a task in a split, grouped by pattern; a template belongs to the first pattern that gives it.

    Whether a template is held out depends on its text only, so new patterns move no old template to the other split.
    """
    core: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    seen: set[str] = set()
    ordinary = [pattern for pattern in grammar().patterns[task] if not pattern.startswith("!")]
    unseen = [pattern[1:] for pattern in grammar().patterns[task] if pattern.startswith("!")]
    for number, pattern in enumerate(ordinary + unseen):
        fresh = [template for template in _expand_all((pattern,)) if template not in seen]
        seen.update(fresh)
        if number == 0:
            core.append(tuple(fresh) if split == "train" else ())
            continue
        only_test = number >= len(ordinary)
        held = [only_test or text_hash(f"{task}: {template}") < PARAPHRASE_HOLDOUT * 2**32 for template in fresh]
        others.append(tuple(t for t, h in zip(fresh, held, strict=True) if h == (split == "test")))
    return tuple(filter(None, core)), tuple(filter(None, others))


@lru_cache(maxsize=1024)
def _eligible(task: str, split: str, available: frozenset[str], required: frozenset[str]) -> tuple[Groups, Groups]:
    """(core, others) of the templates that use all required slots and no slot that is missing."""

    def fits(template: str) -> bool:
        return required <= set(_SLOT.findall(template)) <= available

    def fitting(groups: Groups) -> Groups:
        return tuple(filter(None, (tuple(filter(fits, group)) for group in groups)))

    core, more = _split_templates(task, split)
    return fitting(core), fitting(more)
