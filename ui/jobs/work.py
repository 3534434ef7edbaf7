"""The work of each kind of job on a pipeline, as generators that yield every denoising step.

They run where the pipeline is: here, on a GPU that ZeroGPU lends, or in a worker. What they yield crosses a process, so
it is small and can be pickled.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sama.edit.request import EditRequest
from ui.media.tokens import Tokens

if TYPE_CHECKING:
    from sama.edit import EditEvent, EditResult
    from sama.pipeline import SamaPipeline


@dataclass(frozen=True)
class JobStep:
    """Progress of a job: `step` of `steps` in `window` of `windows`, counted from 1; 0 before the first.

    phase: "waiting" (for its turn), "loading", "reading", "planning", "painting", "restoring", "decoding" or "saving".
    seconds_left: until the job has ended, waiting included; None where that cannot be told yet.
    ahead: while it waits, the jobs whose turn comes before. wait: the seconds until its own turn; None if not known.
    preview: (H, W, 3) uint8 or None. region: (8, 8), where the plan means to change the window's first frame, or None;
        see `EditEvent`.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 1
    windows: int = 1
    seconds_left: float | None = None
    preview: np.ndarray | None = None
    ahead: int = 0
    wait: float | None = None
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

    with closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
        for event in events:
            if event.result is not None:
                yield Edited(_tokens_of(pipeline, event.result), event.result.seconds)
            else:
                yield JobStep(
                    _phase(event), event.step, event.steps, event.window, event.windows, preview=event.preview,
                    region=event.region,
                )  # fmt: skip


def restore(task: Restoration, pipeline: SamaPipeline) -> Generator[JobStep | Restored, None, None]:
    """Restore a damaged clip. Closing the generator stops it within one step."""
    import torch

    from sama.pipeline import SamaStep

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
                yield JobStep("restoring", item.step, item.num_steps)
            else:
                yield Restored((np.asarray(item.frames[0]) * 255).round().clip(0, 255).astype(np.uint8))


def _phase(event: EditEvent) -> str:
    """The phase of an event, with decoding and saving told apart in every window."""
    if event.phase in ("painting", "saving") and not event.step:
        return "saving" if event.written else "decoding"
    return event.phase


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
