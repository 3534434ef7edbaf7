"""Starts, refuses and stops a job on a page. The tabs share this, because a session has one job at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
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
    """The components of a tab that say where its job is. halts: what stops the job beside the button.

    A tab whose `progress` is no place for words overrides `waits` and `ends`.
    """

    where: gr.State
    progress: gr.HTML
    problem: gr.HTML
    go: gr.Button
    stop: gr.Button
    halts: tuple[Callable[..., Any], ...] = ()

    @property
    def inputs(self) -> set[Any]:
        """The components whose values `refuses` and `waits` need."""
        return set()

    @property
    def said(self) -> list[Any]:
        """The components that `waits` and `ends` change."""
        return [self.progress]

    def refuses(self, _values: Mapping[Any, Any]) -> str:
        """A sentence for what cannot be run, "" for none. It takes no place in the line."""
        return ""

    def waits(self, _values: Mapping[Any, Any]) -> Updates:
        """What the tab shows from the click on, until the job's turn comes."""
        return {self.progress: notice(text.WAITING)}

    def ends(self, said: str = "", outcome: str = "") -> Updates:  # noqa: ARG002
        """What the tab shows of a job that ended early. said: a sentence. outcome: "stopped", or ""."""
        return {self.progress: notice(said)}

    @property
    def idle(self) -> Updates:
        """The buttons of a tab whose job has ended."""
        return {self.go: gr.Button(visible=True), self.stop: gr.Button("Stop", visible=False, interactive=True)}


class Start:
    """The event that a job follows on: a click that was accepted.

    Its ticket is a component, because gradio tells nobody of a State that an event outside the queue has changed.
    """

    def __init__(self) -> None:
        self.ticket = gr.HTML(
            0, html_template="", js_on_load="watch('value', () => trigger('accepted'))", elem_classes="unseen"
        )
        self.success = self.ticket.accepted


def wire_start(triggers: list[Any], controls: Controls) -> Start:
    """Wire what happens at the click, before the job's turn: it is refused, or the page says that it waits.

    A refusal takes no place in the line, and is no error of the page: it changes no ticket, and only a new ticket
    starts the job.
    """
    start = Start()
    ticket = start.ticket

    def wait(values: Mapping[Any, Any]) -> Updates:
        at = values[controls.where]
        problem = text.ONE_AT_A_TIME if at is not None and not at.ended.is_set() else controls.refuses(values)
        if problem:
            return {controls.problem: alert(problem)}
        return controls.waits(values) | {
            controls.where: Where(), controls.problem: "", ticket: int(values[ticket] or 0) + 1,
            controls.go: gr.Button(visible=False), controls.stop: gr.Button(visible=True),
        }  # fmt: skip

    gr.on(
        triggers, wait, controls.inputs | {controls.where, ticket},
        [controls.where, controls.problem, controls.go, controls.stop, ticket, *controls.said],
        trigger_mode="once", **_PRIVATE,
    )  # fmt: skip
    return start


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
        return controls.idle | controls.ends() | {controls.problem: alert(text.line_full(places, None))}

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
        return controls.idle | controls.ends(words, outcome="stopped")

    shown = [*controls.said, controls.problem, controls.go, controls.stop]
    job.failure(refused, controls.where, shown, **_PRIVATE)
    for press in (controls.stop.click, *controls.halts):  # one by one: gr.on takes no event of a gr.HTML's own
        press(stopping, controls.where, controls.stop, **_PRIVATE)
        left = press(None, cancels=[job], **_PRIVATE)  # not chained: a chained event cancels nothing
        left.then(stopped, controls.where, [*controls.said, controls.go, controls.stop], **_PRIVATE)
