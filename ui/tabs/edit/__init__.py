"""The Edit tab: a clip, an instruction, and the result beside its source."""

from __future__ import annotations

import gradio as gr

from ui.jobs.jobs import Jobs
from ui.media.clips import source_clip
from ui.media.runs import FinishedEdit
from ui.tabs.controls import PageState, Updates
from ui.tabs.edit.form import Form
from ui.tabs.edit.memory import Memory
from ui.tabs.edit.opening import Opening
from ui.tabs.edit.running import Running
from ui.tabs.edit.show import Stage

__all__ = ["EditTab", "PageState", "Updates"]


class EditTab:
    """Components and wiring of the tab."""

    def __init__(self, jobs: Jobs, examples: list[FinishedEdit], session: PageState) -> None:
        self.session = session
        first = examples[0] if examples else None
        with gr.Column(elem_id="first-screen"):
            self.stage = Stage(first, examples)
            self.form = Form(jobs, session.clip, self.stage.shown, source_clip(first) if first else None)
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self.form.build_settings()
        self.opening = Opening(self.form, self.stage, session, examples)
        self.running = Running(jobs, self.form, self.stage, session, self.opening)
        self.form.wire(session.runs)
        self._opened = self.opening.wire()
        self._job = self.running.wire()

    @property
    def mask(self) -> gr.State:
        """The path of the mask in use, or None."""
        return self.form.mask

    def wire_load(self, page: gr.Blocks) -> None:
        """Wire what happens when the page opens: what the browser kept comes back, and the time of an edit is told."""
        memory = Memory(self.form, self.stage, self.session, self.opening)
        memory.wire(page, [*self._opened, self._job])
