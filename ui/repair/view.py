"""The view of a repair: three panels and four rows of frames under one playhead. Drawn in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from sama.model.pretext import PRETEXT_TASKS
from ui.repair import words
from ui.repair.record import ERROR_RANGE, PANELS, SHOWN_FPS, Repair
from ui.viewer.viewer import file_data

_HERE = Path(__file__).parent


def repair_view(value: dict[str, Any] | None = None, **kwargs: Any) -> gr.HTML:
    """A view; its value is `view_value(repair)`, or None for an invitation."""
    return gr.HTML(
        value,
        html_template=(_HERE / "view.html").read_text("utf-8"),
        css_template=(_HERE / "view.css").read_text("utf-8"),
        js_on_load=(_HERE / "view.js").read_text("utf-8"),
        apply_default_css=False,
        empty=words.EMPTY,
        **kwargs,
    )


def view_value(repair: Repair, forming: str | None = None, progress: str = "", note: str = "") -> dict[str, Any]:
    """The view's value. forming: while the model works, a data URL of what it is making: one picture below the other,
    of the first frame and of every four frames after it. progress: how far it is, in words. note: one more sentence."""
    facts = repair.facts
    names = ["original", "seen"] + ["repaired", "error"] * repair.finished
    width, height = facts["width"], facts["height"]
    return {
        "sheets": {name: file_data(repair.sheet(name)) for name in names},
        "panels": list(PANELS),
        "fps": SHOWN_FPS,
        "range": ERROR_RANGE,
        **{name: facts[name] for name in ("width", "height", "count", "columns", "touched", "sources")},
        "task": facts["choice"]["task"],
        "strength": facts["choice"]["strength"],
        "opens": opening_frame(facts["touched"]),
        "pieces": [piece | {"words": words.piece_sentence(piece, width, height)} for piece in facts["pieces"]],
        "read": [frame.get("restored_shows") for frame in facts.get("frames", ())],
        "likeness": [frame["restored_psnr"] for frame in facts.get("frames", ())],
        "errors": [frame["error"] for frame in facts.get("frames", ())],
        "damage": words.damage_sentence(facts),
        "result": words.repair_sentence(facts),
        "more": [line for line in (words.speed_sentence(facts), words.outside_sentence(facts), note) if line],
        "psnr": facts.get("psnr"),
        "task_words": words.researchers_sentence(facts, PRETEXT_TASKS[facts["choice"]["task"]].prefix),
        "forming": forming,
        "progress": progress,
        "waiting": words.WAITING,
    }


def opening_frame(touched: list[float]) -> int:
    """The frame to open at: the one in the middle of those that were touched most."""
    most = [index for index, share in enumerate(touched) if share == max(touched)]
    return most[len(most) // 2]
