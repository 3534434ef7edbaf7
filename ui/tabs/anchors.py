"""The Semantic anchors tab: how an edit was planned, step by step."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.errors import sentence
from ui.media.runs import FinishedEdit
from ui.tabs.edit import PageState, Updates
from ui.viewer import plan_value, plan_view


class AnchorsTab:
    """Components and wiring of the tab."""

    def __init__(self, tab: gr.Tab, examples: list[FinishedEdit], session: PageState) -> None:
        self.examples = examples
        gr.Markdown(text.ANCHORS_INTRO)
        self.choice = gr.Dropdown(
            _choices(examples, []), value="example 0" if examples else None, label="Edit", elem_id="anchors-run"
        )
        self.plan = plan_view(elem_id="plan")
        with gr.Accordion("How to read this", open=False):
            gr.Markdown(text.HOW_TO_READ)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        inputs = [self.choice, session.runs]
        tab.select(self._show, inputs, self.plan, **private)
        self.choice.input(self._show, inputs, self.plan, **private)
        session.runs.change(self._newest, session.runs, [self.choice, self.plan], **private)

    def _show(self, key: str | None, runs: list[FinishedEdit]) -> dict[str, Any] | None:
        kind, _, number = (key or "").partition(" ")
        edits = {"run": runs[::-1], "example": self.examples}.get(kind, [])
        if not number.isdigit() or int(number) >= len(edits):
            return None
        try:
            tokens = edits[int(number)].tokens()
            return {"message": text.NO_RECORD} if tokens is None else plan_value(tokens)
        except Exception as error:
            return {"message": sentence(error)}

    def _newest(self, runs: list[FinishedEdit]) -> Updates:
        if not runs:
            return {self.choice: gr.skip()}  # gradio takes an empty dict for a missing answer
        key = f"run {len(runs) - 1}"
        choices = _choices(self.examples, runs)
        return {self.choice: gr.Dropdown(choices=choices, value=key), self.plan: self._show(key, runs)}


def _choices(examples: list[FinishedEdit], runs: list[FinishedEdit]) -> list[tuple[str, str]]:
    """Labels and keys of the list. Runs come newest first but are numbered from the oldest, so that a key stays
    valid."""
    last = len(runs) - 1
    return [
        *((f"This session: {edit.instruction}", f"run {last - index}") for index, edit in enumerate(runs)),
        *((f"Example: {edit.title}", f"example {index}") for index, edit in enumerate(examples)),
    ]
