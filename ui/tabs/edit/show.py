"""What the stage shows: a clip, a finished edit, or the job at work."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui import text
from ui.media.clips import PageClip
from ui.media.runs import FinishedEdit
from ui.stage.job import job_stage
from ui.stage.title import title, title_of_clip, title_of_edit
from ui.tabs.controls import Updates
from ui.viewer import Comparison, viewer


class Stage:
    """The dark room: title, viewer, and the job over both while one runs. examples: titled as such."""

    def __init__(self, first: FinishedEdit | None, examples: Sequence[FinishedEdit]) -> None:
        self._examples = {edit.folder for edit in examples}
        self.shown = gr.State(first)
        with gr.Column(elem_id="stage", elem_classes="room"):
            self.title = title(title_of_edit(first, [], example=True) if first else None, elem_id="title")
            self.viewer = viewer(first.comparison() if first else None, elem_id="viewer")
            self.job = job_stage(elem_id="job")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components that change with what is shown."""
        return [self.shown, self.title, self.viewer]

    def show_edit(self, edit: FinishedEdit, runs: Sequence[FinishedEdit]) -> Updates:
        """A finished edit. runs: of this session, newest first."""
        return {self.shown: edit, self.viewer: edit.comparison().value(), self.title: self.titled(edit, runs)}

    def titled(self, edit: FinishedEdit, runs: Sequence[FinishedEdit]) -> dict[str, object]:
        """The title of a finished edit."""
        return title_of_edit(edit, runs, edit.folder in self._examples)

    def show_clip(self, clip: PageClip) -> Updates:
        """A clip that nothing was done to yet."""
        alone = Comparison(
            clip.path, (text.YOUR_CLIP,), clip.fps, clip.frames, sound=clip.sound, compare=(0, 0), mode="panel-0",
            times=clip.times,
        )  # fmt: skip
        return {self.shown: None, self.viewer: alone.value(), self.title: title_of_clip(clip)}
