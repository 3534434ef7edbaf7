"""Edits, plans and restorations with ComfyUI's progress and interruption."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sama.edit import EditEvent, EditRequest, edit_video
from sama.edit.composing.change import NOTHING, NOTHING_CHANGED, NOTHING_CHANGED_INSIDE
from sama.edit.composing.region import source_tokens
from sama.edit.failures import user_errors
from sama.edit.painter import Painter
from sama.edit.request import NO_FEW_STEPS, check_request, loras_of, parse_lora, sampled
from sama.edit.texts import Unread

from . import host
from .media import resized
from .models import SamaModel

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


class Frames:
    """Takes an edit's frames where a file would: pictures that go on in memory lose nothing to a codec."""

    alpha = False

    def __init__(self) -> None:
        self.pictures: list[NDArray[np.uint8]] = []

    @property
    def frames_written(self) -> int:
        return len(self.pictures)

    def write(self, picture: NDArray[np.uint8], **_: Any) -> None:
        self.pictures.append(np.array(picture))


def edit_file(request: EditRequest, model: SamaModel) -> tuple[str, ...]:
    """Edit a file into a file; sentences about what the user should know. Raises ComfyUI's exception when the user
    cancels; no file is left then."""
    request, pipeline = _ready(request, model)
    notices: list[str] = []
    with closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
        for event in _shown(events):
            notices += [event.warning] if event.warning else []
            notices += event.result.notices if event.result is not None else ()
    return tuple(dict.fromkeys(notices))


def edit_frames(request: EditRequest, model: SamaModel) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Edit a file into frames (T, H, W, 3) uint8, with sentences about what the user should know."""
    request, pipeline = _ready(request, model)
    frames = Frames()
    with user_errors():
        painter = _painter(request, model, pipeline)
        with closing(painter.paint(frames)) as events:  # type: ignore[arg-type, type-var]
            for _ in _shown(events):
                pass
    changed = painter.changed / max(1, len(frames.pictures))
    nothing = NOTHING_CHANGED if request.mask is None else NOTHING_CHANGED_INSIDE
    notices = [
        *([nothing] if changed < NOTHING else []),
        *Unread.of(request, pipeline).sentences(),
        *painter.notices,
        *pipeline.lora_notices,
    ]
    return np.stack(frames.pictures), tuple(dict.fromkeys(notices))


def plan_strength(request: EditRequest, model: SamaModel, picture: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """How strongly an edit's plan means to change its first frame, (8, 8) in [0, 1], once its first window is denoised:
    `sama.model.semantics.plan_region` in units of `token_scale`. None for a model whose plan has no places.

    picture: the first frame (H, W, 3) uint8.
    """
    from sama.model.semantics import token_scale

    request, pipeline = _ready(request, model)
    region = None
    with user_errors():
        painter = _painter(request, model, pipeline)
        with closing(painter.paint(Frames())) as events:  # type: ignore[arg-type, type-var]
            for event in _shown(events):
                region = event.region
                if event.step and event.step == event.steps:
                    break
    tokens = source_tokens(pipeline, resized(picture[None], *painter.job.plan.bucket)[0])
    if region is None or tokens is None:
        return None
    return np.clip(region / max(token_scale(tokens), 1e-6), 0, 1).astype(np.float32)


def restore_frames(
    frames: NDArray[np.uint8], model: SamaModel, prefix: str, caption: str, seed: int, steps: int | None
) -> NDArray[np.uint8]:
    """Restore frames (T, H, W, 3) uint8, T = 4k+1 and in one of the model's sizes."""
    import torch

    from sama.pipeline import SamaStep

    pipeline, progress = model.pipeline(), host.Progress()
    run = pipeline.stream(
        video=frames,
        prompt=caption,
        prompt_prefix=prefix,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
    )
    restored: Any = None
    with user_errors(), closing(run) as items:
        for item in items:
            host.stop_if_interrupted()
            if isinstance(item, SamaStep):
                progress.show(item.step, item.num_steps)
            else:
                restored = item.frames[0]
    return np.asarray((np.asarray(restored) * 255).round().clip(0, 255).astype(np.uint8))


def _ready(request: EditRequest, model: SamaModel) -> tuple[EditRequest, SamaPipeline]:
    """The request with what its quality means, and the pipeline with the LoRAs that this takes: those of the model, and
    the one for few steps that a saved pipeline may carry."""
    weights = model.weights
    lora = tuple(f"{path}@{strength}" for path, strength in model.loras)
    few_steps = NO_FEW_STEPS if weights.file else None  # it was made for the transformer beside it
    request = sampled(replace(request, model=weights.folder, lora=lora, few_steps=few_steps))
    found = tuple((str(path), strength) for path, strength in map(parse_lora, loras_of(request)))
    return request, weights.wearing(found)


def _painter(request: EditRequest, model: SamaModel, pipeline: SamaPipeline) -> Painter:
    job = check_request(request, with_weights=False, canvas=model.canvas(pipeline))
    return Painter(job, pipeline, previews=True)


def _shown(events: Any) -> Generator[EditEvent, None, None]:
    """The events, each shown on the node; stops at the first after the user has cancelled."""
    progress = host.Progress()
    for event in events:
        host.stop_if_interrupted()
        if event.step:
            progress.show((event.window - 1) * event.steps + event.step, event.windows * event.steps, event.preview)
        yield event
