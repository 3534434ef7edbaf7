"""What opens on the stage and in the form: an upload, an example, an edit of this session, and settings from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from sama.edit.request import DETAIL, KEEP_SOURCE
from sama.presets import QUALITIES
from ui import text
from ui.drop import asked_start, drop_value, uploaded_file
from ui.errors import PromptError, sentence
from ui.media.clips import edited_clip, source_clip, take_upload
from ui.media.limits import GUIDANCE, MAX_SEED, PROMPT_LENGTH, STEPS
from ui.media.runs import FinishedEdit
from ui.stage.cards import cards, cards_value
from ui.tabs.controls import PageState, Updates
from ui.tabs.edit.choices import WHEN
from ui.tabs.edit.form import Form
from ui.tabs.edit.show import Stage
from ui.tabs.progress import alert, notice

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
_MAX_SETTINGS = 100_000  # bytes of a file of settings


class Opening:
    """The rows of examples and of this session, and what opens from them, from a file, or from the title's buttons."""

    def __init__(self, form: Form, stage: Stage, session: PageState, examples: list[FinishedEdit]) -> None:
        self.form, self.stage, self.session, self.examples = form, stage, session, examples
        self.own = cards(None, elem_id="session")
        first = examples[0] if examples else None
        self.row = cards(cards_value(examples, text.EXAMPLES_TITLE, first), elem_id="examples")
        credits = text.credits((edit.title, edit.credit) for edit in examples)
        gr.HTML(notice(credits), elem_id="credits", visible=bool(credits))

    def wire(self) -> list[Any]:
        """Wire all that opens something; returns the events that leave another clip or other edits."""
        form, stage, session = self.form, self.stage, self.session
        shown, runs = stage.shown, session.runs
        opened = [*stage.outputs, self.row, self.own, form.note, form.problem]
        settings = [form.instruction, form.quality, form.seed, form.steps, form.guidance, form.keep, form.detail,
                    form.note, form.problem]  # fmt: skip
        events = [
            form.drop.upload(
                self.upload, runs, [*form.of_clip, *stage.outputs, form.problem, self.row, self.own],
                show_progress="hidden", api_visibility="private",
            ),
            form.drop.clear(lambda: form.show_clip(None), None, form.of_clip, **_PRIVATE),
            self.row.pick(self._open_example, runs, opened, **_PRIVATE),
            self.own.pick(self._open_run, runs, opened, **_PRIVATE),
            stage.title.back(self._open_run, runs, opened, **_PRIVATE),
            stage.title.again(
                self.again, [shown, form.instruction], [*form.of_clip, form.instruction, form.note], **_PRIVATE
            ),
            stage.title.use(self._use, shown, [*form.of_clip, form.instruction, form.seed], **_PRIVATE),
            form.load.upload(self._load, form.load, settings, **_PRIVATE),
        ]  # fmt: skip
        for event in events:
            form.then_tell(event)
        cleared = self.own.clear(lambda: {runs: []} | self.rows([], None), None, [runs, self.own, self.row], **_PRIVATE)
        stage.title.words(lambda edit: edit.instruction if edit else gr.skip(), shown, form.instruction, **_PRIVATE)
        stage.title.whole(lambda: "Never", None, form.keep, **_PRIVATE).success(
            None, js="() => setTimeout(() => document.querySelector('#go').click(), 50)", **_PRIVATE
        )
        return [*events, cleared]

    def rows(self, runs: list[FinishedEdit], shown: FinishedEdit | None) -> Updates:
        """The cards of this session and of the examples; the one that the stage shows is marked."""
        notes = [text.card_note(edit.settings) for edit in runs]
        return {
            self.own: cards_value(runs, text.SESSION_TITLE, shown, notes, clear=True),
            self.row: cards_value(self.examples, text.EXAMPLES_TITLE, shown),
        }

    def upload(self, event: gr.EventData, runs: list[FinishedEdit]) -> Updates:
        """Take an uploaded file as the clip in use, and show it. A refusal keeps the clip that was there."""
        try:
            path, ticket = uploaded_file(event)
            clip = take_upload(path, asked_start(event))
        except Exception as error:
            return {self.form.drop: drop_value(None, problem=sentence(error), ticket=event._data.get("ticket", 0))}
        return (
            self.form.show_clip(clip, ticket=ticket)
            | self.stage.show_clip(clip)
            | {self.form.problem: ""}
            | self.rows(runs, None)
        )

    def _open_example(self, event: gr.EventData, runs: list[FinishedEdit]) -> Updates:
        return self._open(self.examples, event, runs)

    def _open_run(self, event: gr.EventData, runs: list[FinishedEdit]) -> Updates:
        return self._open(runs, event, runs)

    def _open(self, edits: list[FinishedEdit], event: gr.EventData, runs: list[FinishedEdit]) -> Updates:
        """Show an edit on the stage; clip and words of the form stay."""
        index = event._data.get("index")
        if not isinstance(index, int) or not 0 <= index < len(edits):
            return {self.form.note: gr.skip()}
        edit = edits[index]
        return self.stage.show_edit(edit, runs) | {
            self.form.note: "", self.form.problem: "",
        } | self.rows(runs, edit)  # fmt: skip

    def again(self, edit: FinishedEdit | None, instruction: str) -> Updates:
        """Take the result as the clip; words that belong to it are done and go, others stay."""
        if edit is None:
            return {self.form.note: gr.skip()}
        words = "" if instruction.strip() == edit.instruction else instruction
        return self.form.show_clip(edited_clip(edit)) | {
            self.form.instruction: words, self.form.note: notice(text.next_edit(edit.instruction)),
        }  # fmt: skip

    def _use(self, edit: FinishedEdit | None) -> Updates:
        if edit is None:
            return {self.form.instruction: gr.skip()}
        return self.form.show_clip(source_clip(edit), example=True) | {
            self.form.instruction: edit.instruction, self.form.seed: edit.settings.get("seed", 0),
        }  # fmt: skip

    def _load(self, path: str | None) -> Updates:
        """Set the form as a file of settings says; a clip is not part of it."""
        try:
            told = _settings_of(path)
        except PromptError as error:
            return {self.form.problem: alert(sentence(error))}
        form = self.form
        names = {key: name for name, key in WHEN.items()}
        return {
            form.instruction: told["instruction"][: PROMPT_LENGTH[1]],
            form.quality: told["quality"] if told.get("quality") in QUALITIES else gr.skip(),
            form.seed: int(_within(told.get("seed"), (0, MAX_SEED), 0)),
            form.steps: _within(told.get("steps"), STEPS, gr.skip()),
            form.guidance: _within(told.get("guidance"), GUIDANCE, gr.skip()),
            form.keep: names.get(str(told.get("keep_source")), names[KEEP_SOURCE[0]]),
            form.detail: names.get(str(told.get("detail")), names[DETAIL[0]]),
            form.note: notice(text.SETTINGS_LOADED),
            form.problem: "",
        }


def _settings_of(path: str | None) -> Mapping[str, Any]:
    """The content of a file of settings. Raises PromptError with a sentence for one that is none."""
    try:
        if path is None or Path(path).stat().st_size > _MAX_SETTINGS:
            raise ValueError("too large")
        told = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(text.NO_SETTINGS) from error
    if not isinstance(told, dict) or not isinstance(told.get("instruction"), str):
        raise PromptError(text.NO_SETTINGS)
    return told


def _within(value: Any, limits: tuple[float, float], otherwise: Any) -> Any:
    """A number within its limits; `otherwise` for what is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return min(limits[1], max(limits[0], value)) if number else otherwise
