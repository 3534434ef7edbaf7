"""The Repair tab: break a clip as in training, at once and without a model, then let the model repair it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sama.model.pretext import PRETEXT_TASKS
from ui import text
from ui.errors import PromptError, sentence
from ui.jobs.jobs import GPU, Jobs, JobStep, Restoration, Restored
from ui.media.clips import PageClip, source_clip
from ui.media.folders import keep, new_folder
from ui.media.limits import MAX_SEED, PROMPT_LENGTH
from ui.media.runs import FinishedEdit
from ui.repair import words
from ui.repair.damage import Break, Damaged, damage
from ui.repair.record import Repair, save_damage, save_repair
from ui.repair.session import Key, PageInput, RepairSession
from ui.repair.shipped import Shipped
from ui.repair.view import repair_view, view_value
from ui.settings import PRESETS
from ui.tabs.controls import Controls, PageState, Updates, Where, wire_end, wire_start
from ui.tabs.progress import ProgressView, alert, notice
from ui.viewer.plan import picture_url

_LAST_STEP = 120
"""Seconds that a stopped job may take to end."""


class RepairTab:
    """Components and wiring of the tab."""

    def __init__(
        self, tab: gr.Tab, jobs: Jobs, examples: list[FinishedEdit], shipped: list[Shipped], session: PageState
    ) -> None:
        self.jobs, self.session = jobs, session
        self.sources = {edit.source for edit in examples}
        self.examples = _different(examples)
        self.shipped = {each.choice.task: each for each in shipped if self._index(each.example) is not None}
        first = next((self.shipped[task] for task in words.TASKS.values() if task in self.shipped), None)
        self.first = first
        self.state = gr.State(self._opening(first))
        gr.HTML(
            f'<p class="repair-intro">{words.INTRO} <span>{words.SUBTITLE}</span></p>',
            elem_id="repair-intro",
        )
        self._build_form(first)
        self.problem = gr.HTML("", elem_classes="field-note", elem_id="repair-problem")
        self.progress = gr.HTML("", elem_id="repair-progress")
        self.view = repair_view(self._value(first.repair) if first else None, elem_id="repair-view")
        with gr.Row(elem_classes="repair-buttons"):
            done = first.repair if first else None
            self.get_film = self._download("↓ Three-panel film", done.film if done else None, "repair-film")
            self.get_table = self._download("↓ Numbers (CSV)", done.table if done else None, "repair-csv")
            self.get_numbers = self._download("↓ Numbers (JSON)", done.numbers_file if done else None, "repair-json")
        self._build_details(first)
        self._wire(tab)

    def _build_form(self, first: Shipped | None) -> None:
        task = first.choice.task if first else next(iter(words.TASKS.values()))
        choices = [words.OWN_CLIP, *(edit.caption.capitalize() or edit.title for edit in self.examples)]
        clip = self._index(first.example) if first else min(1, len(choices) - 1)
        with gr.Row(elem_classes="repair-form"):
            self.clip = gr.Dropdown(
                choices, value=choices[clip or 0], type="index", label="Clip", elem_id="repair-clip", scale=4,
                min_width=200,
            )  # fmt: skip
            self.task = gr.Radio(
                list(words.TASKS.items()), value=task, label="Break it by", elem_id="repair-task", scale=8,
                min_width=300,
            )  # fmt: skip
            self.strength = self._slider(task, first.choice.strength if first else None)
            with gr.Column(scale=4, min_width=200, elem_classes="repair-act"):
                self.go = gr.Button(words.button(first is not None, None), variant="primary", elem_id="repair-go")
                self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="repair-stop")
                self.dice = gr.Button(words.DICE, size="sm", elem_id="repair-dice")

    def _build_details(self, first: Shipped | None) -> None:
        clip = self._index(first.example) if first else min(1, len(self.examples))
        with gr.Accordion(words.DETAILS, open=False), gr.Row(elem_classes="repair-form"):
            self.caption = gr.Textbox(
                self._caption(clip, None), label=words.CAPTION, max_length=PROMPT_LENGTH[1], lines=1, max_lines=2,
                elem_id="repair-caption", scale=4,
            )  # fmt: skip
            self.start = gr.Number(
                first.choice.start if first else 0, label="Start frame", precision=0, minimum=0, min_width=110
            )
            self.seed = gr.Number(
                first.choice.seed if first else 0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED,
                min_width=110, elem_id="repair-seed",
            )  # fmt: skip

    def _wire(self, tab: gr.Tab) -> None:
        form = [self.clip, self.task, self.strength, self.start, self.seed, self.caption, self.session.clip]
        downloads = [self.get_film, self.get_table, self.get_numbers]
        shown = [self.view, self.problem, self.progress, self.go, *downloads]
        fields = [self.clip, self.strength, self.start, self.seed, self.caption]
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        for trigger, act in (
            (self.task.input, self._by_task), (self.clip.input, self._by_clip), (self.dice.click, self._by_dice),
            (tab.select, self._opened),
        ):  # fmt: skip
            trigger(act, [self.state, *form], [*shown, *fields], trigger_mode="always_last", **quick)
        gr.on(
            [self.strength.input, self.start.input, self.seed.input], self._by_number, [self.state, *form], shown,
            trigger_mode="always_last", **quick,
        )  # fmt: skip
        gr.on([tab.select, self.clip.input], self._estimate, [self.state, *form], self.go, queue=False, **quick)
        controls = Controls(self.session.where, self.progress, self.problem, self.go, self.stop)
        queued = wire_start([self.go.click], controls)
        job = queued.success(
            self._repair, [self.session.where, self.state, *form],
            [*shown, self.stop, self.session.where],
            concurrency_id=GPU, concurrency_limit=self.jobs.at_once, trigger_mode="once",
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        wire_end(job, controls, self.jobs.settings.queue_size)
        self.stop.click(self._stopped, [self.session.where, self.state], self.view, queue=False, **quick)

    # --- Breaking ----------------------------------------------------------------------------------------------------

    def _opened(self, state: RepairSession, *form: Any) -> Updates:
        """The tab is looked at: nothing changes, unless there is an own clip that was not offered yet, or nothing."""
        given = PageInput(*form)
        own = given.own
        if own is not None and str(own.path) != state.own and not self._is_example(own):
            state.own, state.chosen = str(own.path), True
            given = replace(given, clip=0, start=0, caption=self._caption(0, own))
            return self._break(state, given) | self._fields(given)
        if state.key is not None:
            return {self.problem: gr.skip()}
        return self._break(state, given) | {self.caption: self._caption(given.clip, own)}

    def _by_task(self, state: RepairSession, *form: Any) -> Updates:
        """Another damage: of the clip that the visitor chose, or of the one whose repair is shipped."""
        given = replace(PageInput(*form), strength=None)
        shipped = self.shipped.get(given.task)
        if shipped is not None and not state.chosen:
            index = self._index(shipped.example)
            given = PageInput(
                index, given.task, words.strength_shown(given.task, shipped.choice.strength), shipped.choice.start,
                shipped.choice.seed, self._caption(index, None), given.own,
            )  # fmt: skip
        return self._break(state, given) | self._fields(given)

    def _by_clip(self, state: RepairSession, *form: Any) -> Updates:
        given = PageInput(*form)
        state.chosen = True
        given = replace(given, start=0, caption=self._caption(given.clip, given.own))
        return self._break(state, given) | {self.start: 0, self.caption: given.caption}

    def _by_dice(self, state: RepairSession, *form: Any) -> Updates:
        given = replace(PageInput(*form), seed=secrets.randbelow(10_000))
        return self._break(state, given) | {self.seed: given.seed}

    def _by_number(self, state: RepairSession, *form: Any) -> Updates:
        return self._break(state, PageInput(*form))

    def _break(self, state: RepairSession, given: PageInput) -> Updates:
        """Show the damage that the form asks for, or its repair where there is one. Nothing where it is shown."""
        cleared: Updates = {self.problem: ""}
        try:
            key = self._key(given)
            if key == state.key:
                return cleared
            repair = self._known(state, key)
            if repair is None:
                repair = save_damage(self._damaged(given), new_folder(), _facts(given, self.jobs))
            state.key, state.shown = key, repair
            return cleared | {self.progress: ""} | self._shown(state, repair)
        except Exception as error:
            state.key = state.shown = None
            return self._shown(state, None) | {self.problem: alert(sentence(error)), self.progress: ""}

    def _known(self, state: RepairSession, key: Key) -> Repair | None:
        """A repair of this damage: of this session, or shipped."""
        if key in state.repaired:
            return state.repaired[key]
        shipped = self.shipped.get(key[1].task)
        if shipped is None or shipped.choice != key[1]:
            return None
        index = self._index(shipped.example)
        return shipped.repair if index and key[0] == str(self.examples[index - 1].source) else None

    def _shown(self, state: RepairSession, repair: Repair | None) -> Updates:
        finished = repair is not None and repair.finished
        return {
            self.view: self._value(repair) if repair else None,
            self.go: gr.Button(words.button(finished, _words_of(state.seconds))),
            **{
                button: gr.DownloadButton(value=str(getattr(repair, name)) if finished else None, visible=finished)
                for button, name in (
                    (self.get_film, "film"),
                    (self.get_table, "table"),
                    (self.get_numbers, "numbers_file"),
                )
            },
        }

    # --- Repairing ---------------------------------------------------------------------------------------------------

    def _estimate(self, state: RepairSession, *form: Any) -> Any:
        given = PageInput(*form)
        try:
            damaged = self._damaged(given)
            state.seconds = self.jobs.restoration_seconds(Restoration(damaged.given, damaged.prefix, "", 0))
        except Exception:  # the run tells what is wrong
            return gr.skip()
        finished = state.shown is not None and state.shown.finished
        return gr.Button(words.button(finished, _words_of(state.seconds)))

    def _repair(self, where: Where, state: RepairSession, *form: Any) -> Iterator[Updates]:
        if where.ended.is_set():  # stopped while it waited
            return
        given = PageInput(*form)
        idle: Updates = {self.go: gr.Button(visible=True), self.stop: gr.Button(visible=False)}
        folder, kept = new_folder(), False
        bar = ProgressView()
        try:
            key, damaged = self._key(given), self._damaged(given)
            facts = _facts(given, self.jobs)
            broken = save_damage(damaged, folder, facts)
            if state.key == key and not (state.shown is not None and state.shown.finished):
                state.shown = broken
            where.started.set()
            yield {self.progress: bar(JobStep("reading"))} | self._while_at_work(state, key, broken, JobStep("reading"))
            order = Restoration(
                damaged.given, damaged.prefix, (given.caption or "").strip(), int(given.seed or 0), clean=damaged.clean
            )
            for event in self.jobs.restore(order):
                keep([folder, key[0]])
                if isinstance(event, Restored):
                    assert event.ceiling is not None  # asked for with the clean clip
                    repair = save_repair(damaged, event.frames, event.ceiling, folder, facts)
                    state.remember(key, repair)
                    kept = True
                    if state.key == key:
                        state.shown = repair
                        yield (
                            self._shown(state, repair)
                            | idle
                            | {
                                self.progress: notice(words.REPAIRED),
                                self.go: gr.Button(words.button(True, _words_of(state.seconds)), visible=True),
                            }
                        )
                    else:
                        yield idle | {self.progress: notice(words.ELSEWHERE)}
                else:
                    yield {
                        self.progress: bar(replace(event, preview=None)),
                        self.session.where: replace(where, step=event.step, steps=event.steps),
                    } | self._while_at_work(state, key, broken, event)
        except Exception as error:
            yield idle | {self.problem: alert(sentence(error)), self.progress: ""} | self._as_it_is(state)
        finally:
            where.ended.set()
            if not kept and not (state.shown is not None and state.shown.folder == folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _while_at_work(self, state: RepairSession, key: Key, broken: Repair, event: JobStep) -> Updates:
        """The view of a job at work; nothing where the visitor looks at something else."""
        if state.key != key:
            return {}
        forming = None if event.preview is None else picture_url(event.preview, quality=80)
        count = f" {event.step}/{event.steps}" if event.step else ""
        said = text.PHASES.get(event.phase, event.phase.capitalize()) + count
        return {self.view: self._value(broken, forming, said)}

    def _stopped(self, where: Where | None, state: RepairSession) -> Any:
        """The view after Stop: without what was forming, when the job has ended."""
        if where is not None and where.started.is_set():
            where.ended.wait(_LAST_STEP)
        return self._as_it_is(state).get(self.view, gr.skip())

    def _as_it_is(self, state: RepairSession) -> Updates:
        return {self.view: self._value(state.shown)} if state.shown is not None else {}

    def _value(self, repair: Repair, forming: str | None = None, progress: str = "") -> dict[str, Any]:
        made_by = repair.facts.get("model", self.jobs.settings.preset)
        other = repair.finished and made_by != self.jobs.settings.preset
        return view_value(repair, forming, progress, words.made_by(PRESETS[made_by].label) if other else "")

    # --- The form ----------------------------------------------------------------------------------------------------

    def _opening(self, first: Shipped | None) -> RepairSession:
        if first is None:
            return RepairSession()
        index = self._index(first.example)
        assert index is not None  # others are left out
        return RepairSession((str(self.examples[index - 1].source), first.choice), first.repair)

    def _index(self, example: str) -> int | None:
        """The place of an example's clip in the choice of clips; 0 is the visitor's own."""
        names = [edit.folder.name for edit in self.examples]
        return names.index(example) + 1 if example in names else None

    def _is_example(self, clip: PageClip) -> bool:
        return clip.path in self.sources

    def _clip(self, given: PageInput) -> PageClip:
        if given.clip:
            return source_clip(self.examples[given.clip - 1])
        if given.own is None:
            raise PromptError(words.NO_CLIP)
        return given.own

    def _key(self, given: PageInput) -> Key:
        strength = words.strength_given(given.task, given.strength)
        return str(self._clip(given).path), Break.of(given.task, given.start, given.seed, strength)

    def _damaged(self, given: PageInput) -> Damaged:
        return damage(self._clip(given), self._key(given)[1], self.jobs.settings.preset)

    def _caption(self, index: int | None, own: PageClip | None) -> str:
        return self.examples[index - 1].caption if index else (own.caption if own else "")

    def _fields(self, given: PageInput) -> Updates:
        choices = self.clip.choices
        return {
            self.clip: choices[given.clip or 0][1],
            self.strength: self._slider(given.task, words.strength_given(given.task, given.strength) or None),
            self.start: given.start,
            self.seed: given.seed,
            self.caption: given.caption,
        }

    @staticmethod
    def _slider(task: str, strength: float | None) -> gr.Slider:
        known = PRETEXT_TASKS[task]
        low, second, *_, high = (words.strength_shown(task, each) for each in known.strengths)
        return gr.Slider(
            low, high, words.strength_shown(task, strength or known.trained), step=second - low,
            label=words.STRENGTHS[task], elem_id="repair-strength", scale=4, min_width=220,
        )  # fmt: skip

    @staticmethod
    def _download(label: str, path: Path | None, elem_id: str) -> gr.DownloadButton:
        return gr.DownloadButton(
            label, str(path) if path else None, size="sm", visible=path is not None, elem_id=elem_id
        )


def _different(examples: list[FinishedEdit]) -> list[FinishedEdit]:
    """The examples whose clips are described differently: several edits may be of one clip."""
    return list({edit.caption or edit.title: edit for edit in reversed(examples)}.values())[::-1]


def _facts(given: PageInput, jobs: Jobs) -> dict[str, Any]:
    return {"caption": (given.caption or "").strip(), "model": jobs.settings.preset}


def _words_of(seconds: float | None) -> str | None:
    return text.duration(seconds) if seconds else None
