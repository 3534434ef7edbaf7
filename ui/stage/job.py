"""The job as the stage shows it: the clip, the picture as it forms, phases, and the time that is left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ui import text
from ui.component import component
from ui.jobs.jobs import JobStep
from ui.media.clips import PageClip
from ui.viewer.plan import picture_url
from ui.viewer.viewer import file_data

_PREVIEW_SECONDS = 0.4
IDLE: dict[str, Any] = {"state": "idle"}


def job_stage(**kwargs: Any) -> gr.HTML:
    """The component; it is hidden while no job runs. Its events: `halt`, a press of Stop on the stage."""
    return component(
        Path(__file__), None, progress=IDLE, phases=list(text.STAGE_PHASES.items()), next=text.NEXT_IN_LINE,
        meanwhile=text.MEANWHILE, **kwargs,
    )  # fmt: skip


def waiting(clip: PageClip | None, start: int, frames: int, instruction: str) -> gr.HTML:
    """The update at the click: the part of the clip that is edited plays, and the job waits for its turn."""
    about = None
    if clip is not None:
        about = {
            "clip": file_data(clip.path),
            "from": start / clip.fps,
            "to": min(clip.frames, start + frames) / clip.fps,
            "aspect": round(clip.width / clip.height, 4),
            "words": instruction,
            "what": text.part(start / clip.fps, min(clip.frames, start + frames) / clip.fps, clip.frames / clip.fps),
        }
    return gr.HTML(value=about, progress={"state": "waiting"})


def ended(outcome: str = "") -> gr.HTML:
    """The update when a job is over. outcome: "done", "stopped" or "" for a failure."""
    return gr.HTML(progress=IDLE | {"outcome": outcome})


class JobView:
    """Updates of the component from the events of one job; the preview changes at most every 0.4 seconds."""

    def __init__(self) -> None:
        self._shown = -1e9

    def __call__(self, step: JobStep) -> gr.HTML:
        if step.phase == "waiting":
            where = text.place_in_line(step.ahead, step.wait)
            return gr.HTML(progress={"state": "waiting", "ahead": step.ahead, "words": where})
        total = step.steps * step.windows
        name = text.STAGE_PHASES.get(step.phase) or text.PHASES.get(step.phase, step.phase.capitalize())
        counted = step.step and step.phase == "painting"
        words = text.painting(step.step, step.steps, step.window, step.windows) if counted else name
        return gr.HTML(
            progress={
                "state": "working",
                "phase": step.phase,
                "step": step.step,
                "words": words,
                "spoken": name if step.windows < 2 or not counted else f"{name}, part {step.window} of {step.windows}",
                "left": step.seconds_left,
                "share": (max(0, step.window - 1) * step.steps + step.step) / total if total else 0.0,
                "preview": self._preview(step.preview),
                "region": None if step.region is None else [round(float(cell), 2) for cell in step.region.flat],
            }
        )

    def _preview(self, preview: np.ndarray | None) -> str | None:
        """A picture as an address, or None to keep the one that is shown."""
        now = time.monotonic()
        if preview is None or now - self._shown < _PREVIEW_SECONDS:
            return None
        self._shown = now
        return picture_url(preview, quality=80)
