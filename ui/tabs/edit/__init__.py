"""The Edit tab: a clip, an instruction, and the result beside its source."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.jobs.jobs import Jobs
from ui.media.clips import source_clip
from ui.media.runs import FinishedEdit
from ui.tabs.controls import PageState, Updates
from ui.tabs.edit.form import Form
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
        self.opening.wire()
        self.running.wire()

    @property
    def mask(self) -> gr.State:
        """The path of the mask in use, or None."""
        return self.form.mask

    def wire_load(self, page: gr.Blocks) -> None:
        """Wire what happens when the page opens: what the browser kept comes back, and the time of an edit is told."""
        form = self.form
        private: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        kept = gr.BrowserState(None, storage_key="sama-form", secret="sama-form")
        fields = form.remembered
        gr.on([field.input for field in fields], None, fields, kept, js="(...values) => values", **private)
        page.load(
            None, [kept, *fields], fields,
            js="(kept, ...values) => Array.isArray(kept) && kept.length === values.length ? kept : values", **private,
        ).then(form.tell, form.inputs | {form.shown}, [form.estimate, form.quality, form.go], **private)  # fmt: skip
