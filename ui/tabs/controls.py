"""Starts, refuses and stops a job on a page. The tabs share this, because a session has one job at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ui import text
from ui.tabs.progress import alert, notice

Updates = dict[Any, Any]
_STEP_SECONDS = 120  # the longest that a step of the largest model takes
_MARKED = 0.5  # seconds in which the two requests of one click arrive
_PRIVATE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Where:
    """State of a session's job: steps done, and whether it left the queue, was stopped and has ended."""

    step: int = 0
    steps: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class PageState:
    """State that tabs share: the clip in use, the runs of this session, newest first, and a `Where` or None."""

    clip: gr.State
    runs: gr.State
    where: gr.State


@dataclass(frozen=True)
class Controls:
    """The components of a tab that say where its job is."""

    where: gr.State
    progress: gr.HTML
    problem: gr.HTML
    go: gr.Button
    stop: gr.Button

    @property
    def idle(self) -> Updates:
        """The buttons of a tab whose job has ended."""
        return {self.go: gr.Button(visible=True), self.stop: gr.Button("Stop", visible=False, interactive=True)}


def wire_start(triggers: list[Any], controls: Controls) -> Any:
    """Wire what happens at the click, before the job's turn: the page says that it waits and shows Stop.

    Returns the event that the job follows on.
    """

    def wait(at: Where | None) -> Updates:
        if at is not None and not at.ended.is_set():
            raise gr.Error(text.ONE_AT_A_TIME, print_exception=False)
        return {controls.where: Where(), controls.progress: notice(text.WAITING), controls.problem: "",
                controls.go: gr.Button(visible=False), controls.stop: gr.Button(visible=True)}  # fmt: skip

    queued = gr.on(
        triggers, wait, controls.where,
        [controls.where, controls.progress, controls.problem, controls.go, controls.stop],
        trigger_mode="once", **_PRIVATE,
    )  # fmt: skip
    queued.failure(lambda: alert(text.ONE_AT_A_TIME), None, controls.problem, **_PRIVATE)
    return queued


def wire_end(job: Any, controls: Controls, places: int) -> None:
    """Wire the two early ends of a job: the queue of `places` is full, or the user presses Stop.

    Stop waits until the job has ended, which takes one step at most, and then says so.

    """

    def refused(at: Where | None) -> Updates:
        # gradio counts a job that is cancelled while it waits among the failures; Stop marks it at the same moment.
        if at is not None and at.stopped.wait(_MARKED):
            return {controls.problem: gr.skip()}  # gradio takes an empty dict for a missing answer
        if at is not None:
            at.ended.set()
        return controls.idle | {controls.progress: "", controls.problem: alert(text.line_full(places, None))}

    def stopping(at: Where | None) -> gr.Button:
        if at is not None:
            at.stopped.set()
        return gr.Button("Stopping…", interactive=False)

    def stopped(at: Where | None) -> Updates:
        if at is not None and at.started.is_set():
            at.ended.wait(_STEP_SECONDS)
        elif at is not None:
            at.ended.set()  # it never left the queue
        words = text.stopped(at.step, at.steps) if at else text.stopped(0, 0)
        return controls.idle | {controls.progress: notice(words)}

    shown = [controls.progress, controls.problem, controls.go, controls.stop]
    job.failure(refused, controls.where, shown, **_PRIVATE)
    controls.stop.click(stopping, controls.where, controls.stop, **_PRIVATE)
    left = controls.stop.click(None, cancels=[job], **_PRIVATE)  # not chained: a chained event cancels nothing
    left.then(stopped, controls.where, [controls.progress, controls.go, controls.stop], **_PRIVATE)
