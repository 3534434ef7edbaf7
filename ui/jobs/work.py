"""The work of each kind of job on a pipeline, as generators that yield every denoising step.

They run where the pipeline is: here, on a GPU that ZeroGPU lends, or in a worker. What they yield crosses a process, so
it is small and can be pickled.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sama.edit.request import EditRequest
from sama.model.named import EMBEDDED
from ui.media.tokens import Tokens, small_jpeg

if TYPE_CHECKING:
    from torch import Tensor

    from sama.edit import EditEvent, EditResult
    from sama.pipeline import SamaPipeline


@dataclass(frozen=True)
class JobStep:
    """Progress of a job: `step` of `steps` in `window` of `windows`, counted from 1; 0 before the first.

    phase: "waiting" (for its turn), "loading", "reading", "planning", "painting", "restoring", "measuring",
        "decoding" or "saving".
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
    """The last event of a restoration: the frames, (T, H, W, 3) uint8, and, where the clean clip was given, that clip
    as the model's autoencoder gives it back: no restoration can be expected to be nearer to it."""

    frames: np.ndarray
    ceiling: np.ndarray | None = None


@dataclass(frozen=True)
class Restoration:
    """A damaged clip (T, H, W, 3) uint8 in one of the model's sizes, and how to restore it.

    clean: the clip before it was damaged; the model does not see it.
    """

    frames: np.ndarray
    prefix: str
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    clean: np.ndarray | None = None


def edit(request: EditRequest, pipeline: SamaPipeline) -> Generator[JobStep | Edited, None, None]:
    """Edit a clip. Closing the generator stops it within one step and leaves no file."""
    from sama.edit import edit_video

    pictures = StepPictures()
    with closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
        for event in events:
            pictures.see(event)
            if event.result is not None:
                yield Edited(_tokens_of(pipeline, event.result, pictures), event.result.seconds)
            else:
                yield JobStep(
                    _phase(event), event.step, event.steps, event.window, event.windows, preview=event.preview,
                    region=event.region,
                )  # fmt: skip


def restore(task: Restoration, pipeline: SamaPipeline) -> Generator[JobStep | Restored, None, None]:
    """Restore a damaged clip. Closing the generator stops it within one step.

    The preview of a step is one picture below the other: of the first frame and of every four frames after it.
    """
    import torch

    from sama.edit.preview import ClipPreview
    from sama.pipeline import SamaStep

    source = pipeline.encode_video(_pixels(task.frames))
    preview = ClipPreview.fit(task.frames, source)
    run = pipeline.stream(
        source_latents=source,
        prompt=task.prompt,
        prompt_prefix=task.prefix,
        num_inference_steps=task.steps,
        guidance_scale=task.guidance,
        generator=torch.Generator().manual_seed(task.seed),
    )
    with closing(run) as items:
        for item in items:
            if isinstance(item, SamaStep):
                yield JobStep("restoring", item.step, item.num_steps, preview=preview(item.clean_latents))
                continue
            frames = _as_bytes(np.asarray(item.frames[0]))
            ceiling = None
            if task.clean is not None:
                yield JobStep("measuring")
                latents = pipeline.encode_video(_pixels(task.clean))
                ceiling = _as_bytes(pipeline.decode_latents(latents)[0].cpu().numpy())
            yield Restored(frames, ceiling)


def _pixels(frames: np.ndarray) -> Tensor:
    """Frames (T, H, W, 3) uint8 as a batch of one clip in [0, 1]."""
    import torch

    return torch.from_numpy(frames).unsqueeze(0).float() / 255


def _as_bytes(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as uint8."""
    pixels: np.ndarray = (frames * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


def _phase(event: EditEvent) -> str:
    """The phase of an event, with decoding and saving told apart in every window."""
    if event.phase in ("painting", "saving") and not event.step:
        return "saving" if event.written else "decoding"
    return event.phase


class StepPictures:
    """The first window's pictures, one a step, as small JPEGs: how the first frame formed."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def see(self, event: EditEvent) -> None:
        """Keep an event's preview if it is of the first window."""
        if event.window == 1 and event.step and event.preview is not None:
            self._held.append(small_jpeg(event.preview))

    def of(self, steps: int) -> tuple[bytes, ...]:
        """The pictures of a plan of so many steps; none where not every step had one."""
        return tuple(self._held) if len(self._held) == steps else ()


def _tokens_of(pipeline: SamaPipeline, result: EditResult, pictures: StepPictures) -> Tokens | None:
    """The anchor plan of the first window, with the vision tower's tokens of the anchor frames of source and result
    where the model has a tower; None for a model without anchors."""
    if result.semantic_tokens is None or not result.semantic_tokens.size:
        return None
    from sama.model.semantics import picture_tokens

    tower = getattr(pipeline, "semantic_tower", None)
    anchors = [np.asarray(image) for image in (result.anchor_source, result.anchor_result)]
    read = [None, None] if tower is None else [picture_tokens(tower, image).numpy() for image in anchors]
    plan = np.asarray(result.semantic_tokens[0], np.float32)
    ordered = pipeline.transformer.config.semantic_positions == "grid"
    return Tokens(
        plan, read[0], read[1], anchors[0], anchors[1], ordered, pictures.of(len(plan)), _encoder_of(pipeline)
    )


def _encoder_of(pipeline: SamaPipeline) -> str:
    """How a record names the tower of a pipeline; "" where it has none."""
    from sama.presets import TINY_FOLDER

    if pipeline.semantic_tower is None:
        return ""
    return EMBEDDED if Path(pipeline.name_or_path or "") == TINY_FOLDER else "this model's own tower"
