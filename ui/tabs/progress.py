"""HTML of a job's progress and of messages at a field. All text from outside is escaped."""

from __future__ import annotations

import html
import time

import numpy as np

from ui import text
from ui.jobs.jobs import JobStep
from ui.viewer.plan import picture_url

_PREVIEW_SECONDS = 0.5


def alert(message: str) -> str:
    """HTML of a message that a screen reader speaks at once; "" for no message."""
    return f'<p class="alert" role="alert">{html.escape(message)}</p>' if message else ""


def notice(message: str) -> str:
    """HTML of a message that a screen reader speaks when it is idle; "" for no message."""
    return f'<p class="notice" role="status">{html.escape(message)}</p>' if message else ""


class ProgressView:
    """HTML of the progress of one job; the preview changes at most twice a second."""

    def __init__(self) -> None:
        self._preview = ""
        self._shown = -1e9

    def __call__(self, step: JobStep) -> str:
        self._take(step.preview)
        words = text.PHASES.get(step.phase, step.phase.capitalize())
        if step.phase == "waiting":
            words = text.place_in_line(step.ahead, step.wait)
        if step.steps and step.phase in ("planning", "painting", "restoring"):
            words += f" {step.step}/{step.steps}"
        if step.windows > 1:
            words += f", part {max(1, step.window)} of {step.windows}"
        left = f"about {text.duration(step.seconds_left)} left" if step.seconds_left is not None else ""
        total = step.steps * step.windows
        share = (max(0, step.window - 1) * step.steps + step.step) / total if total else 0.0
        image = f'<img src="{self._preview}" alt="Preview of the edited clip">' if self._preview else ""
        return (
            f'<div class="progress" data-step="{step.step}" data-phase="{html.escape(step.phase)}">{image}'
            f'<div><p role="status"><b>{html.escape(words)}</b> <span>{left}</span></p>'
            f'<div class="track" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.0f}%"></i></div></div></div>'
        )

    def _take(self, preview: np.ndarray | None) -> None:
        now = time.monotonic()
        if preview is not None and now - self._shown >= _PREVIEW_SECONDS:
            self._preview, self._shown = picture_url(preview, quality=75), now
