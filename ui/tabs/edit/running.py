"""The edit itself: refused at the click, or run in its turn; then its comparison, its poster and its film."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from sama.edit.request import EditRequest
from ui import text
from ui.errors import PromptError, log_failure, sentence
from ui.jobs.jobs import GPU, Edited, Jobs
from ui.media.folders import keep, new_folder
from ui.media.limits import MAX_SEED
from ui.media.runs import FinishedEdit, compose_film, finish, pack, write_poster
from ui.stage.job import JobView, ended, waiting
from ui.tabs.controls import Controls, PageState, Updates, wire_end, wire_start
from ui.tabs.edit.form import Form
from ui.tabs.edit.opening import Opening
from ui.tabs.edit.show import Stage
from ui.tabs.progress import alert, notice

_NOTHING = gr.skip  # gradio takes an empty dict for a missing answer


@dataclass(frozen=True)
class StageControls(Controls):
    """The stage says where the job is; a sentence about its end stands under the form."""

    form: Form | None = None

    @property
    def inputs(self) -> set[Any]:
        assert self.form is not None
        return self.form.inputs

    @property
    def said(self) -> list[Any]:
        assert self.form is not None
        return [self.progress, self.form.note]

    def refuses(self, values: Mapping[Any, Any]) -> str:
        assert self.form is not None
        try:
            self.form.read(values).check()
        except PromptError as error:
            return sentence(error)
        return ""

    def waits(self, values: Mapping[Any, Any]) -> Updates:
        assert self.form is not None
        asked = self.form.read(values)
        return {
            self.progress: waiting(asked.clip, int(asked.start), int(asked.frames), asked.instruction),
            self.form.note: "",
        }

    def ends(self, said: str = "", outcome: str = "") -> Updates:
        assert self.form is not None
        return {self.progress: ended(outcome), self.form.note: notice(said)}


class Running:
    """The job of the tab."""

    def __init__(self, jobs: Jobs, form: Form, stage: Stage, session: PageState, opening: Opening) -> None:
        self.jobs, self.form, self.stage, self.session, self.opening = jobs, form, stage, session, opening
        self.fresh = gr.State(None)
        """The edit that the last run finished, which is not packed yet; None where it finished none."""

    @property
    def inputs(self) -> set[Any]:
        """The components that `run` needs the values of."""
        return self.form.inputs | {self.session.where, self.session.runs, self.stage.shown}

    def wire(self) -> Any:
        """Wire button, job, and what follows it; returns the event of the job."""
        form, stage, session = self.form, self.stage, self.session
        controls = StageControls(
            session.where, stage.job, form.problem, form.go, form.stop, halts=(stage.job.halt,), form=form
        )
        places = self.jobs.settings.queue_size
        queued = wire_start([form.go.click, form.instruction.submit], controls)
        private: dict[str, Any] = {"api_visibility": "private"}
        rows = [self.opening.own, self.opening.row]
        job = queued.success(
            self.run, self.inputs,
            [*stage.outputs, *rows, stage.job, form.problem, form.note, form.go, form.stop, form.seed,
             form.unread, session.runs, session.where, self.fresh],
            concurrency_id=GPU, concurrency_limit=self.jobs.at_once, trigger_mode="once",
            show_progress="minimal", show_progress_on=stage.job, **private,
        )  # fmt: skip
        wire_end(job, controls, places)
        form.then_tell(job)
        # Without a place in the line: it may be full, and a finished edit must not wait for others.
        at_once: dict[str, Any] = private | {"queue": False, "show_progress": "hidden"}
        inputs = [self.fresh, stage.shown, session.runs]
        compared = job.success(self.compare, inputs, [stage.viewer, form.problem, *rows], **at_once)
        compared.success(self.film, inputs, [stage.title, form.problem], **at_once)
        return job

    def run(self, values: Mapping[Any, Any]) -> Iterator[Updates]:
        """Run the edit that the form asks for, in its turn. values: by component, see `inputs`."""
        form, stage, session = self.form, self.stage, self.session
        where, runs, asked = values[session.where], values[session.runs], form.read(values)
        if where.ended.is_set():  # stopped while it waited
            yield {self.fresh: None}
            return
        folder, finished = new_folder(), False
        idle: Updates = {form.go: gr.Button(visible=True), form.stop: gr.Button(visible=False)}
        try:
            request = self._request(values, folder)
            view = JobView()
            where.started.set()
            yield {self.fresh: None}
            for event in self.jobs.edit(request):
                keep([folder, request.video])
                if isinstance(event, Edited):
                    edit = finish(folder, Path(request.video), event.tokens, asked.clip.notices if asked.clip else ())
                    edit = replace(edit, parent=asked.clip.made_by if asked.clip else None)
                    finished = True
                    runs = [edit, *runs]
                    yield idle | stage.show_edit(edit, runs) | self.opening.rows(runs, edit) | {
                        stage.job: ended("done"), session.runs: runs, self.fresh: edit, form.seed: request.seed,
                        form.unread: form.tell_unread(asked.instruction)}  # fmt: skip
                else:
                    yield {stage.job: view(event), session.where: replace(where, step=event.step, steps=event.steps)}
        except Exception as error:
            yield idle | {form.problem: alert(sentence(error)), stage.job: ended(), self.fresh: None}
        finally:
            where.ended.set()
            if not finished:
                shutil.rmtree(folder, ignore_errors=True)

    def _request(self, values: Mapping[Any, Any], folder: Path) -> EditRequest:
        """The edit that is asked for; another version of the one on the stage where that one would come out again."""
        asked = self.form.read(values)
        request = asked.request(self.jobs.settings, folder)
        if asked.repeats(values[self.stage.shown], self.jobs.settings):
            return replace(request, seed=random.randint(0, MAX_SEED))
        return request

    def compare(self, edit: FinishedEdit | None, shown: FinishedEdit | None, runs: list[FinishedEdit]) -> Updates:
        """Pack the fresh result beside its source and make its poster; the result stays if this fails."""
        if edit is None:
            return {self.form.problem: _NOTHING()}
        updates: Updates = {}
        try:
            pack(edit)
            if edit == shown:
                updates[self.stage.viewer] = edit.comparison().value()
            write_poster(edit)
        except Exception as error:
            updates[self.form.problem] = alert(text.no_comparison(log_failure(error)))
        return updates | self.opening.rows(runs, shown)

    def film(self, edit: FinishedEdit | None, shown: FinishedEdit | None, runs: list[FinishedEdit]) -> Updates:
        """Make the film for people, and offer it."""
        if edit is None:
            return {self.form.problem: _NOTHING()}
        try:
            compose_film(edit)
        except Exception as error:
            return {self.form.problem: alert(text.no_film(log_failure(error)))}
        return {self.stage.title: self.stage.titled(edit, runs)} if edit == shown else {self.form.problem: _NOTHING()}
