"""The work of each kind of job on a pipeline, as generators that yield every denoising step.

They run where the pipeline is: here, on a GPU that ZeroGPU lends, or in a worker. What they yield crosses a process, so
it is small and can be pickled.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sama.edit.request import EditRequest
from ui.media.tokens import Tokens

if TYPE_CHECKING:
    from sama.edit import EditResult
    from sama.pipeline import SamaPipeline


@dataclass(frozen=True)
class JobStep:
    """Progress of a job: `step` of `steps` in `window` of `windows`, counted from 1; 0 before the first.

    seconds_left is None until it can be told; preview is (H, W, 3) uint8 or None. region: (8, 8), where the plan
    means to change the picture, or None; see `sama.edit.events.EditEvent`.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 1
    windows: int = 1
    seconds_left: float | None = None
    preview: np.ndarray | None = None
    region: np.ndarray | None = None


@dataclass(frozen=True)
class Edited:
    """The last event of an edit, sent when its files are written: its anchor tokens, or None for a model without
    them."""

    tokens: Tokens | None
    seconds: float


@dataclass(frozen=True)
class Restored:
    """The last event of a restoration: the frames, (T, H, W, 3) uint8."""

    frames: np.ndarray


@dataclass(frozen=True)
class Restoration:
    """A damaged clip (T, H, W, 3) uint8 in one of the model's sizes, and how to restore it."""

    frames: np.ndarray
    prefix: str
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None


def edit(request: EditRequest, pipeline: SamaPipeline) -> Generator[JobStep | Edited, None, None]:
    """Edit a clip. Closing the generator stops it within one step and leaves no file."""
    from sama.edit import edit_video

    clock = _Clock()
    with closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
        for event in events:
            if event.result is not None:
                yield Edited(_tokens_of(pipeline, event.result), event.result.seconds)
            elif event.phase != "saving" or not event.step:
                done = max(0, event.window - 1) * event.steps + event.step
                left = clock.left(done, event.windows * event.steps)
                yield JobStep(
                    event.phase, event.step, event.steps, event.window, event.windows, left, event.preview, event.region
                )


def restore(task: Restoration, pipeline: SamaPipeline) -> Generator[JobStep | Restored, None, None]:
    """Restore a damaged clip. Closing the generator stops it within one step."""
    import torch

    from sama.pipeline import SamaStep

    clock = _Clock()
    run = pipeline.stream(
        video=task.frames,
        prompt=task.prompt,
        prompt_prefix=task.prefix,
        num_inference_steps=task.steps,
        guidance_scale=task.guidance,
        generator=torch.Generator().manual_seed(task.seed),
    )
    with closing(run) as items:
        for item in items:
            if isinstance(item, SamaStep):
                yield JobStep(
                    "restoring", item.step, item.num_steps, seconds_left=clock.left(item.step, item.num_steps)
                )
            else:
                yield Restored((np.asarray(item.frames[0]) * 255).round().clip(0, 255).astype(np.uint8))


class _Clock:
    """Estimates the seconds left from the time of the steps after the first."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> float | None:
        now = time.monotonic()
        if done < 1 or not total:
            return None
        if self._first is None:
            self._first = now, done
            return None
        begin, at = self._first
        return (now - begin) / (done - at) * (total - done) if done > at else None


def _tokens_of(pipeline: SamaPipeline, result: EditResult) -> Tokens | None:
    """The anchor plan of the first window, with the vision tower's tokens of the anchor frames of source and result."""
    tower = getattr(pipeline, "semantic_tower", None)
    if tower is None or result.semantic_tokens is None or not result.semantic_tokens.size:
        return None
    from sama.model.semantics import picture_tokens

    pictures = [np.asarray(image) for image in (result.anchor_source, result.anchor_result)]
    source, outcome = (picture_tokens(tower, image) for image in pictures)
    plan = np.asarray(result.semantic_tokens[0], np.float32)
    ordered = pipeline.transformer.config.semantic_positions == "grid"
    return Tokens(plan, source.numpy(), outcome.numpy(), pictures[0], pictures[1], ordered)
