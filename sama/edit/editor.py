"""Edits a file by an instruction: `edit_video`, which app, command line and API call.

A clip of any length and size streams through. One reader feeds the model windows of frames at the model's size, a
second one hands out full-size frames, one at a time, for the result: no more than one window of small frames and one
full-size frame are ever held.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from sama.device.placement import resolve_device
from sama.edit.composing.change import NOTHING, NOTHING_CHANGED, NOTHING_CHANGED_INSIDE
from sama.edit.events import EditEvent, EditResult
from sama.edit.failures import user_errors
from sama.edit.painter import Painter
from sama.edit.request import NO_FEW_STEPS, EditRequest, Job, check_preset, check_request, loras_of
from sama.edit.settings_file import write_settings
from sama.edit.texts import Unread
from sama.errors import EditFailedError
from sama.loading import load_pipeline, needs_gpu
from sama.presets import canvas_of
from sama.shapes import Canvas, padded_frame_count
from sama.video import VideoWriter
from sama.video.codecs import holds_alpha

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


Extent = tuple[tuple[int, int, int], int | None]


def edit_video(
    request: EditRequest,
    pipeline: SamaPipeline | None = None,
    previews: bool = False,
) -> Generator[EditEvent, None, None]:
    """Edits a file; the last event carries the result. Closing the generator cancels within one step, leaving no file.

    pipeline: a loaded one, to which the caller has applied the request's `device` and its LoRAs (`loras_of`). One edit
        at a time may use a pipeline. A request that leaves `few_steps` open is then one without it.
    previews: whether events carry a picture at every step: a decoded frame, or a linear guess at it where decoding
        would send the transformer off the device.
    Raises EditError for anything that the user can put right, before any file is made, and EditFailedError when the
    memory does not suffice, or when the settings cannot be written; the finished video stays then.
    """
    began = time.monotonic()
    if pipeline is not None and request.few_steps is None:
        request = replace(request, few_steps=NO_FEW_STEPS)
    job = check_request(
        request, with_weights=pipeline is None, canvas=None if pipeline is None else _canvas(request, pipeline)
    )
    if pipeline is None and (request.device not in (None, "cpu") or needs_gpu(request.preset, request.model)):
        resolve_device(request.device, needs_gpu(request.preset, request.model))
    windows = len(job.plan.windows)
    with user_errors(), ExitStack() as stack:
        writer = stack.enter_context(_writer(job))
        yield EditEvent("reading", windows=windows, message=f"Reading {job.plan.frames} frames")
        if pipeline is None:
            yield EditEvent("planning", windows=windows, message="Loading the model")
            pipeline = load_pipeline(
                request.preset, request.device, loras_of(job.request), request.model, request.memory, request.compile,
                *extent_of(job),
            )  # fmt: skip
        yield EditEvent("planning", windows=windows, message="Planning the edit")
        unread = Unread.of(request, pipeline)
        for sentence in unread.sentences():
            yield EditEvent("planning", windows=windows, message=sentence, warning=sentence)
        painter = Painter(job, pipeline, previews)
        yield from painter.paint(writer)
        stack.close()  # the result is in its place from here on; what follows does not yield until it is complete
        result = _result(job, pipeline, painter, writer, unread, time.monotonic() - began)
        _save_settings(job, pipeline, _facts(result, painter.keep))
    yield EditEvent("done", windows=windows, window=windows, message=f"Saved {job.output.name}", result=result)


def _result(
    job: Job, pipeline: SamaPipeline, painter: Painter, writer: VideoWriter, unread: Unread, seconds: float
) -> EditResult:
    """The result of an edit whose file is closed."""
    frames = writer.frames_written
    changed = painter.changed / max(1, frames)
    sentence = NOTHING_CHANGED if job.request.mask is None else NOTHING_CHANGED_INSIDE
    nothing = (sentence,) if changed < NOTHING else ()
    notices = [*nothing, *job.info.notices, *painter.notices, *writer.notices, *pipeline.lora_notices]
    return EditResult(
        output=job.output,
        settings=job.settings,
        frames=frames,
        fps=job.info.fps,
        width=job.info.width,
        height=job.info.height,
        seed=job.request.seed,
        seconds=seconds,
        kept_source=bool(painter.keep),
        kept_detail=painter.detail,
        changed=changed,
        semantic_tokens=np.stack(painter.plans),
        anchor_source=painter.anchors[0],
        anchor_result=painter.anchors[1],
        unread=unread.instruction,
        unread_negative=unread.negative,
        notices=tuple(dict.fromkeys(notices)),
    )


def _facts(result: EditResult, kept_source: bool | None) -> dict[str, Any]:
    """The facts of the settings file about how an edit went. kept_source: None where no window decided it."""
    return {
        "frames": result.frames,
        "seconds": round(result.seconds, 2),
        "kept_source": kept_source,
        "kept_detail": result.kept_detail,
        "changed": round(result.changed, 4),
        "notices": result.notices,
        "unread": result.unread,
        "unread_negative": result.unread_negative,
    }


def extent_of(job: Job) -> Extent:
    """The largest window of a job (frames, height, width), and how many evaluations of the model it takes; None where
    only the model knows its steps."""
    start, stop = job.plan.windows[0]
    window = (padded_frame_count(stop - start), job.plan.bucket.height, job.plan.bucket.width)
    steps = job.request.steps
    return window, None if steps is None else 2 * steps * len(job.plan.windows)


def _canvas(request: EditRequest, pipeline: SamaPipeline) -> Canvas:
    """Sizes and window of a loaded pipeline; of one that was saved without them, the preset's."""
    check_preset(request.preset)
    return pipeline.canvas or canvas_of(request.preset)


def _save_settings(job: Job, pipeline: SamaPipeline, facts: dict[str, Any]) -> None:
    """Write the settings beside the saved video. On failure the video stays; if the user cancels, it is removed. Raises
    EditFailedError when they cannot be written."""
    try:
        write_settings(job, pipeline, facts)
    except Exception as error:
        with suppress(OSError):  # those of an earlier result of this name would now be wrong
            job.settings.unlink()
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise EditFailedError(
            f"{job.output.name} is saved, but the settings that repeat it could not be written: {reason}."
        ) from error
    except BaseException:
        job.output.unlink(missing_ok=True)
        raise


def _writer(job: Job) -> VideoWriter:
    """The result's file, with the sound of exactly the frames that are edited."""
    timeline = job.timeline

    def seconds(frame: int) -> Fraction:
        return int(timeline.ticks[frame] - timeline.ticks[0]) * timeline.time_base

    stop = job.plan.start + job.plan.frames
    return VideoWriter(
        job.output,
        job.info.width,
        job.info.height,
        job.info.fps,
        source=job.request.video,
        start=seconds(job.plan.start),
        end=seconds(stop) if stop < timeline.frames else None,
        timeline=timeline,
        alpha=job.info.alpha and holds_alpha(job.output),
        codec=job.request.codec,
    )
