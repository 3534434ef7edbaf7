# ruff: noqa: RUF001 - proper typography is wanted here
"""All texts of the app."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sama.edit.composing.change import told_change
from sama.model.named import short_name

if TYPE_CHECKING:
    from ui.jobs.work import JobStep

TITLE = "SAMA"
TAGLINE = "Say it, and the video changes."
PAPER = "https://arxiv.org/abs/2603.19228"
CODE = "https://github.com/Cynthiazxy123/SAMA"
MODELS = {"tiny": "Small demo model", "1.3b": "Wan2.1 1.3B", "14b": "SAMA 14B"}
"""The models by preset, as the header names them."""
WHAT_WORKS = (
    "This small model runs on an ordinary processor. On real footage, edits of the whole picture (weather, style, "
    "colours) and subtitles work well; single objects mostly work on drawings only."
)
HOW_MEASURED = "Edits done as asked, of held-out clips with drawn objects, film and photographs."


def no_large_model(has_gpu: bool) -> str:
    """Why the 14B model is off, and how it is turned on; commands stand in backticks."""
    reason = "this page was started with the small one" if has_gpu else "this computer has no CUDA GPU"
    return (
        f"The 14B model edits objects in real footage. It is off: {reason}. "
        "On a GPU with 8 GB or more: `python app.py --preset 14b`"
    )


PRIVACY = (
    "Clips are deleted a few minutes after you leave the page. They are never shown to others and never used for "
    "training."
)

WORDS = "What should change?"
PLACEHOLDER = "What should change? “Make it snowy”"
IDEAS: Mapping[str, tuple[str, ...]] = {
    "dark": ("Make it look like a sunset", "Make it sepia", 'Add the subtitle "GOOD NIGHT"'),
    "bright": ("Make it snowy", "Turn it into a pencil sketch", 'Add the subtitle "HELLO"'),
    "grey": ("Make it look like a sunset", "Turn it into a watercolor painting", 'Add the subtitle "HELLO"'),
    "plain": ("Make it snowy", "Turn it into a watercolor painting", 'Add the subtitle "HELLO"'),
}
"""Edits that the embedded model does well on any footage, by how a clip looks."""
GO, VERSION = "Make this edit", "Make another version"
TEMPLATE = "Put your own words in the place of “…”, then press the button again."

NO_LORA = "None"
_LOOKALIKES = str.maketrans("<>&*`[]", "＜＞＆＊｀［］")

QUALITY = "Quality"


def quality_choice(name: str, seconds: float | None) -> str:
    """A quality as the page offers it, its time on a line of its own: "Fast", "3 s"."""
    return "\n".join([name.capitalize(), *([duration(seconds)] if seconds else [])])


PHASES = {
    "waiting": "Waiting",
    "loading": "Loading the model",
    "reading": "Reading the clip",
    "planning": "Planning",
    "painting": "Painting",
    "restoring": "Repairing",
    "measuring": "Measuring",
    "decoding": "Decoding the frames",
    "saving": "Saving",
    "done": "Done",
}

STAGE_PHASES = {
    "reading": "Reading",
    "planning": "Planning",
    "painting": "Painting",
    "decoding": "Decoding",
    "saving": "Saving",
}
"""The phases of an edit in their order, as the stage lists them."""
NEXT_IN_LINE = "Starting…"
MEANWHILE = "Look at an example meanwhile: you keep your place."


def painting(step: int, steps: int, window: int, windows: int) -> str:
    """Where the painting is: "Painting 6 of 10", "Painting part 1 of 3, 6 of 10"."""
    part = f" part {max(1, window)} of {windows}," if windows > 1 else ""
    return f"Painting{part} {step} of {steps}"


PLAN_INTRO = (
    "Before and while it paints, the model notes what each of 64 areas of the first frame will show. This is its plan "
    "(research calls it semantic anchors)."
)
PLAN_QUESTIONS = {
    "will": "What will change?",
    "did": "Did it?",
    "missed": "What did it miss?",
    "alike": "What looks alike?",
    "raw": "Raw colours",
}
HOW_TO_READ = """
1. **Orange marks change.** The scale is fixed: 0 is the same, 1 has nothing in common (1 − cosine of the two tokens).
   Outlined cells pass the line from which on the editor itself takes a difference for a change.
2. **Play the steps**: the plan is drawn at every step of the run, beside the picture as it was at that step.
3. **Point at a cell**, tap it, or walk with the arrow keys: it is outlined in every picture, and its names and numbers
   are written below.
4. **Raw colours** are for researchers: three main directions of the tokens, one basis for source, plan and result;
   areas with the same colour mean similar things.
"""
NO_RECORD = "This edit has no record of its plan: the model that made it has no anchors."
NO_PLAN = "This model keeps no plan that could be told; start the app with a model that has a vision tower."
EMPTY_PLAN = "Run an edit, or open an example, to see its plan."
READ_PLAN = "Read this plan"
READING = "Fetching the vision tower if it is not here yet, and reading the plan with it. This can take minutes."


def needs_tower(tower: str | None) -> str:
    """Message: the record waits for a vision tower to read it."""
    if tower is None:
        return "This model has no vision tower, which a plan needs to be read: start the app with --tower."
    return (
        f"The plan of this edit is kept. To read it the model’s vision tower is needed ({short_name(tower)}): it is "
        "fetched once, a few gigabytes, and leaves the memory again afterwards."
    )


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
    "long": "Your file is {of} s long. Here: {from} s to {to} s",
    "long_label": "First second of the file that is used",
    "first": "First {length} s",
}
"""What the slot of a clip says; the names in braces are filled in by its script."""
EDITED_CLIP, SIDE_BY_SIDE, SETTINGS_FILE = "Edited clip", "Side by side", "Settings, to make it again"
AGAIN = "Edit this again"
TRY_CLIP, TRY_WORDS = "Try on this clip", "Use these words"
OTHER_WORDS, WHOLE_PICTURE = "Try other words", "Show all that it painted"
SESSION_TITLE = "This session"
LOAD_SETTINGS = "Load settings"
SETTINGS_LOADED = "The settings are in the form; the clip is yours to choose."
NO_SETTINGS = "This is not a file of settings. Choose a .json file that was downloaded here with an edit."
KEEP = "Leave the rest of the picture untouched"
DETAIL = "Give the edit the source's fine detail"
VARIATION, NEW_VARIATION = "Variation", "New variation"
VARIATION_INFO = "The same number gives the same video."
STEPS_INFO = "More steps: more time, finer result."
GUIDANCE_INFO = "How strictly the words are followed."
KEEP_INFO = "Automatic: wherever the edit changes nothing, your own pixels stay."
MASK = "Mask, a picture or a clip: the edit shows where it is white, and the source stays where it is black"
MASK_SHOWN = "The source stays where your clip is dark here."
EMPTY_VIEWER = "Your edited video will appear here, beside the original."
EXAMPLES_TITLE = "Examples, already finished"
WAITING = "Waiting for the model. Others may be ahead of you."
ONE_AT_A_TIME = "Your last run is still going. Wait for it, or stop it."
NO_CLIP = "Upload a clip first, or open an example."


def line_full(waiting: int, seconds: float | None) -> str:
    """Message: there is no place in the line. seconds: until one that waits can begin, None where it is not known."""
    others = f"{waiting} runs wait" if waiting != 1 else "1 run waits"
    when = f"in about {duration(seconds)}" if seconds else "in a few minutes"
    return (
        f"The queue is full: {others} already, and yours was not added. "
        f"Try again {when}, or open a finished example meanwhile."
    )


def takes(seconds: float) -> str:
    """How long an edit takes as it is set."""
    return f"As it is set, this edit takes about {duration(seconds)} here."


def too_many_of_yours(count: int) -> str:
    """Message: this visitor's place in the line is used up."""
    return f"{count} runs of yours are in the line already. Wait for one of them, or stop it, then try again."


def place_in_line(ahead: int, wait: float | None) -> str:
    """Where a waiting job stands: "2 ahead of you, about 1 min"."""
    who = f"{ahead} ahead of you" if ahead else "You are next"
    return f"{who}, about {duration(wait)}" if wait else who


def state(step: JobStep) -> str:
    """Where a job is, in one line for a program: "Painting 3/10, about 12 s left"."""
    if step.phase == "waiting":
        return place_in_line(step.ahead, step.wait)
    words = PHASES.get(step.phase, step.phase)
    count = f" {step.step}/{step.steps}" if step.steps and step.step else ""
    part = f", part {step.window} of {step.windows}" if step.windows > 1 and step.window else ""
    left = f", about {duration(step.seconds_left)} left" if step.seconds_left is not None else ""
    return f"{words}{count}{part}{left}"


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


def facts_of_edit(settings: Mapping[str, Any], seconds: float, example: bool, credit: str = "") -> str:
    """What is known about a finished edit in one line: its length, its time, its seed, notices, the clip's author.

    example: an example's time and seed are nobody's concern.
    """
    facts = [f"{seconds:.1f} s"]
    if example:
        return " · ".join([*facts, *([f"Clip: {credit}"] if credit else [])])
    if settings.get("seconds"):
        facts.append(f"made in {duration(settings['seconds'])}")
    facts.append(f"variation {settings.get('seed', 0)}")
    if settings.get("kept_detail") and told_change(settings.get("changed", 0.0)):
        facts.append("with the source's detail")
    told = [said for said in settings.get("notices", ()) if not said.startswith("Nothing changed")]
    return " · ".join([*facts, *told, *([f"Clip: {credit}"] if credit else [])])


def unchanged(masked: bool) -> str:
    """What is said of an edit that changed nothing. masked: whether a mask limited it."""
    return f"The model left {'what lies inside the mask' if masked else 'the clip'} as it was."


def next_edit(instruction: str) -> str:
    """Message: the result of an edit is the clip now."""
    return f"The result of “{instruction}” is your clip now. Say what should change next."


def card_note(settings: Mapping[str, Any]) -> str:
    """What tells an edit of this session from others with the same words."""
    told = told_change(settings.get("changed", 0.0))
    return " · ".join([f"variation {settings.get('seed', 0)}", *([told] if told else [])])


def part(start: float, end: float, whole: float) -> str:
    """The part of a clip that is edited, from seconds: "your clip, 1.1 s", "your clip, 0.5 to 1.6 s of 4.0 s"."""
    if start < 0.05 and end > whole - 0.05:
        return f"Your clip, {whole:.1f} s"
    return f"Your clip, {start:.1f} to {end:.1f} s of {whole:.1f} s"


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
