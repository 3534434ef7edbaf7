# ruff: noqa: RUF001 - proper typography is wanted here
"""Every word of the Repair tab: names, and the sentences that say what was done to a clip and what became of it."""

from __future__ import annotations

from typing import Any

TAB = "Repair"
INTRO = "To learn how things move, the model first practises repairing broken clips. Break one here, then let it try."
SUBTITLE = "pretext task"
NAMES = {"cube": "cube inpainting", "speed": "speed perturbation", "tube": "tube shuffle"}
"""The names in the paper."""
TASKS = {"Hiding frames": "cube", "Doubling speed": "speed", "Scrambling pieces": "tube"}
STRENGTHS = {
    "cube": "How much (%)",
    "speed": "How much (×)",
    "tube": "How much (pieces)",
}
OWN_CLIP = "Your clip"
NO_CLIP = "Upload a clip in the Edit tab first, or choose an example."
EMPTY = "Choose a clip, and see here what the model is given."
CAPTION = "Describe the clip (helps the repair)"
DETAILS = "Caption, seed, start"
DICE = "🎲 Another seed"
REPAIR, AGAIN = "Repair it", "Repair it again"
WAITING = "Not repaired yet"
REPAIRED = "Repaired."
ELSEWHERE = "Your repair is finished. Choose the damage it was for, and it is shown."
SAME = 30
"""The likeness in dB at which two clips look the same."""


def strength_shown(task: str, strength: float) -> float:
    """A strength as the form shows it: shares as percent."""
    return round(strength * 100) if task == "cube" else strength


def strength_given(task: str, shown: float | None) -> float:
    """The strength that a form's value stands for."""
    return round((shown or 0) / 100, 2) if task == "cube" else float(shown or 0)


def frames_words(numbers: list[int]) -> str:
    """Frame numbers as "frame 3", "frames 10 to 14" or "5 frames"."""
    if len(numbers) == 1:
        return f"frame {numbers[0]}"
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"frames {numbers[0]} to {numbers[-1]}" if whole else f"{len(numbers)} frames"


def damage_sentence(facts: dict[str, Any]) -> str:
    """What was done to a clip, from the facts of its `Repair`."""
    choice, count = facts["choice"], facts["count"]
    touched = [index + 1 for index, share in enumerate(facts["touched"]) if share]
    if not touched:
        return "This clip is too short to be broken in this way."
    if choice["task"] == "cube":
        were = "was" if len(touched) == 1 else "were"
        return f"{_capital(frames_words(touched))} of {count} {were} hidden. The model sees the rest."
    if choice["task"] == "speed":
        times = {2: "double", 3: "triple", 4: "four times the"}.get(int(choice["strength"]), "another")
        return f"It plays at {times} speed, forwards and then backwards."
    moved = [piece for piece in facts["pieces"] if piece["origin"] != piece["shown"]]
    return f"It was cut into 4 quarters and 2 halves in time, and {len(moved)} of the 8 pieces were moved."


def repair_sentence(facts: dict[str, Any]) -> str:
    """How well a repair went, in one sentence for everybody; "" for a clip that is not repaired."""
    psnr = facts.get("psnr")
    if not psnr or psnr["restored_hidden"] is None:
        return ""
    before, after, ceiling = (psnr[f"{name}_hidden"] for name in ("given", "restored", "autoencoder"))
    rebuilt = {"cube": "rebuilt them", "speed": "slowed it down again", "tube": "put them back"}[
        facts["choice"]["task"]
    ]
    gained = before is not None and after > before + 0.5
    how = f"The model {rebuilt}" if gained else "The model did not manage"
    limit = f"the model’s own autoencoder reaches {_decibel(ceiling)}; " if ceiling is not None else ""
    return f"{how}: likeness {_decibel(before)} → {_decibel(after)} dB; {limit}{SAME} looks the same."


def speed_sentence(facts: dict[str, Any]) -> str:
    """The speeds that were read back from the frames; "" for other damage and for clips that are not repaired."""
    speed = facts.get("speed")
    if not speed:
        return ""
    if speed["restored"] is None:
        return "The speed of the repair cannot be read back: its frames are too much alike."
    return (
        f"Speed read back from the frames: {speed['given']:.1f}× as the model saw it, {speed['restored']:.1f}× after "
        "the repair."
    )


def outside_sentence(facts: dict[str, Any]) -> str:
    """How well a repair kept what was not damaged; "" where everything was, or nothing is repaired."""
    psnr = facts.get("psnr")
    if not psnr or psnr["restored_outside"] is None:
        return ""
    return (
        f"Where nothing was damaged the repair has {_decibel(psnr['restored_outside'])} dB, "
        f"the autoencoder {_decibel(psnr['autoencoder_outside'])}."
    )


def piece_sentence(piece: dict[str, Any], width: int, height: int) -> str:
    """Where a piece came from and where it is shown."""

    def place(box: list[int]) -> str:
        first, frames, top, _, left, _ = box
        corner = f"{'lower' if top >= height // 2 else 'upper'} {'right' if left >= width // 2 else 'left'}"
        return f"the {corner} of frames {first + 1} to {first + frames}"

    if piece["origin"] == piece["shown"]:
        return f"Piece {piece['number']} stayed at {place(piece['origin'])}."
    return f"Piece {piece['number']} comes from {place(piece['origin'])}; it is shown at {place(piece['shown'])}."


def researchers_sentence(facts: dict[str, Any], token: str) -> str:
    """The damage in the paper's words. token: the task's."""
    choice = facts["choice"]
    return (
        f"Pretext task: {NAMES[choice['task']]}, strength {choice['strength']:g}, seed {choice['seed']}. "
        f"Task token: {token}"
    )


def button(finished: bool, duration: str | None) -> str:
    """The words on the button that repairs. duration: how long it takes, in words, where that is known."""
    words = AGAIN if finished else REPAIR
    return f"{words} · about {duration}" if duration else words


def made_by(model: str) -> str:
    """Whose repair is shown, where it is not that of the app's own model."""
    return f"This repair was made by {model}. Press {REPAIR} to see what this app's model does."


def _decibel(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1f}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
