# ruff: noqa: RUF001 - proper typography is wanted here
"""The sentences of the Plan tab: what a run's plan was and what came of it, from its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sama.model.named import EMBEDDED

if TYPE_CHECKING:
    from ui.media.plan import PlanFacts

WELL_FOLLOWED = 0.9
"""Cosine of plan and result from which on a cell is not worth a word."""
NAMED_PAIRS = 3


def told(facts: PlanFacts) -> str:
    """The plan of a run in one short paragraph, computed from its tokens."""
    return " ".join([_covered(facts), _changed(facts), _followed(facts), *_words(facts)])


def _covered(facts: PlanFacts) -> str:
    count, steps, first = int(facts.meant.sum()), len(facts.planned), float(facts.settled[0])
    if not count:
        return f"The plan means no change: its largest difference from your clip is {facts.planned[-1].max():.2f}."
    whole = count == facts.meant.size
    what = "The plan covers the whole picture" if whole else f"The plan covers {_percent(count)} of the picture"
    if steps == 1:
        return f"{what}."
    if facts.arrived == 1:
        return f"{what} and was there after the first step ({first:.2f} like the last one)."
    return f"{what} and took shape by step {facts.arrived} of {steps} (step 1 was {first:.2f} like the last one)."


def _changed(facts: PlanFacts) -> str:
    both = int((facts.meant & facts.changed).sum())
    meant, changed = int(facts.meant.sum()), int(facts.changed.sum())
    if not meant:
        return "The result changed nothing either." if not changed else f"The result changed {_cells(changed)}."
    others = f", and {changed - both} more" if changed > both else ""
    if both == meant == facts.meant.size:
        return "The result changed all of it."
    if both == meant:
        return f"The result changed the same {_cells(both)}{others}."
    return f"The result changed {both} of these {_cells(meant)}{others}."


def _followed(facts: PlanFacts) -> str:
    likeness = 1 - facts.missed[-1]
    worst = np.argsort(likeness)[:2]
    if likeness[worst[0]] >= WELL_FOLLOWED:
        return f"It followed the plan everywhere ({likeness[worst[0]]:.2f} or more)."
    poor = [cell for cell in worst if likeness[cell] < WELL_FOLLOWED]
    places = " and ".join(f"{place(int(cell))} ({likeness[cell]:.2f})" for cell in poor)
    return f"It followed the plan least at {places}."


def _words(facts: PlanFacts) -> list[str]:
    pairs = facts.in_words()[:NAMED_PAIRS]
    if not pairs:
        return []
    return ["In words: " + ", ".join(f"{old} → {new} ({_cells(count)})" for old, new, count in pairs) + "."]


def place(cell: int) -> str:
    """Where a cell is: "row 6, column 5"."""
    return f"row {cell // 8 + 1}, column {cell % 8 + 1}"


def origin(facts: PlanFacts, frames: int, parts: int) -> str:
    """What the plan was made of: which frame, which part of the clip, which tower. frames, parts: how many the clip
    has."""
    tokens = facts.tokens
    part = f", in the first of {parts} parts that were edited one after another" if parts > 1 else ""
    tower = "the embedded model’s vision tower" if tokens.encoder == EMBEDDED else tokens.encoder or "a vision tower"
    return f"The plan is of frame 1 of {frames}{part}. Source and result were read by {tower}."


def likeness_note(ordered: bool) -> str:
    """Whether the cells are where the model put them."""
    if ordered:
        return "Each square of the plan belongs to the area under it."
    return (
        "Placed by likeness, not by the model: this model’s tokens have no position, so each is drawn where the "
        "finished frame is most like it."
    )


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _percent(count: int) -> str:
    return f"{max(1, round(100 * count / 64))} %"
