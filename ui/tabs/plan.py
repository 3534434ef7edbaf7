"""The Plan tab: what a run's semantic anchors mean to change, step by step, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui import text
from ui.errors import sentence
from ui.media.folders import new_folder
from ui.media.runs import FinishedEdit
from ui.media.tokens import Tokens
from ui.media.towers import PlanReader
from ui.tabs.edit import PageState, Updates
from ui.viewer import plan_value, plan_view


class PlanTab:
    """Components and wiring of the tab."""

    def __init__(self, tab: gr.Tab, examples: list[FinishedEdit], session: PageState, reader: PlanReader) -> None:
        self.examples, self.reader = examples, reader
        gr.Markdown(text.PLAN_INTRO)
        self.choice = gr.Dropdown(
            _choices(examples, []), value="example 0" if examples else None, label="Plan of", elem_id="plan-run"
        )
        self.read = gr.Button(text.READ_PLAN, visible=False, elem_id="read-plan")
        self.plan = plan_view(elem_id="plan")
        with gr.Row(elem_classes="downloads"):
            self.npz = gr.DownloadButton("Tokens (npz)", visible=False, elem_id="plan-npz")
            self.csv = gr.DownloadButton("Table (CSV)", visible=False, elem_id="plan-csv")
        with gr.Accordion("How to read this", open=False):
            gr.Markdown(text.HOW_TO_READ)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        inputs, shown = [self.choice, session.runs], [self.plan, self.read, self.npz, self.csv]
        self.seen = gr.State(0)
        """How many runs there were when the choice was last set: a newer one is shown first."""
        newest = [self.choice, self.seen, *shown]
        tab.select(self._select, [*inputs, self.seen], newest, **private)
        self.choice.input(self._show, inputs, shown, **private)
        self.read.click(self._read, inputs, shown, concurrency_limit=1, **private)
        session.runs.change(self._newest, session.runs, newest, **private)

    def _select(self, key: str | None, runs: list[FinishedEdit], seen: int) -> Updates:
        """What the tab shows when it is opened, possibly before it was told of a run that has just ended."""
        return self._newest(runs) if len(runs) > seen else self._show(key, runs)

    def _show(self, key: str | None, runs: list[FinishedEdit]) -> Updates:
        edit = self._edit(key, runs)
        if edit is None:
            return self._said(None)
        try:
            tokens = edit.tokens()
            if tokens is None:
                return self._said(text.NO_RECORD)
            if tokens.source is None or tokens.result is None:
                offer = self.reader.tower is not None
                return self._said(text.needs_tower(self.reader.tower)) | {self.read: gr.Button(visible=offer)}
            return self._shown(edit, tokens)
        except Exception as error:
            return self._said(sentence(error))

    def _read(self, key: str | None, runs: list[FinishedEdit]) -> Iterator[Updates]:
        edit = self._edit(key, runs)
        if edit is None:
            yield self._said(None)
            return
        yield self._said(text.READING)
        try:
            yield self._shown(edit, self.reader.read(edit))
        except Exception as error:
            yield self._said(sentence(error)) | {self.read: gr.Button(visible=True)}

    def _edit(self, key: str | None, runs: list[FinishedEdit]) -> FinishedEdit | None:
        kind, _, number = (key or "").partition(" ")
        edits = {"run": runs[::-1], "example": self.examples}.get(kind, [])
        return edits[int(number)] if number.isdigit() and int(number) < len(edits) else None

    def _shown(self, edit: FinishedEdit, tokens: Tokens) -> Updates:
        from ui.media.plan import PlanFacts  # with torch, which the page does not need to open

        facts = PlanFacts.of(tokens)
        table = (new_folder() if edit in self.examples else edit.folder) / "plan.csv"
        table.write_text(facts.csv(), "utf-8")
        return {
            self.plan: plan_value(edit, facts),
            self.read: gr.Button(visible=False),
            self.npz: gr.DownloadButton(value=edit.folder / "tokens.npz", visible=True),
            self.csv: gr.DownloadButton(value=table, visible=True),
        }

    def _said(self, words: str | None) -> Updates:
        """Words in the plan's place; None for the invitation."""
        return {
            self.plan: {"message": words} if words else None,
            self.read: gr.Button(visible=False),
            self.npz: gr.DownloadButton(visible=False),
            self.csv: gr.DownloadButton(visible=False),
        }

    def _newest(self, runs: list[FinishedEdit]) -> Updates:
        if not runs:
            return {self.choice: gr.skip()}  # gradio takes an empty dict for a missing answer
        key = f"run {len(runs) - 1}"
        choices = _choices(self.examples, runs)
        shown = {self.choice: gr.Dropdown(choices=choices, value=key), self.seen: len(runs)}
        return shown | self._show(key, runs)


def _choices(examples: list[FinishedEdit], runs: list[FinishedEdit]) -> list[tuple[str, str]]:
    """Labels and keys of the list. Runs come newest first but are numbered from the oldest, so that a key stays
    valid."""
    last = len(runs) - 1
    return [
        *((f"This session: {edit.instruction}", f"run {last - index}") for index, edit in enumerate(runs)),
        *((f"Example: {edit.instruction}", f"example {index}") for index, edit in enumerate(examples)),
    ]
