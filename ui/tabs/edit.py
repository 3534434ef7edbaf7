"""The Edit tab: a clip, an instruction, and the result beside its source."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sama.edit.request import DETAIL, KEEP_SOURCE, EditRequest
from sama.presets import PRESETS, QUALITIES
from ui import text
from ui.drop import chosen_part, drop, drop_value, uploaded_file, wire_busy
from ui.errors import PromptError, log_failure, sentence
from ui.jobs.jobs import GPU, Edited, Jobs, JobStep
from ui.loras import LORA_STRENGTH
from ui.media.clips import PageClip, edited_clip, source_clip, take_upload
from ui.media.folders import keep, new_folder
from ui.media.limits import GUIDANCE, MAX_SEED, PROMPT_LENGTH, STEPS, checked_instruction
from ui.media.masks import beside, over_clip, take_mask
from ui.media.runs import FinishedEdit, compose_film, finish, pack
from ui.tabs.controls import Controls, PageState, Updates, Where, wire_end, wire_start
from ui.tabs.progress import ProgressView, alert, notice
from ui.viewer import viewer
from ui.viewer.plan import picture_url

WHEN = {"Automatic": "auto", "Always": "on", "Never": "off"}


class EditTab:
    """Components and wiring of the tab."""

    def __init__(self, jobs: Jobs, examples: list[FinishedEdit], session: PageState) -> None:
        self.jobs, self.examples, self.session = jobs, examples, session
        self.first = examples[0] if examples else None
        self.shown = gr.State(self.first)
        self.fresh = gr.State(None)
        """The edit that the last run finished, which is not packed yet; None where it finished none."""
        self.mask = gr.State(None)
        """The path of the mask in use, or None."""
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=2, min_width=300, elem_classes="inputs"):
                self._build_inputs()
            with gr.Column(scale=3, min_width=320, elem_classes="stage-column"):
                self._build_outputs()
        self._wire()

    def _build_inputs(self) -> None:
        first = self.first
        clip = source_clip(first) if first else None
        frames = clip.frames if clip else 1
        info = self.jobs.settings.info
        most = info.max_frames
        self.drop = drop(drop_value(clip, most, example=True), guarded="#instruction textarea", elem_id="clip")
        self.start, self.frames = gr.State(0), gr.State(min(frames, most))
        """The part to edit, in frames."""
        self.instruction = gr.Textbox(
            first.instruction if first else "",
            label="What should change?",
            placeholder=text.PLACEHOLDER,
            lines=1,
            max_lines=4,
            max_length=PROMPT_LENGTH[1],
            elem_id="instruction",
        )
        with gr.Row(elem_classes="chips"):
            self.chips = [gr.Button(verb, size="sm", min_width=64) for verb in text.VERBS]
        self.unread = gr.HTML("", elem_classes="field-note", elem_id="unread")
        self._build_lora()
        self.problem = gr.HTML("", elem_classes="field-note")
        with gr.Row():
            self.go = gr.Button("Edit video", variant="primary", elem_id="go")
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
        self.estimate = gr.HTML("", elem_classes="field-note")
        with gr.Accordion("Advanced", open=False):
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
            self.dice = gr.Button("Another seed", size="sm")
            self.quality = gr.Radio(
                self._qualities({}), value=PRESETS[self.jobs.settings.preset].quality, label=text.QUALITY,
                elem_id="quality",
            )  # fmt: skip
            self.steps = gr.Slider(*STEPS, info.steps, step=1, label="Steps", elem_id="steps")
            self.guidance = gr.Slider(*GUIDANCE, info.guidance, step=0.1, label="Guidance")
            self.keep = gr.Radio(
                list(WHEN), value="Automatic", label="Keep the source's own pixels where nothing changes"
            )
            self.detail = gr.Radio(
                list(WHEN), value="Automatic", label="Give the edit the source's fine detail", elem_id="detail"
            )
            self.mask_file = gr.File(label=text.MASK, height=110, elem_id="mask")
            self.mask_note = gr.HTML("", elem_classes="field-note", elem_id="mask-note")

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

    def _build_outputs(self) -> None:
        first = self.first
        self.progress = gr.HTML("", elem_id="progress")
        self.viewer = viewer(first.comparison() if first else None, elem_id="viewer")
        with gr.Row(visible=first is not None, elem_classes="downloads") as self.downloads:
            self.get_result = gr.DownloadButton("↓ Edited clip", _path(first.result if first else None), size="sm")
            film = first.film if first else None
            self.get_film = gr.DownloadButton("↓ Side by side", _path(film), size="sm", visible=film is not None)
            self.get_settings = gr.DownloadButton(
                "↓ Settings", _path(first.settings_file if first else None), size="sm"
            )
            self.again = gr.Button("Edit the result again", size="sm")
        if self.examples:
            gr.HTML(f'<h2 class="section-title">{text.EXAMPLES_TITLE}</h2>')
            self.gallery = gr.Gallery(
                [(str(edit.poster), edit.title) for edit in self.examples],
                label="Finished examples",
                show_label=False,
                columns=4,
                height="auto",
                allow_preview=False,
                object_fit="cover",
                buttons=[],
                interactive=False,
                elem_id="examples",
            )
            credits = text.credits((edit.title, edit.credit) for edit in self.examples)
            gr.HTML(notice(credits), elem_id="credits", visible=bool(credits))

    @property
    def _opened(self) -> list[Any]:
        return [
            self.shown, self.viewer, self.downloads, self.get_result, self.get_film, self.get_settings, self.drop,
            self.session.clip, self.start, self.frames, self.instruction,
            self.seed, self.progress, self.problem, *self._masked,
        ]  # fmt: skip

    @property
    def _masked(self) -> list[Any]:
        return [self.mask, self.mask_file, self.mask_note]

    def _wire(self) -> None:
        clip = self.session.clip
        private: dict[str, Any] = {"api_visibility": "private"}
        range_ = [self.start, self.frames]
        at_once: dict[str, Any] = private | {"queue": False, "show_progress": "hidden"}
        self.drop.upload(
            self._upload, None, [self.drop, clip, *range_, self.problem, *self._masked],
            show_progress="hidden", **private,
        )  # fmt: skip
        self.drop.input(chosen_part, None, range_, **at_once)
        self.drop.clear(self._clear, None, [self.drop, clip, *self._masked], **at_once)
        wire_busy(self.drop, self.go)
        self.mask_file.upload(
            self._take_mask, [self.mask_file, clip], self._masked, **private,
            show_progress="minimal", show_progress_on=self.mask_note,
        )  # fmt: skip
        self.mask_file.clear(lambda: (None, ""), None, [self.mask, self.mask_note], **private, queue=False)
        for chip, words in zip(self.chips, text.VERBS.values(), strict=True):
            chip.click(None, None, self.instruction, js=_write(words), **private)
        self.lora.input(
            self._choose_lora, self.lora, [self.lora, self.strength, self.instruction], **private, queue=False
        )
        self.quality.input(self._choose_quality, self.quality, [self.steps, self.guidance], **private, queue=False)
        self.dice.click(lambda: random.randint(0, MAX_SEED), None, self.seed, **private, queue=False)
        controls = Controls(self.session.where, self.progress, self.problem, self.go, self.stop)
        queued = wire_start([self.go.click, self.instruction.submit], controls)
        job = queued.success(
            self._run,
            [self.session.where, clip, self.instruction, *range_, self.seed, self.steps, self.guidance, self.keep,
             self.detail, self.lora, self.strength, self.session.runs, self.mask, self.quality],
            [self.shown, self.viewer, self.downloads, self.get_result, self.get_film, self.get_settings, self.progress,
             self.problem, self.go, self.stop, self.session.runs, self.session.where, self.unread, self.fresh],
            concurrency_id=GPU, concurrency_limit=self.jobs.at_once, trigger_mode="once",
            show_progress="minimal", show_progress_on=self.progress, **private,
        )  # fmt: skip
        wire_end(job, controls, self.jobs.settings.queue_size)
        # Without a place in the line: it may be full, and a finished edit or an estimate must not wait for others.
        compared = job.success(self._compare, [self.fresh, self.shown], [self.viewer, self.problem], **at_once)
        compared.success(self._film, [self.fresh, self.shown], [self.get_film, self.problem], **at_once)
        self.instruction.change(self._tell_unread, self.instruction, self.unread, trigger_mode="always_last", **at_once)
        self.again.click(
            self._again, self.shown,
            [self.drop, clip, *range_, self.instruction, *self._masked], **private, queue=False,
        )  # fmt: skip
        gr.on(
            None,  # when the page opens, and whenever one of these changes; a finished run has taught how long it takes
            self._tell_estimate,
            [clip, *range_, self.steps, self.guidance, self.keep, self.detail, self.session.runs, self.quality],
            [self.estimate, self.quality],
            trigger_mode="always_last",
            **at_once,
        )
        if self.examples:
            self.gallery.select(self._open_example, None, self._opened, **private, queue=False).then(
                None,
                None,
                None,
                js="() => document.querySelector('#viewer').scrollIntoView({block: 'nearest'})",
                **private,
            )

    def _upload(self, event: gr.EventData) -> Updates:
        try:
            path, ticket = uploaded_file(event)
            clip = take_upload(path)
            return self._show_clip(clip, ticket=ticket) | {self.problem: ""}
        except Exception as error:
            ticket = event._data.get("ticket", 0)
            return {self.drop: drop_value(None, problem=sentence(error), ticket=ticket)}

    def _clear(self) -> Updates:
        return {self.session.clip: None, self.drop: drop_value(None)} | self._no_mask()

    def _no_mask(self) -> Updates:
        return {self.mask: None, self.mask_file: None, self.mask_note: ""}

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

    def _show_clip(self, clip: PageClip, *, example: bool = False, ticket: int = 0) -> Updates:
        most = self.jobs.settings.info.max_frames
        return {
            self.drop: drop_value(clip, most, example=example, ticket=ticket),
            self.session.clip: clip,
            self.start: 0,
            self.frames: min(clip.frames, most),
        } | self._no_mask()

    def _show_result(self, edit: FinishedEdit) -> Updates:
        return {
            self.shown: edit,
            self.viewer: edit.comparison().value(),
            self.downloads: gr.Row(visible=True),
            self.get_result: str(edit.result),
            self.get_film: gr.DownloadButton(value=_path(edit.film), visible=edit.film is not None),
            self.get_settings: str(edit.settings_file),
        }

    def _open_example(self, event: gr.SelectData) -> Updates:
        edit = self.examples[event.index]
        return (
            self._show_clip(source_clip(edit), example=True)
            | self._show_result(edit)
            | {
                self.instruction: edit.instruction,
                self.seed: edit.settings.get("seed", 0),
                self.progress: notice(f"A finished example, made with {self.jobs.settings.info.label}."),
                self.problem: "",
            }
        )

    def _again(self, edit: FinishedEdit | None) -> Updates:
        return self._show_clip(edited_clip(edit)) | {self.instruction: ""} if edit else {}

    def _choose_lora(self, name: str) -> Updates:
        """Show a LoRA's default strength, and put its trigger phrase into the instruction."""
        lora = self.jobs.settings.loras.get(name)
        if lora is None:
            return {self.lora: gr.Dropdown(info="")}
        updates: Updates = {self.lora: gr.Dropdown(info=text.ask_for(lora.trigger)), self.strength: lora.scale}
        return updates | ({self.instruction: lora.trigger} if lora.trigger else {})

    def _request(self, clip: PageClip | None, instruction: str, start: int, frames: int, seed: int, steps: int,
                 guidance: float, keep_source: str, detail: str, folder: Path, lora: str = text.NO_LORA,
                 strength: float = 1.0, mask: Path | None = None,
                 quality: str | None = None) -> EditRequest:  # fmt: skip
        if clip is None:
            raise PromptError(text.NO_CLIP)
        chosen = self.jobs.settings.loras.get(lora)
        return EditRequest(
            video=clip.path,
            instruction=checked_instruction(instruction),
            output=folder / "result.mp4",
            preset=self.jobs.settings.preset,
            seed=min(MAX_SEED, max(0, int(seed or 0))),
            steps=int(steps),
            guidance=float(guidance),
            start=min(int(start), clip.frames - 1),
            frames=max(1, min(int(frames), self.jobs.settings.info.max_frames)),
            keep_source=WHEN.get(keep_source, KEEP_SOURCE[0]),
            detail=WHEN.get(detail, DETAIL[0]),
            device=self.jobs.settings.device,
            lora=() if chosen is None else (chosen.spec(strength),),
            mask=beside(mask, folder),
            quality=quality,
        )

    def _run(self, where: Where, clip: PageClip | None, instruction: str, start: int, frames: int, seed: int,
             steps: int, guidance: float, keep_source: str, detail: str, lora: str, strength: float,
             runs: list[FinishedEdit], mask: Path | None = None,
             quality: str | None = None) -> Iterator[Updates]:  # fmt: skip
        if where.ended.is_set():  # stopped while it waited
            yield {self.fresh: None}
            return
        folder, finished = new_folder(), False
        idle: Updates = {self.go: gr.Button(visible=True), self.stop: gr.Button(visible=False)}
        try:
            request = self._request(
                clip,
                instruction,
                start,
                frames,
                seed,
                steps,
                guidance,
                keep_source,
                detail,
                folder,
                lora,
                strength,
                mask,
                quality,
            )
            view = ProgressView()
            where.started.set()
            yield {self.progress: view(JobStep("reading")), self.fresh: None}
            for event in self.jobs.edit(request):
                keep([folder, request.video])
                if isinstance(event, Edited):
                    edit = finish(folder, Path(request.video), event.tokens, clip.notices if clip else ())
                    finished = True
                    done = notice(text.done(event.seconds, request.seed, edit.settings))
                    yield idle | self._show_result(edit) | {
                        self.progress: done, self.session.runs: [edit, *runs], self.fresh: edit,
                        self.unread: self._tell_unread(instruction)}  # fmt: skip
                else:
                    yield {
                        self.progress: view(event),
                        self.session.where: replace(where, step=event.step, steps=event.steps),
                    }
        except Exception as error:
            yield idle | {self.problem: alert(sentence(error)), self.progress: "", self.fresh: None}
        finally:
            where.ended.set()
            if not finished:
                shutil.rmtree(folder, ignore_errors=True)

    def _compare(self, edit: FinishedEdit | None, shown: FinishedEdit | None) -> Updates:
        """Pack the fresh result beside its source for the viewer. The result stays if this fails."""
        nothing = {self.problem: gr.skip()}  # gradio takes an empty dict for a missing answer
        if edit is None:
            return nothing
        try:
            pack(edit)
            return {self.viewer: edit.comparison().value()} if edit == shown else nothing
        except Exception as error:
            return {self.problem: alert(text.no_comparison(log_failure(error)))}

    def _film(self, edit: FinishedEdit | None, shown: FinishedEdit | None) -> Updates:
        nothing = {self.problem: gr.skip()}
        if edit is None:
            return nothing
        try:
            film = compose_film(edit)
            return {self.get_film: gr.DownloadButton(value=str(film), visible=True)} if edit == shown else nothing
        except Exception as error:
            return {self.problem: alert(text.no_film(log_failure(error)))}

    def _tell_unread(self, instruction: str) -> str:
        rest = self.jobs.unread(instruction or "")
        return notice(text.not_read(rest, self.jobs.read_tokens)) if rest else ""

    def _tell_estimate(self, clip: PageClip | None, start: int, frames: int, steps: int, guidance: float,
                       keep_source: str, detail: str, _runs: list[FinishedEdit],
                       quality: str | None = None) -> Updates:  # fmt: skip
        """How long an edit takes as it is set, and at each quality."""
        if clip is None:
            return {self.estimate: ""}
        request = self._request(
            clip, "estimate", start, frames, 0, steps, guidance, keep_source, detail, Path(), quality=quality
        )
        seconds = self.jobs.estimate(request)
        each = {
            name: self.jobs.estimate(replace(request, quality=name, steps=None, guidance=None)) for name in QUALITIES
        }
        return {
            self.estimate: notice(f"About {text.duration(seconds)}.") if seconds else "",
            self.quality: gr.Radio(choices=self._qualities(each)),
        }

    def _qualities(self, seconds: Mapping[str, float | None]) -> list[tuple[str, str]]:
        """The choices of a quality, each with its time where that is known."""
        preset = PRESETS[self.jobs.settings.preset]
        return [(text.quality_choice(name, preset.qualities[name].said, seconds.get(name)), name) for name in QUALITIES]

    def _choose_quality(self, quality: str) -> Updates:
        """Set steps and guidance as the quality says; they may be changed afterwards."""
        settings = self.jobs.settings
        sampling = PRESETS[settings.preset].qualities[quality]
        return {
            self.steps: sampling.steps or settings.info.steps,
            self.guidance: settings.info.guidance if sampling.guidance is None else sampling.guidance,
        }


def _write(words: str) -> str:
    """JavaScript that fills the instruction with `words` and puts the cursor behind them."""
    return (
        f"() => {{ setTimeout(() => document.querySelector('#instruction textarea')?.focus(), 50); return {words!r}; }}"
    )


def _path(path: Path | None) -> str | None:
    return str(path) if path else None
