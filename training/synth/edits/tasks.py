"""The record of an edit: the renderer draws it, and `words.language` puts it into a sentence.

What an instruction leaves open has a fixed default here (place, size, colours), so that each instruction has one right
answer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One directed edit. Empty strings mean "not said"."""

    task: str  # one of TASKS
    object: str = ""  # name of the object concerned ("cat"); for replace: the old one
    new_object: str = ""  # add / replace: what appears
    colour: str = ""  # recolour: the new colour
    old_colour: str = ""  # the object's colour where it is worth saying ("red balloon")
    position: str = ""  # add: one of POSITIONS, "" = the default place (lower center); move: one of POSITIONS
    which: str = ""  # tells apart several of a kind: one of WHICH_WORDS
    size: str = ""  # add: "small" "" "large"; resize: "small" "large"
    style: str = ""  # one of styles.STYLES
    weather: str = ""  # one of styles.WEATHERS
    background: str = ""  # one of backgrounds.BACKGROUNDS
    text: str = ""  # subtitle_add / subtitle_change: the new text
    old_text: str = ""  # subtitle_remove / subtitle_change: the text that was there
    kind: str = ""  # what the object is called instead of its name ("animal", "thing"), where ``which`` tells it apart
    beside: str = ""  # add: "left" or "right" of the object named ``near``, in place of a position
    near: str = ""
    scene: str = ""  # words for the background, where the instruction mentions it
    asked: str = ""  # identity: the task that is asked for in vain; "" = the clip is to stay as it is


TASKS = (
    "add",
    "remove",
    "replace",
    "recolour",
    "style",
    "weather",
    "background",
    "subtitle_add",
    "subtitle_remove",
    "subtitle_change",
    "move",
    "resize",
    "identity",
)
"""What an edit can do. Seeds and statistics go by the index: new tasks stand at the end.

An object that is *moved* to a side or to the center keeps its height, one moved up or down keeps its distance from the
sides, one moved to a corner goes just there. One that is *resized* grows or shrinks by :data:`RESIZE_FACTOR` where it
stands. *identity* asks for what is not there or is done already ("remove the cat" without a cat, "make the red car
red"), or that nothing be changed: the right answer is the source itself.
"""

WHICH_WORDS = ("left", "right", "top", "bottom", "small", "large", "middle", "first", "second", "third", "colour")
"""How one of several of a kind is told: ordinals count from the left; "colour" stands for ``old_colour``, which is then
always said."""

POSITIONS: dict[str, tuple[float, float]] = {
    "top left": (0.20, 0.24),
    "top": (0.50, 0.24),
    "top right": (0.80, 0.24),
    "left": (0.20, 0.52),
    "center": (0.50, 0.50),
    "right": (0.80, 0.52),
    "bottom left": (0.20, 0.76),
    "bottom": (0.50, 0.76),
    "bottom right": (0.80, 0.76),
}
"""Centre of an added object as fractions of the width and the height."""

DEFAULT_PLACE = (0.50, 0.62)
"""Where an added object appears when the instruction names no place: lower center."""

SIZES: dict[str, float] = {"small": 0.36, "": 0.52, "large": 0.70}
"""Longest side of an added object in the middle of the frame, as a fraction of ``min(height, 0.75 * width)``."""

RESIZE_FACTOR = 1.5
"""How much larger or smaller a resized object is than before."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


def object_side(size: str, width: int, height: int, place: float = 0.5) -> float:
    """Longest side in pixels of an object of the named size in a frame of ``width`` x ``height`` pixels.

    ``place`` is the height of its centre, 0 at the top and 1 at the bottom: lower objects are nearer and so larger.
    """
    return SIZES[size] * min(height, 0.75 * width) * (0.85 + 0.3 * place)
