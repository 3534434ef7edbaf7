# ruff: noqa: RUF001 - proper typography is wanted here
"""All texts of the app."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sama.edit.composing.change import told_change

TITLE = "SAMA"
TAGLINE = "Change a video by telling it what to change."
PAPER = "https://arxiv.org/abs/2603.19228"
PRIVACY = (
    "Clips are deleted an hour after you leave the page. They are never shown to others and never used for training."
)

VERBS = {"Add": "Add ", "Replace": "Replace the … with …", "Remove": "Remove the ", "Style": "Make it "}
PLACEHOLDER = "Change, add, replace, remove or transform… for example “Make it snowy”"

NO_LORA = "None"
_LOOKALIKES = str.maketrans("<>&*`[]", "＜＞＆＊｀［］")

QUALITY = "Quality"


def quality_choice(name: str, said: str, seconds: float | None) -> str:
    """A quality as the page offers it: "Fast · about 3 s · leaves more undone"."""
    return " · ".join(
        [name.capitalize(), *([f"about {duration(seconds)}"] if seconds else []), *([said] if said else [])]
    )


PHASES = {
    "loading": "Loading the model",
    "reading": "Reading the clip",
    "planning": "Planning",
    "painting": "Painting",
    "restoring": "Restoring",
    "saving": "Saving",
    "done": "Done",
}

TASKS = {"Missing cube": "cube", "Wrong speed": "speed", "Shuffled tubes": "tube"}
TASK_NOTES = {
    "cube": "A run of whole frames is hidden in grey; the first frame always stays.",
    "speed": "The clip plays twice as fast and turns round at its end, so that its length stays.",
    "tube": "The clip is cut into 2 × 2 × 2 blocks of space and time, put in a random order.",
}
PRETEXT_INTRO = (
    "Before it learns to edit, the model learns to repair clips that were damaged on purpose. "
    "What it can repair here is why its edits keep the motion of your clip."
)

ANCHORS_INTRO = (
    "While it paints, the model also writes down what the first frame will show: "
    "64 local tokens and one for the whole picture."
)
HOW_TO_READ = """
1. **Same colour, same meaning**: one colour basis is used for the source, the plan at every step, and the result.
2. **Drag the step**: the plan starts as noise, and where it settles early the model was sure of what belongs there.
3. **Pick a token** and all three pictures show how similar their tokens are to it, from −1 (blue) to 1 (red);
   where plan and result agree, the edit followed the plan.
"""
UNORDERED = (
    "This model's tokens carry no position: they are a set, not a map. "
    "Each is placed where the finished frame's own tokens match it best."
)
ORDERED = "This model's tokens know their place: each belongs to one cell of the 8 × 8 grid over the first frame."
NO_RECORD = "This edit has no record of its tokens."
EMPTY_ANCHORS = "Run an edit, or open an example, to see its plan."
YOUR_CLIP = "Your clip"
EXAMPLE_CLIP = "Example clip"
PREPARING = "Preparing your clip…"
UPLOAD_LOST = "The file did not arrive. Choose it again."
DROP_WORDS = {
    "none": "No clip yet",
    "invitation": "Drop a video anywhere on the page, paste one, or choose a file.",
    "choose": "Use your own clip",
    "replace": "Replace",
    "remove": "Remove",
    "cancel": "Cancel",
    "drop": "Drop your clip anywhere",
    "play": "Play the clip",
    "pause": "Pause the clip",
    "sending": "Sending {name}: {share} %",
    "preparing": PREPARING,
    "wrong": "{name} is not a video or an animation. Choose an MP4, MOV, WebM, MKV, AVI or GIF file.",
    "empty": "{name} is empty (0 bytes). Choose the file again, or export it once more.",
    "large": "{name} has {size} MB; the limit is {limit} MB. Cut or compress it first.",
    "lost": "The file did not arrive. Check your connection and choose it again.",
    "part": "Part to edit",
    "start": "Start of the part to edit",
    "end": "End of the part to edit",
    "seconds": "{seconds} seconds",
    "all": "Part to edit: the whole clip, {length} s",
    "range": "Part to edit: {from} s to {to} s",
    "whole": "Whole clip",
    "first": "First {length} s",
}
"""What the slot of a clip says; the names in braces are filled in by its script."""
MASK = "Mask, a picture or a clip: the edit shows where it is white, and the source stays where it is black"
MASK_SHOWN = "The source stays where your clip is dark here."
EMPTY_VIEWER = "Your edited video will appear here, beside the original."
EMPTY_PRETEXT = "Choose a clip, and see here what the model is given."
EXAMPLES_TITLE = "Finished examples: they open at once"
WAITING = "Waiting for the model. Others may be ahead of you."
ONE_AT_A_TIME = "Your last run is still going. Wait for it, or stop it."
NO_CLIP = "Upload a clip first, or open an example."


def queue_full(places: int) -> str:
    """Message: the queue is full."""
    others = f"{places} runs are" if places != 1 else "1 run is"
    return (
        f"The queue is full: {others} waiting already, and yours was not added. "
        "Try again in a few minutes, or open a finished example meanwhile."
    )


def not_read(rest: str, limit: int) -> str:
    """Message: the model does not read the end of the instruction."""
    shown = rest if len(rest) <= 80 else rest[:79] + "…"
    return f"The model reads {limit} tokens at most, about {limit * 3 // 4} words. Not read: “{shown}”. Shorten it."


def no_comparison(reference: str) -> str:
    """Message: the comparison of a finished edit with its source failed."""
    return (
        f"Your edit is finished: it is shown alone and can be downloaded. "
        f"The comparison with your clip could not be made (ref {reference})."
    )


def no_film(reference: str) -> str:
    """Message: the side-by-side film of a finished edit failed."""
    return f"Your edit is finished and can be downloaded. The side-by-side film could not be made (ref {reference})."


def ask_for(trigger: str) -> str:
    """How to ask for what the chosen LoRA was trained on, as Markdown."""
    return f"Say “{shown_as_text(trigger)}”." if trigger else ""


def shown_as_text(words: str) -> str:
    """The words as Markdown that shows them unchanged. Markup characters become letters that look alike, because
    gradio's Markdown has no escapes."""
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", "＿", words).translate(_LOOKALIKES)


def stopped(step: int, steps: int) -> str:
    """Message after Stop."""
    where = f" at {step}/{steps}" if step else ""
    return f"Stopped{where}. Nothing was saved; your clip and instruction are kept."


def done(seconds: float, seed: int, settings: Mapping[str, Any]) -> str:
    """Message of a finished edit: time, seed, the source's detail, how much of the picture changed, and what was lost.

    settings: those of the finished edit.

    """
    with_detail = settings.get("kept_detail") and told_change(settings.get("changed", 0.0))
    detail = ", with the source's detail" if with_detail else ""
    return " ".join([f"Done in {duration(seconds)}, seed {seed}{detail}.", *outcome(settings)])


def outcome(settings: Mapping[str, Any]) -> list[str]:
    """Sentences about a finished edit, from its settings: the share of the picture that changed, and its notices."""
    told = told_change(settings.get("changed", 0.0))
    return ([f"{told[:1].upper()}{told[1:]}."] if told else []) + list(settings.get("notices", ()))


def clip_facts(width: int, height: int, frames: int, fps: float, sound: bool) -> str:
    """Length, size and sound of a clip in one line."""
    return f"{frames / fps:.1f} s, {width} × {height}, {'with sound' if sound else 'no sound'}"


def clip_frames(frames: int, fps: float) -> str:
    """Number and rate of a clip's frames."""
    return f"{frames} {'frame' if frames == 1 else 'frames'}, {fps:.4g} a second"


def part_limit(frames: int, fps: float) -> str:
    """Message: a clip is longer than what is edited at once."""
    return f"Up to {frames / fps:.1f} s can be edited at once: choose the part."


def credits(examples: Iterable[tuple[str, str]]) -> str:
    """The authors of the examples' clips, from their titles and credits; "" where no credit is known."""
    titles: dict[str, list[str]] = {}
    for title, credit in examples:
        if credit:
            titles.setdefault(credit, []).append(title)
    return " ".join(f"{', '.join(names)}: {credit.rstrip('.')}." for credit, names in titles.items())


def duration(seconds: float) -> str:
    """Seconds as "5 s", "2 min 05 s" or "1 h 03 min"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
