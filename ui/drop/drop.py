"""The slot of a clip as a component: its value, its events, and what the page does while a file is on its way.

The script sends a file to gradio's own upload route, which checks its size, and then triggers `upload` with the path
that it got. Other events: `input` when a part was chosen, `clear` when the clip was removed, `sending` and `settled`
around the time in which a file is sent and prepared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from ui import text
from ui.errors import PromptError
from ui.media.clips import PageClip
from ui.media.filmstrip import filmstrip
from ui.media.folders import is_uploaded
from ui.media.limits import CLIP_FILES, CLIP_TYPES, MAX_UPLOAD
from ui.viewer.viewer import file_data

_HERE = Path(__file__).parent


def drop(value: dict[str, Any] | None = None, **kwargs: Any) -> gr.HTML:
    """A slot for a clip; its value is `drop_value(...)`. The whole page takes dropped and pasted files for it."""
    return gr.HTML(
        value or drop_value(None),
        html_template=(_HERE / "drop.html").read_text("utf-8"),
        css_template=(_HERE / "drop.css").read_text("utf-8"),
        js_on_load=(_HERE / "drop.js").read_text("utf-8"),
        apply_default_css=False,
        words=text.DROP_WORDS,
        suffixes=list(CLIP_FILES),
        types=list(CLIP_TYPES),
        most_bytes=MAX_UPLOAD,
        **kwargs,
    )


def drop_value(
    clip: PageClip | None, most: int = 1, *, example: bool = False, problem: str = "", ticket: int = 0
) -> dict[str, Any]:
    """The value that shows a clip, or an empty slot for None.

    most: frames that can be edited at once; the part starts as the first of them.
    example: whether the clip is not the visitor's.
    problem: a sentence about the last file; with no clip, one that is shown already stays.
    ticket: of the upload that this answers.
    """
    value: dict[str, Any] = {"clip": None, "problem": problem, "ticket": ticket}
    if clip is None:
        return value
    poster, strip, cells = filmstrip(clip)
    seconds = clip.frames / clip.fps
    return value | {
        "clip": {
            "video": file_data(clip.path),
            "poster": poster,
            "strip": strip,
            "cells": cells,
            "frames": clip.frames,
            "fps": clip.fps,
            "times": list(clip.times),
            "seconds": round(clip.times[-1] + 1 / clip.fps if clip.times else seconds, 3),
            "aspect": round(clip.width / clip.height, 4),
            "name": text.EXAMPLE_CLIP if example else text.YOUR_CLIP,
            "example": example,
            "facts": clip.facts,
            "detail": text.clip_frames(clip.frames, clip.fps),
            "part": {"start": clip.part.start, "of": clip.part.of} if clip.part else None,
            "notices": [*([text.part_limit(most, clip.fps)] if clip.frames > most else []), *clip.notices],
        },
        "most": most,
    }


def uploaded_file(event: gr.EventData) -> tuple[Path, int]:
    """The file of an `upload` event, and its ticket. Raises PromptError for anything that no visitor uploaded here."""
    path, ticket = event._data.get("path"), event._data.get("ticket")
    if not isinstance(path, str) or not is_uploaded(path):
        raise PromptError(text.UPLOAD_LOST)
    return Path(path), ticket if isinstance(ticket, int) else 0


def asked_start(event: gr.EventData) -> float:
    """The second of a long file from which an `upload` event asks for it; 0 unless the visitor chose one."""
    return float(_whole(event._data.get("start"), 0))


def chosen_part(event: gr.EventData) -> tuple[int, int]:
    """The first frame and the number of frames of an `input` event, both in range of a clip of any length."""
    start, frames = event._data.get("start"), event._data.get("frames")
    return max(0, _whole(start, 0)), max(1, _whole(frames, 1))


def wire_busy(slot: gr.HTML, go: gr.Button) -> None:
    """Say on the button that a clip is being prepared, and keep it from being pressed meanwhile."""
    ready = json.dumps({"__type__": "update", "value": go.value, "interactive": True})
    busy = json.dumps({"__type__": "update", "value": text.PREPARING, "interactive": False})
    private: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    slot.sending(None, None, go, js=f"() => ({busy})", **private)
    slot.settled(None, None, go, js=f"() => ({ready})", **private)


def _whole(number: Any, otherwise: int) -> int:
    return int(number) if isinstance(number, int | float) and abs(number) < 2**31 else otherwise
