"""The prompt bar and the settings: clip, instruction, suggestions, quality, the button, and what is seldom needed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from sama.presets import PRESETS, QUALITIES
from ui import text
from ui.drop import chosen_part, drop, drop_value, wire_busy
from ui.errors import sentence
from ui.jobs.jobs import Jobs
from ui.loras import LORA_STRENGTH
from ui.media.clips import PageClip
from ui.media.limits import GUIDANCE, MAX_SEED, PROMPT_LENGTH, STEPS
from ui.media.masks import over_clip, take_mask
from ui.media.runs import FinishedEdit
from ui.stage.ideas import ideas, ideas_for
from ui.tabs.controls import Updates
from ui.tabs.edit.choices import WHEN, Choices
from ui.tabs.progress import alert, notice
from ui.viewer.plan import picture_url

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}


class Form:
    """The components that say what is asked for.

    clip: the session's clip in use. shown: the edit on the stage. first: the clip at the beginning, an example's.
    """

    def __init__(self, jobs: Jobs, clip: gr.State, shown: gr.State, first: PageClip | None) -> None:
        self.jobs, self.clip, self.shown = jobs, clip, shown
        self.mask = gr.State(None)
        """The path of the mask in use, or None."""
        most = jobs.settings.info.max_frames
        self.start = gr.State(0)
        self.frames = gr.State(min(first.frames, most) if first else 1)
        with gr.Row(elem_id="prompt", elem_classes="prompt"):
            with gr.Column(elem_id="slot", min_width=0):
                self.drop = drop(drop_value(first, most, example=True), guarded="#instruction textarea", elem_id="clip")
            with gr.Column(elem_id="say", min_width=0):
                self.instruction = gr.Textbox(
                    "", label=text.WORDS, placeholder=text.PLACEHOLDER, lines=1, max_lines=3,
                    max_length=PROMPT_LENGTH[1], elem_id="instruction", container=False, show_label=False,
                )  # fmt: skip
                self.ideas = ideas(ideas_for(first), elem_id="ideas")
                self.unread = gr.HTML("", elem_classes="field-note", elem_id="unread")
            with gr.Column(elem_id="ask", min_width=0):
                self.quality = gr.Radio(
                    self._qualities({}), value=jobs.settings.quality, label=text.QUALITY,
                    elem_id="quality", container=False, show_label=False,
                )  # fmt: skip
                self.go = gr.Button(text.GO, variant="primary", elem_id="go")
                self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
        with gr.Column(elem_id="answer", min_width=0):
            self.problem = gr.HTML("", elem_classes="field-note", elem_id="problem")
            self.note = gr.HTML("", elem_classes="field-note", elem_id="note")

    def build_settings(self) -> None:
        """Build what is seldom needed, where it is to stand."""
        steps, guidance = self._sampling(self.jobs.settings.quality)
        self.estimate = gr.HTML("", elem_classes="field-note", elem_id="estimate")
        with gr.Row(elem_classes="fields"):
            with gr.Column(min_width=260):
                self.seed = gr.Number(
                    0, label=text.VARIATION, precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed",
                    info=text.VARIATION_INFO,
                )  # fmt: skip
                self.dice = gr.Button(text.NEW_VARIATION, size="sm")
                self.steps = gr.Slider(*STEPS, steps, step=1, label="Steps", info=text.STEPS_INFO, elem_id="steps")
                self.guidance = gr.Slider(
                    *GUIDANCE, guidance, step=0.1, label="Guidance", info=text.GUIDANCE_INFO, elem_id="guidance"
                )
            with gr.Column(min_width=260):
                self.keep = gr.Radio(
                    list(WHEN), value="Automatic", label=text.KEEP, info=text.KEEP_INFO, elem_id="keep"
                )
                self.detail = gr.Radio(list(WHEN), value="Automatic", label=text.DETAIL, elem_id="detail")
                self._build_lora()
            with gr.Column(min_width=260):
                self.mask_file = gr.File(label=text.MASK, height=110, elem_id="mask")
                self.mask_note = gr.HTML("", elem_classes="field-note", elem_id="mask-note")
                # No file types: gradio would refuse another file in its own words, and as an error of the page.
                self.load = gr.UploadButton(text.LOAD_SETTINGS, size="sm", elem_id="load-settings")

    def _build_lora(self) -> None:
        """The choice of a LoRA; visible only where the app was started with one."""
        loras = self.jobs.settings.loras
        first = next(iter(loras.values()), None)
        with gr.Row(visible=first is not None):
            self.lora = gr.Dropdown(
                [text.NO_LORA, *loras], value=first.name if first else text.NO_LORA, label="LoRA",
                info=text.ask_for(first.trigger) if first else None, elem_id="lora",
            )  # fmt: skip
            self.strength = gr.Slider(*LORA_STRENGTH, first.scale if first else 1.0, step=0.05, label="Strength")

    @property
    def _fields(self) -> dict[str, Any]:
        """The components by the names of `Choices`."""
        return {
            "clip": self.clip, "instruction": self.instruction, "start": self.start, "frames": self.frames,
            "seed": self.seed, "steps": self.steps, "guidance": self.guidance, "keep_source": self.keep,
            "detail": self.detail, "lora": self.lora, "strength": self.strength, "mask": self.mask,
            "quality": self.quality,
        }  # fmt: skip

    @property
    def inputs(self) -> set[Any]:
        """The components that `read` needs the values of."""
        return set(self._fields.values())

    @property
    def remembered(self) -> list[Any]:
        """The fields that a browser keeps for the next visit."""
        return [self.instruction, self.quality, self.seed, self.steps, self.guidance, self.keep, self.detail]

    def read(self, values: Mapping[Any, Any]) -> Choices:
        """What is asked for. values: by component."""
        return Choices(**{name: values[field] for name, field in self._fields.items()})

    def wire(self, runs: gr.State) -> None:
        """Wire what needs no job. runs: the edits of this session; each has taught how long one takes."""
        self.then_tell(self.drop.input(chosen_part, None, [self.start, self.frames], **_PRIVATE))
        wire_busy(self.drop, self.go)
        self.mask_file.upload(
            self._take_mask, [self.mask_file, self.clip], self.masked, api_visibility="private",
            show_progress="minimal", show_progress_on=self.mask_note,
        )  # fmt: skip
        self.mask_file.clear(lambda: (None, ""), None, [self.mask, self.mask_note], **_PRIVATE)
        self.lora.input(self._choose_lora, self.lora, [self.lora, self.strength, self.instruction], **_PRIVATE)
        self.quality.input(self._choose_quality, self.quality, [self.steps, self.guidance], **_PRIVATE)
        self.dice.click(lambda: random.randint(0, MAX_SEED), None, self.seed, **_PRIVATE)
        self.instruction.change(
            self._tell_words, self.inputs | {self.shown}, [self.unread, self.go], trigger_mode="always_last", **_PRIVATE
        )
        gr.on(
            [runs.change, self.mask_file.upload, *(
                field.change
                for field in (self.seed, self.steps, self.guidance, self.keep, self.detail, self.quality, self.lora)
            )], **self._telling, trigger_mode="always_last",
        )  # fmt: skip

    @property
    def _telling(self) -> dict[str, Any]:
        return {
            "fn": self.tell, "inputs": self.inputs | {self.shown}, "outputs": [self.estimate, self.quality, self.go],
        } | _PRIVATE  # fmt: skip

    def then_tell(self, event: Any) -> None:
        """Tell time and button anew after an event that changes clip, part or stage: outside the queue, gradio reports
        no change of a State."""
        event.then(**self._telling)

    @property
    def masked(self) -> list[Any]:
        """The components of the mask."""
        return [self.mask, self.mask_file, self.mask_note]

    @property
    def of_clip(self) -> list[Any]:
        """The components that change with the clip."""
        return [self.drop, self.clip, self.start, self.frames, self.ideas, *self.masked]

    def show_clip(self, clip: PageClip | None, *, example: bool = False, ticket: int = 0) -> Updates:
        """The form with another clip, all of it chosen, or with none."""
        most = self.jobs.settings.info.max_frames
        value = drop_value(clip, most, example=example, ticket=ticket) if clip else drop_value(None)
        return {
            self.drop: value, self.clip: clip, self.start: 0, self.frames: min(clip.frames, most) if clip else 1,
            self.ideas: ideas_for(clip),
        } | self._no_mask()  # fmt: skip

    def tell(self, values: Mapping[Any, Any]) -> Updates:
        """How long an edit takes as it is set, and at each quality; and what the button does."""
        choices, shown = self.read(values), values[self.shown]
        request = choices.estimated(self.jobs.settings)
        if request is None:
            return {self.estimate: "", self.go: self.named(choices, shown)}
        seconds = self.jobs.estimate(request)
        each = {
            name: self.jobs.estimate(replace(request, quality=name, steps=None, guidance=None)) for name in QUALITIES
        }
        return {
            self.estimate: notice(text.takes(seconds)) if seconds else "",
            self.quality: gr.Radio(choices=self._qualities(each)),
            self.go: self.named(choices, shown),
        }

    def named(self, choices: Choices, shown: FinishedEdit | None) -> gr.Button:
        """The button: it makes an edit, or another version of the one that is shown."""
        return gr.Button(text.VERSION if choices.repeats(shown, self.jobs.settings) else text.GO)

    def _tell_words(self, values: Mapping[Any, Any]) -> Updates:
        choices = self.read(values)
        return {self.unread: self.tell_unread(choices.instruction), self.go: self.named(choices, values[self.shown])}

    def tell_unread(self, instruction: str) -> str:
        """HTML of what of an instruction the model does not read; "" where it reads all."""
        rest = self.jobs.unread(instruction or "")
        return notice(text.not_read(rest, self.jobs.read_tokens)) if rest else ""

    def _take_mask(self, path: str | None, clip: PageClip | None) -> Updates:
        """Check a mask, and show on the clip what it leaves."""
        if not path:
            return self._no_mask()
        try:
            mask = take_mask(path)
            picture = picture_url(over_clip(mask, clip)) if clip else ""
        except Exception as error:
            return self._no_mask() | {self.mask_note: alert(sentence(error))}
        shown = f'<img src="{picture}" alt="{text.MASK_SHOWN}">{notice(text.MASK_SHOWN)}' if picture else ""
        return {self.mask: mask, self.mask_note: shown}

    def _no_mask(self) -> Updates:
        return {self.mask: None, self.mask_file: None, self.mask_note: ""}

    def _choose_lora(self, name: str) -> Updates:
        """Show a LoRA's default strength, and put its trigger phrase into the instruction."""
        lora = self.jobs.settings.loras.get(name)
        if lora is None:
            return {self.lora: gr.Dropdown(info="")}
        updates: Updates = {self.lora: gr.Dropdown(info=text.ask_for(lora.trigger)), self.strength: lora.scale}
        return updates | ({self.instruction: lora.trigger} if lora.trigger else {})

    def _qualities(self, seconds: Mapping[str, float | None]) -> list[tuple[str, str]]:
        """The choices of a quality, each with its time where that is known."""
        return [(text.quality_choice(name, seconds.get(name)), name) for name in QUALITIES]

    def _choose_quality(self, quality: str) -> Updates:
        """Set steps and guidance as the quality says; they may be changed afterwards."""
        steps, guidance = self._sampling(quality)
        return {self.steps: steps, self.guidance: guidance}

    def _sampling(self, quality: str) -> tuple[int, float]:
        """Steps and guidance of a quality."""
        settings = self.jobs.settings
        sampling = PRESETS[settings.preset].qualities[quality]
        guidance = settings.info.guidance if sampling.guidance is None else sampling.guidance
        return sampling.steps or settings.info.steps, guidance
