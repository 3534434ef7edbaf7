"""The title of the stage: the words of what it shows, what came of them, files, and what comes next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from sama.edit.composing.change import told_change
from ui import text
from ui.component import component
from ui.media.clips import PageClip
from ui.media.runs import FinishedEdit
from ui.viewer.viewer import file_data

UNCHANGED = 0.005
"""Share of the picture below which the page says that the model left the clip as it was."""


def title(value: dict[str, Any] | None, **kwargs: Any) -> gr.HTML:
    """The component. Its events: `again` (edit the result), `use` (this clip and these words), `words` (only these),
    `whole` (show all that the model painted), and `back` with the `index` of an earlier run of the chain."""
    return component(Path(__file__), value, **kwargs)


def title_of_clip(clip: PageClip) -> dict[str, Any]:
    """The title while the stage shows a clip that nothing was done to."""
    return {
        "words": text.YOUR_CLIP,
        "spoken": False,
        "facts": clip.facts,
        "strong": "",
        "chain": [],
        "files": [],
        "buttons": [],
    }


def title_of_edit(edit: FinishedEdit, runs: Sequence[FinishedEdit], example: bool) -> dict[str, Any]:
    """The title of a finished edit. runs: of this session, newest first, among which its chain is looked for."""
    changed = edit.settings.get("changed")
    unchanged = changed is not None and changed < UNCHANGED
    stem = file_stem(edit.instruction)
    files = [(text.EDITED_CLIP, f"{stem}.mp4", edit.result), (text.SIDE_BY_SIDE, f"{stem}-side-by-side.mp4", edit.film),
             (text.SETTINGS_FILE, f"{stem}.json", edit.settings_file)]  # fmt: skip
    kept = edit.settings.get("kept_source") or edit.settings.get("kept_detail")
    if unchanged:
        buttons = [("other", text.OTHER_WORDS), *([("whole", text.WHOLE_PICTURE)] if kept and not example else [])]
    else:
        buttons = [] if example else [("again", text.AGAIN)]
    if example:
        buttons += [("use", text.TRY_CLIP), ("words", text.TRY_WORDS)]
    told = told_change(changed) if changed is not None else ""
    strong = text.unchanged(bool(edit.settings.get("mask"))) if unchanged else told
    return {
        "words": edit.instruction,
        "spoken": True,
        "strong": strong[:1].upper() + strong[1:],
        "facts": text.facts_of_edit(edit.settings, edit.frames / edit.fps, example, edit.credit),
        "chain": [{"words": runs[index].instruction, "index": index} for index in chain_of(edit, runs)],
        "files": [{"label": label, "name": name, "file": file_data(path)} for label, name, path in files if path],
        "buttons": [{"event": event, "label": label} for event, label in buttons],
    }


def chain_of(edit: FinishedEdit, runs: Sequence[FinishedEdit]) -> list[int]:
    """The runs that an edit was made from, oldest first, as places in `runs`."""
    places, folder = [], edit.parent
    by_folder = {run.folder: index for index, run in enumerate(runs)}
    while folder in by_folder and by_folder[folder] not in places:
        places.append(by_folder[folder])
        folder = runs[by_folder[folder]].parent
    return places[::-1]


def file_stem(instruction: str, limit: int = 48) -> str:
    """A file name of an instruction's words: "Make it snowy" is "make-it-snowy"; "edit" where no word is left."""
    words = re.findall(r"[^\W_]+", instruction.lower())
    stem = ""
    for word in words:
        if len(stem) + len(word) + 1 > limit:
            break
        stem = f"{stem}-{word}" if stem else word
    return stem or (words[0][:limit] if words else "edit")
