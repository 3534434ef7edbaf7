"""Rows of cards that open a finished edit: the examples, and the edits of this session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ui.component import component
from ui.media.runs import FinishedEdit
from ui.viewer.viewer import file_data


def cards(value: dict[str, Any] | None, **kwargs: Any) -> gr.HTML:
    """A row; its value is by `cards_value`. Its events: `pick` with the card's `index`, and `clear`."""
    return component(Path(__file__), value, **kwargs)


def cards_value(
    edits: Sequence[FinishedEdit],
    title: str,
    shown: FinishedEdit | None,
    notes: Sequence[str] = (),
    clear: bool = False,
) -> dict[str, Any]:
    """The edits with their words, in order; the one that the stage shows is marked. notes: a line under each."""
    current = [index for index, edit in enumerate(edits) if shown is not None and edit.folder == shown.folder]
    return {
        "title": title,
        "clear": clear,
        "current": current[0] if current else None,
        "cards": [
            {
                "picture": file_data(edit.poster) if edit.poster.is_file() else None,
                "words": edit.instruction,
                "note": notes[index] if index < len(notes) else "",
            }
            for index, edit in enumerate(edits)
        ],
    }
