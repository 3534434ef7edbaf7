"""What a browser keeps of a visit, so that a reload loses nothing: words, settings, clip and edits.

Clip and edits stay on the server. The browser keeps the names of their folders: 128 random bits, which nobody guesses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sama.errors import VideoError
from sama.video import probe
from ui.media.clips import PageClip
from ui.media.folders import job_folder, keep
from ui.media.runs import FinishedEdit
from ui.tabs.controls import PageState, Updates
from ui.tabs.edit.form import Form
from ui.tabs.edit.opening import Opening
from ui.tabs.edit.show import Stage

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_MOST = 24  # edits
_CLIPS = ("clip.mp4", "result.mp4")


class Memory:
    """The two notes in the browser, and what comes back from them."""

    def __init__(self, form: Form, stage: Stage, session: PageState, opening: Opening) -> None:
        self.form, self.stage, self.session, self.opening = form, stage, session, opening
        self.words = gr.BrowserState(None, storage_key="sama-form", secret="sama-form")
        self.own = gr.BrowserState(None, storage_key="sama-own", secret="sama-own")
        # No State: its value would be the server's at that moment, not the page's when the field changed.
        self.opened = gr.HTML("", html_template="", elem_classes="unseen")
        """Not empty from the moment on that the fields hold what the browser kept."""

    def wire(self, page: gr.Blocks, events: list[Any]) -> None:
        """Wire the notes. events: those after which clip or edits are others."""
        form, fields = self.form, self.form.remembered
        gr.on(
            [field.change for field in fields], self.note_words, [self.opened, self.words, *fields], self.words,
            trigger_mode="always_last", **_PRIVATE, queue=False,
        )  # fmt: skip
        for event in events:
            event.then(
                self.note_all, [self.session.clip, self.session.runs, self.words, *fields], [self.own, self.words],
                **_PRIVATE, queue=False,
            )  # fmt: skip
        # Not at the load itself: gradio reads what the browser kept only then.
        recalled = page.load(None, js="() => {}", **_PRIVATE, queue=False).then(
            self.recall_words, [self.words, *fields], [self.opened, *fields], **_PRIVATE, queue=False,
        ).then(  # in the queue: a State that changes outside it is told to nobody, and other tabs show the runs, too
            self.recall, self.own,
            [*form.of_clip, *self.stage.outputs, self.session.runs, self.opening.own, self.opening.row], **_PRIVATE,
        )  # fmt: skip
        form.then_tell(recalled)

    def recall_words(self, kept: Any, *now: Any) -> list[Any]:
        """The fields as the browser kept them, after a word for `opened`."""
        return ["yes", *(kept if isinstance(kept, list) and len(kept) == len(now) else [gr.skip()] * len(now))]

    def note_words(self, opened: str, kept: Any, *values: Any) -> Any:
        """What the browser is to keep of the form; nothing at first: a form that opens empty changes, too."""
        return self.note_form(kept, *values) if opened else gr.skip()

    def note_form(self, kept: Any, *values: Any) -> Any:
        """What the browser is to keep of the form."""
        return gr.skip() if kept == list(values) else list(values)

    def note(self, clip: PageClip | None, runs: list[FinishedEdit]) -> dict[str, Any]:
        """What the browser is to keep of clip and edits."""
        own = clip is not None and clip.path.name in _CLIPS and job_folder(clip.path.parent.name) is not None
        made_by = clip.made_by.name if own and clip is not None and clip.made_by else None
        return {
            "clip": [clip.path.parent.name, clip.path.name, made_by] if own and clip is not None else None,
            "runs": [[run.folder.name, run.parent.name if run.parent else None] for run in runs[:_MOST]],
        }

    def note_all(
        self, clip: PageClip | None, runs: list[FinishedEdit], kept: Any, *values: Any
    ) -> tuple[dict[str, Any], Any]:
        """What the browser is to keep of clip and edits, and of the form."""
        return self.note(clip, runs), self.note_form(kept, *values)

    def recall(self, noted: Any) -> Updates:
        """The clip and the edits that a browser kept, as far as they are still here."""
        noted = noted if isinstance(noted, dict) else {}
        pairs = noted.get("runs")
        runs = [run for pair in (pairs if isinstance(pairs, list) else [])[:_MOST] if (run := _run(pair)) is not None]
        clip = _clip(noted.get("clip"))
        keep([*(run.folder for run in runs), *([clip.path] if clip else [])])
        updates: Updates = {self.session.runs: runs}
        if clip is not None:
            updates |= self.form.show_clip(clip)
        if runs:
            updates |= self.stage.show_edit(runs[0], runs) | self.opening.rows(runs, runs[0])
        elif clip is not None:
            updates |= self.stage.show_clip(clip) | self.opening.rows([], None)
        return updates


def _run(pair: Any) -> FinishedEdit | None:
    """An edit by the names of its folder and of its parent's; None for what is no edit or is gone."""
    if not isinstance(pair, list) or len(pair) != 2 or (folder := job_folder(pair[0])) is None:
        return None
    with suppress(OSError, ValueError, KeyError, VideoError):
        return replace(FinishedEdit.load(folder), parent=job_folder(pair[1]))
    return None


def _clip(place: Any) -> PageClip | None:
    """A clip by the name of its folder and its own; None for what is no clip or is gone."""
    if not isinstance(place, list) or len(place) != 3 or place[1] not in _CLIPS:
        return None
    folder: Path | None = job_folder(place[0])
    if folder is None:
        return None
    with suppress(OSError, ValueError, VideoError):
        return replace(PageClip.of(probe(folder / place[1])), made_by=job_folder(place[2]))
    return None
