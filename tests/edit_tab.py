"""The Edit tab without a browser: its components, and what a press of its button yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.jobs.jobs import Jobs
from ui.media.clips import PageClip
from ui.media.runs import FinishedEdit
from ui.tabs.controls import PageState, Where
from ui.tabs.edit import EditTab


def edit_tab(jobs: Jobs, examples: list[FinishedEdit] | None = None) -> tuple[EditTab, PageState]:
    with gr.Blocks():
        session = PageState(gr.State(None), gr.State([]), gr.State(None))
        return EditTab(jobs, examples or [], session), session


def values(tab: EditTab, clip: PageClip | None, instruction: str = "Make it snowy", **choices: Any) -> dict[Any, Any]:
    """The form's values by component, as a handler gets them. choices: of `Choices`; the rest is as the page opens."""
    form = tab.form
    asked = {
        "clip": clip, "instruction": instruction, "start": 0, "frames": clip.frames if clip else 1,
        "seed": 0, "steps": form.steps.value, "guidance": form.guidance.value, "keep_source": "Automatic",
        "detail": "Automatic", "lora": "None", "strength": 1.0, "mask": None, "quality": form.quality.value,
    }  # fmt: skip
    told = {field: (asked | choices)[name] for name, field in form._fields.items()}
    return told | {tab.session.where: Where(), tab.session.runs: [], tab.stage.shown: None}


def press(tab: EditTab, clip: PageClip | None, instruction: str = "Make it snowy", where: Where | None = None,
          shown: FinishedEdit | None = None, **choices: Any) -> Iterator[dict[Any, Any]]:  # fmt: skip
    """A press of the button whose turn has come: what the tab yields."""
    asked = values(tab, clip, instruction, **choices)
    return tab.running.run(asked | {tab.session.where: where or Where(), tab.stage.shown: shown})


def progress(update: dict[Any, Any], tab: EditTab) -> dict[str, Any]:
    """How far the stage says that the job is, in an update."""
    return update[tab.stage.job].props["progress"]
