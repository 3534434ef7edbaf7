"""The Pretext tab: damage a clip as in training, at once and without a model, then let the model restore it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from sama.presets import canvas_of
from sama.shapes import TEMPORAL_FACTOR, nearest_bucket
from sama.video import pack_side_by_side, read_clip
from ui import text
from ui.errors import PromptError, sentence
from ui.jobs.jobs import GPU, Jobs, JobStep, Restoration, Restored
from ui.media.clips import PageClip, source_clip
from ui.media.folders import new_folder
from ui.media.limits import MAX_SEED, PRETEXT_FRAMES, PROMPT_LENGTH
from ui.media.runs import FinishedEdit
from ui.tabs.controls import Controls, PageState, Updates, Where, wire_end, wire_start
from ui.tabs.progress import ProgressView, alert, notice
from ui.viewer import Comparison, viewer

SHOWN_FPS = 8
"""Frames per second on the page: 17 frames at their own rate are over before one has looked."""
OWN_CLIP = "Your clip"
PANELS = ("Clean", "Given to the model", "Restored")


@dataclass(frozen=True)
class Damaged:
    """A clip before and after. clean, given: (T, H, W, 3) uint8; hidden: (T, H, W) bool, what was taken or moved."""

    clean: np.ndarray
    given: np.ndarray
    hidden: np.ndarray
    prefix: str
    detail: dict[str, Any]


def damage(clip: PageClip, task: str, start: int, seed: int, preset: str) -> Damaged:
    """Damage the first 4k+1 frames from `start` (at most 17), in the model's size, as the task does."""
    import torch

    from sama.model.pretext import PRETEXT_TASKS

    start = max(0, min(int(start), clip.frames - 1))
    count = (min(PRETEXT_FRAMES, clip.frames - start) - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
    bucket = nearest_bucket(clip.width, clip.height, canvas_of(preset).buckets)
    clean = read_clip(clip.path, start, count, size=(bucket.width, bucket.height))
    chosen = PRETEXT_TASKS[task]
    done = chosen.perturb(torch.from_numpy(clean), torch.Generator().manual_seed(int(seed)))
    return Damaged(clean, done.frames.numpy(), done.hidden.numpy(), chosen.prefix, done.detail)


def clip_psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 clips (T, H, W, 3), overall or where a mask (T, H, W) holds.

    Infinite for equal pixels, NaN for an empty mask.
    """
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    chosen = error if where is None else error[where]
    if not chosen.size:
        return float("nan")
    mean = float(chosen.mean())
    return float("inf") if mean == 0 else float(10 * np.log10(255.0**2 / mean))


def scores(damaged: Damaged, restored: np.ndarray) -> dict[str, float]:
    """PSNR in dB of what was given and of what was restored, in the hidden part and overall."""
    return {
        "given_hidden": clip_psnr(damaged.clean, damaged.given, damaged.hidden),
        "restored_hidden": clip_psnr(damaged.clean, restored, damaged.hidden),
        "given_overall": clip_psnr(damaged.clean, damaged.given),
        "restored_overall": clip_psnr(damaged.clean, restored),
    }


def compare_restored(damaged: Damaged, folder: Path, restored: np.ndarray | None = None) -> Comparison:
    """The clips side by side in one file."""
    panels = [damaged.clean, damaged.given] + ([] if restored is None else [restored])
    path = folder / "packed.mp4"
    pack_side_by_side(panels, path, SHOWN_FPS)
    return Comparison(
        path, PANELS[: len(panels)], SHOWN_FPS, len(damaged.clean), compare=(0, len(panels) - 1), mode="side"
    )


class PretextTab:
    """Components and wiring of the tab."""

    def __init__(self, tab: gr.Tab, jobs: Jobs, examples: list[FinishedEdit], session: PageState) -> None:
        self.jobs, self.examples, self.session = jobs, examples, session
        gr.Markdown(text.PRETEXT_INTRO)
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=2, min_width=300, elem_classes="inputs"):
                choices = [OWN_CLIP, *(edit.title for edit in examples)]
                self.clip = gr.Dropdown(
                    choices, value=choices[min(1, len(choices) - 1)], type="index", label="Clip", elem_id="pretext-clip"
                )
                self.task = gr.Radio(list(text.TASKS), value=next(iter(text.TASKS)), label="Damage", elem_id="task")
                self.note = gr.HTML("", elem_classes="field-note")
                self.caption = gr.Textbox(
                    "", label="What the clip shows (optional)", max_length=PROMPT_LENGTH[1], lines=1, max_lines=3
                )
                with gr.Accordion("Advanced", open=False):
                    self.start = gr.Number(0, label="Start frame", precision=0, minimum=0)
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                self.problem = gr.HTML("", elem_classes="field-note")
                self.go = gr.Button("Restore", variant="primary", elem_id="restore")
                self.stop = gr.Button("Stop", variant="stop", visible=False)
            with gr.Column(scale=3, min_width=320, elem_classes="stage-column"):
                self.progress = gr.HTML("", elem_id="pretext-progress")
                self.viewer = viewer(empty=text.EMPTY_PRETEXT, elem_id="pretext-viewer")
                self.scores = gr.Markdown("", elem_id="scores")
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        private: dict[str, Any] = {"api_visibility": "private"}
        inputs = [self.clip, self.task, self.start, self.seed, self.session.clip]
        gr.on(
            [tab.select, self.clip.change, self.task.change, self.start.change, self.seed.change],
            self._damage, inputs, [self.viewer, self.note, self.problem, self.scores, self.progress],
            show_progress="hidden", trigger_mode="always_last", **private,
        )  # fmt: skip
        self.clip.change(self._caption, [self.clip, self.session.clip], self.caption, queue=False, **private)
        controls = Controls(self.session.where, self.progress, self.problem, self.go, self.stop)
        queued = wire_start([self.go.click], controls)
        job = queued.success(
            self._restore, [self.session.where, *inputs, self.caption],
            [self.viewer, self.progress, self.problem, self.scores, self.go, self.stop, self.session.where],
            concurrency_id=GPU, concurrency_limit=self.jobs.at_once, trigger_mode="once",
            show_progress="minimal", show_progress_on=self.progress, **private,
        )  # fmt: skip
        wire_end(job, controls, self.jobs.settings.queue_size)

    def _chosen(self, index: int | None, own: PageClip | None) -> PageClip:
        if index:
            return source_clip(self.examples[index - 1])
        if own is None:
            raise PromptError("Upload a clip in the Edit tab first, or choose an example.")
        return own

    def _caption(self, index: int | None, own: PageClip | None) -> str:
        return self.examples[index - 1].caption if index else (own.caption if own else "")

    def _damage(self, index: int | None, task: str, start: int, seed: int, own: PageClip | None) -> Updates:
        name = text.TASKS[task]
        cleared = {self.problem: "", self.scores: "", self.progress: "", self.note: notice(text.TASK_NOTES[name])}
        try:
            damaged = damage(self._chosen(index, own), name, start or 0, seed or 0, self.jobs.settings.preset)
            return cleared | {self.viewer: compare_restored(damaged, new_folder()).value()}
        except Exception as error:
            return cleared | {self.viewer: None, self.problem: alert(sentence(error))}

    def _restore(
        self, where: Where, index: int | None, task: str, start: int, seed: int, own: PageClip | None, caption: str
    ) -> Iterator[Updates]:
        if where.ended.is_set():  # stopped while it waited
            return
        idle: Updates = {self.go: gr.Button(visible=True), self.stop: gr.Button(visible=False)}
        folder, kept = new_folder(), False
        view = ProgressView()
        try:
            damaged = damage(
                self._chosen(index, own), text.TASKS[task], start or 0, seed or 0, self.jobs.settings.preset
            )
            where.started.set()
            yield {self.progress: view(JobStep("reading"))}
            order = Restoration(damaged.given, damaged.prefix, (caption or "").strip(), int(seed or 0))
            for event in self.jobs.restore(order):
                if isinstance(event, Restored):
                    comparison = compare_restored(damaged, folder, event.frames)
                    kept = True
                    yield idle | {
                        self.viewer: comparison.value(),
                        self.scores: psnr_table(scores(damaged, event.frames)),
                        self.progress: notice("Restored."),
                    }
                else:
                    yield {
                        self.progress: view(event),
                        self.session.where: replace(where, step=event.step, steps=event.steps),
                    }
        except Exception as error:
            yield idle | {self.problem: alert(sentence(error)), self.progress: ""}
        finally:
            where.ended.set()
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)


def psnr_table(values: dict[str, float]) -> str:
    """The scores as a Markdown table."""

    def words(value: float) -> str:
        return "exact" if value == float("inf") else "n/a" if value != value else f"{value:.1f} dB"

    return (
        "| PSNR against the clean clip | as given | restored |\n|---|---|---|\n"
        f"| in the hidden part | {words(values['given_hidden'])} | {words(values['restored_hidden'])} |\n"
        f"| overall | {words(values['given_overall'])} | {words(values['restored_overall'])} |"
    )
