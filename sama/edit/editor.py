"""The one use case behind app, command line and API: a file and an instruction in, the edited file out.

A clip of any length and size streams through. One reader feeds the model windows of frames at the model's size, a
second one hands out full-size frames, one at a time, for the result: no more than one window of small frames and one
full-size frame are ever held.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sama.edit.change import NOTHING, NOTHING_CHANGED, NOTHING_CHANGED_INSIDE, shown_change
from sama.edit.compose import changes_everything, edit_mask
from sama.edit.failures import user_errors
from sama.edit.painted import Painted
from sama.edit.request import (
    SCHEDULERS,
    Canvas,
    EditRequest,
    Job,
    check_lora,
    check_preset,
    check_request,
    check_weights,
    parse_lora,
    wants_detail,
)
from sama.edit.settings_file import write_settings
from sama.edit.texts import Texts, Unread
from sama.edit.user_mask import open_mask
from sama.errors import CheckpointError, EditError, EditFailedError
from sama.placement import decoding_evicts, fast_dtype, place, resolve_device, vae_dtype
from sama.presets import PRESETS
from sama.shapes import padded_frame_count
from sama.video import Frame, FrameReader, VideoWriter
from sama.video.writing import holds_alpha

if TYPE_CHECKING:
    from sama.edit.preview import LinearPreview
    from sama.pipeline import SamaPipeline, SamaStep
    from sama.pipeline.schedule import FlowScheduler

Limits = Iterator[NDArray[np.float32] | None]
PHASES = ("reading", "planning", "painting", "saving", "done")
PREVIEW_EVERY = 2  # steps
MAX_PLANS = 16
"""Windows whose semantic tokens are kept: a long clip's plans would fill the memory."""


@dataclass(frozen=True)
class EditResult:
    """A finished edit.

    output, settings: the video and the JSON that repeats it. seconds: how long it took.
    kept_source: whether unchanged places show the source's own pixels.
    kept_detail: whether the edit was given the source's detail.
    changed: the share of the picture that changed by more than a faint amount, over all frames, 0 to 1. Measured at the
        model's size against the decoded source; where neither `keep_source` nor `detail` needs that one, against the
        source itself, so that what the autoencoder loses counts too.
    semantic_tokens: (windows, steps, 65, D) float32, the plan of each of the first `MAX_PLANS` windows as it formed.
    anchor_source, anchor_result: (h, w, 3) uint8, the first frame as the model saw it and as the model painted it.
    unread, unread_negative: the end of the instruction and of the negative prompt that were too long for the model to
        read; "" where all was read.
    notices: sentences about what of the source was changed besides, or not kept (HDR, subtitles, ...); mostly none.
    """

    output: Path
    settings: Path
    frames: int
    fps: Fraction
    width: int
    height: int
    seed: int
    seconds: float
    kept_source: bool
    kept_detail: bool
    changed: float
    semantic_tokens: NDArray[np.float32]
    anchor_source: NDArray[np.uint8]
    anchor_result: NDArray[np.uint8]
    unread: str = ""
    unread_negative: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditEvent:
    """How far an edit is.

    phase: one of `PHASES`. step of steps in window of windows, counted from 1; 0 where there is none yet.
    message: a few words for people. preview: (h, w, 3) uint8, the first frame as the model imagines it, or None.
    warning: one sentence about what the user should know although the edit goes on; the event is then about that alone.
    result: with the last event only.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 0
    windows: int = 0
    message: str = ""
    preview: NDArray[np.uint8] | None = None
    warning: str = ""
    result: EditResult | None = None


def edit_video(
    request: EditRequest,
    pipeline: SamaPipeline | None = None,
    previews: bool = False,
    canvas: Canvas | None = None,
) -> Generator[EditEvent, None, None]:
    """Edits a file; the last event carries the result. Closing the generator cancels within one step, leaving no file.

    pipeline: one that is loaded already; the request's `device` and `lora` are then the caller's business. One edit at
        a time may use a pipeline.
    previews: whether events carry a picture every second step: a decoded frame, or a linear guess at it where decoding
        would send the transformer off the device.
    canvas: sizes and window of a pipeline that was trained on others than the preset's.
    Raises EditError for anything that the user can put right, before any file is made, and EditFailedError when the
    memory does not suffice, or when the settings cannot be written; the finished video stays then.
    """
    began = time.monotonic()
    job = check_request(request, with_weights=pipeline is None, canvas=canvas)
    if pipeline is None and (request.device not in (None, "cpu") or _needs_gpu(request.preset, request.model)):
        resolve_device(request.device, _needs_gpu(request.preset, request.model))
    windows = len(job.plan.windows)
    with user_errors(), ExitStack() as stack:
        writer = stack.enter_context(_writer(job))
        yield EditEvent("reading", windows=windows, message=f"Reading {job.plan.frames} frames")
        if pipeline is None:
            yield EditEvent("planning", windows=windows, message="Loading the model")
            pipeline = load_pipeline(request.preset, request.device, request.lora, request.model)
        yield EditEvent("planning", windows=windows, message="Planning the edit")
        unread = Unread.of(request, pipeline)
        for sentence in unread.sentences():
            yield EditEvent("planning", windows=windows, message=sentence, warning=sentence)
        painter = _Painter(job, pipeline, previews)
        yield from painter.paint(writer)
        frames = writer.frames_written
        stack.close()  # the result is in its place from here on; what follows does not yield until it is complete
        seconds = time.monotonic() - began
        changed = painter.changed / max(1, frames)
        sentence = NOTHING_CHANGED if request.mask is None else NOTHING_CHANGED_INSIDE
        nothing = (sentence,) if changed < NOTHING else ()
        notices = tuple(
            dict.fromkeys([*nothing, *job.info.notices, *painter.notices, *writer.notices, *pipeline.lora_notices])
        )
        facts = {
            "frames": frames,
            "seconds": round(seconds, 2),
            "kept_source": painter.keep,
            "kept_detail": painter.detail,
            "changed": round(changed, 4),
            "notices": notices,
        }
        _save_settings(job, pipeline, facts | {"unread": unread.instruction, "unread_negative": unread.negative})
    result = EditResult(
        output=job.output,
        settings=job.settings,
        frames=frames,
        fps=job.info.fps,
        width=job.info.width,
        height=job.info.height,
        seed=request.seed,
        seconds=seconds,
        kept_source=bool(painter.keep),
        kept_detail=painter.detail,
        changed=changed,
        semantic_tokens=np.stack(painter.plans),
        anchor_source=painter.anchors[0],
        anchor_result=painter.anchors[1],
        unread=unread.instruction,
        unread_negative=unread.negative,
        notices=notices,
    )
    yield EditEvent("done", windows=windows, window=windows, message=f"Saved {job.output.name}", result=result)


def load_pipeline(
    preset: str, device: str | None = None, lora: Sequence[str] = (), model: str | os.PathLike[str] | None = None
) -> SamaPipeline:
    """A preset's pipeline on a device, ready to edit.

    device: None takes the best there is, see `sama.placement.default_device`. A GPU that cannot hold the whole model
        gets it in parts.
    lora: files, each optionally with `@scale`.
    model: folder of a saved pipeline in place of the preset's weights.
    Raises EditError for weights, LoRAs or devices that are not there or do not fit.
    """
    check_preset(preset)
    check_weights(preset, model)
    loras = [parse_lora(spec) for spec in lora]
    for path, _ in loras:
        check_lora(path)
    target = resolve_device(device, _needs_gpu(preset, model))
    from sama import loading

    names = [f"lora_{index}" for index in range(len(loras))]
    try:
        folder = model or PRESETS[preset].folder
        pipeline = _saved_pipeline(folder, target) if folder else loading.load_pipeline(preset)
        for name, (path, _) in zip(names, loras, strict=True):
            pipeline.load_lora_weights(path, adapter_name=name)
    except CheckpointError as error:
        raise EditError(str(error)) from error
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EditError(f"The weights could not be read or fetched: {reason}") from error
    if names:
        pipeline.set_adapters(names, [scale for _, scale in loras])
    place(pipeline, target)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _needs_gpu(preset: str, model: str | os.PathLike[str] | None) -> bool:
    return model is None and PRESETS[preset].folder is None


def _saved_pipeline(folder: str | os.PathLike[str], device: str) -> SamaPipeline:
    import torch

    from sama.pipeline import SamaPipeline

    dtypes = {"transformer": fast_dtype(device), "vae": vae_dtype(device), "default": torch.float32}
    return SamaPipeline.from_pretrained(folder, dtype=dtypes)


def _save_settings(job: Job, pipeline: SamaPipeline, facts: dict[str, Any]) -> None:
    """The settings of a video that is saved, which stays whatever happens here, unless the user cancels."""
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


class _Painter:
    """Paints a job window by window and writes each frame as soon as no later window can touch it."""

    def __init__(self, job: Job, pipeline: SamaPipeline, previews: bool) -> None:
        self.job = job
        self.pipeline = pipeline
        self.previews = previews
        self.keep: bool | None = {"on": True, "off": False}.get(job.request.keep_source)  # None: the first window tells
        self.detail = wants_detail(job)
        self.scheduler = _scheduler(pipeline, job.request.scheduler)
        self.notices: tuple[str, ...] = ()
        self.changed = 0.0  # shares of the pictures written so far, added up
        self.plans: list[NDArray[np.float32]] = []
        self.linear: LinearPreview | None = None
        self.anchors: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    def paint(self, writer: VideoWriter) -> Iterator[EditEvent]:
        job = self.job
        where: dict[str, Any] = {
            "path": job.request.video, "start": job.plan.start, "count": job.plan.frames, "timeline": job.timeline,
            "alpha": writer.alpha,
        }  # fmt: skip
        text = Texts.of(job.request, self.pipeline)
        size = (job.plan.bucket.width, job.plan.bucket.height)
        with FrameReader(**where, size=size) as small, FrameReader(**where) as large, self._limits() as limits:
            feed, originals = _Feed(iter(small), job.plan.windows[0][1]), iter(large)
            pending: Painted | None = None
            for number, (start, stop) in enumerate(job.plan.windows, start=1):
                painted = yield from self._window(feed.window(start, stop), number, text)
                if pending is not None:
                    painted = pending.fading_into(painted)
                after = job.plan.windows[number][0] - start if number < len(job.plan.windows) else stop - start
                pending = painted.part(after)
                yield from self._write(writer, originals, limits, painted.part(0, after), number)
            self.notices = large.notices

    def _window(self, frames: NDArray[np.uint8], number: int, text: Texts) -> Generator[EditEvent, None, Painted]:
        """One window (T, h, w, 3): padded to 4k+1 frames, painted, trimmed, and compared with the source."""
        import torch

        from sama.pipeline import SamaPipelineOutput

        request, count, total = self.job.request, len(frames), len(self.job.plan.windows)
        padded = np.concatenate([frames, np.repeat(frames[-1:], padded_frame_count(count) - count, axis=0)])
        source = self.pipeline.encode_video(torch.from_numpy(padded).unsqueeze(0).float() / 255)
        if self.previews and self.linear is None and decoding_evicts(self.pipeline):
            from sama.edit.preview import LinearPreview

            self.linear = LinearPreview.fit(self.pipeline, frames[0], source)
        run = self.pipeline.stream(
            source_latents=source,
            prompt_embeds=text.positive,
            negative_prompt_embeds=text.negative,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            source_guidance_scale=request.source_guidance,
            generator=torch.Generator().manual_seed(request.seed),  # the same noise for every window
            output_type="latent",
            scheduler=self.scheduler,
        )
        with closing(run):
            for step in run:
                if isinstance(step, SamaPipelineOutput):
                    output = step
                    break
                yield EditEvent(
                    "painting", step.step, step.num_steps, number, total,
                    message=f"Painting step {step.step} of {step.num_steps}", preview=self._preview(step),
                )  # fmt: skip
        if len(self.plans) < MAX_PLANS:
            self.plans.append(output.semantic_tokens[0].numpy())
        if number == total:
            yield EditEvent("saving", window=number, windows=total, message="Saving")
        result = self._decoded(output.frames, count)
        if number == 1:
            self.anchors = (frames[0], result[0])
        if self.keep is False and not self.detail:
            return Painted(result, shown_change(result, frames, None))
        reference = self._decoded(source, count)
        if self.keep is None:
            # Decided once: a change between windows would be seen.
            self.keep = not changes_everything(result, reference)
        mask = edit_mask(result, reference) if self.keep else None
        change = shown_change(result, reference, mask)
        return Painted.of(result, change, mask, reference if self.detail else None)

    def _limits(self) -> AbstractContextManager[Limits]:
        """The user's mask for one full-size frame after another; None for each where there is no mask."""
        job = self.job
        if job.request.mask is None:
            return nullcontext(repeat(None))
        return open_mask(job.request.mask, job.plan.start, (job.info.width, job.info.height))

    def _decoded(self, latents: Any, count: int) -> NDArray[np.uint8]:
        return _to_uint8(self.pipeline.decode_latents(latents)[0, :count])

    def _preview(self, step: SamaStep) -> NDArray[np.uint8] | None:
        if not self.previews or (step.step - 1) % PREVIEW_EVERY:
            return None
        if self.linear is not None:
            return self.linear(step.clean_latents)
        return _to_uint8(self.pipeline.decode_latents(step.clean_latents[:, :, :1])[0, 0])

    def _write(
        self, writer: VideoWriter, originals: Iterator[Frame], limits: Limits, finished: Painted, number: int
    ) -> Iterator[EditEvent]:
        total = len(self.job.plan.windows)
        for index in range(len(finished.frames)):
            original = next(originals, None)
            if original is None:  # the file ends before its index says so
                return
            limit = next(limits)
            picture = finished.picture(index, original.image, limit)
            writer.write(picture, pts=original.pts, alpha=original.alpha)
            self.changed += finished.changed(index, limit)
            yield EditEvent(
                "saving" if number == total else "painting", window=number, windows=total,
                message=f"Saved frame {writer.frames_written} of {self.job.plan.frames}",
            )  # fmt: skip


class _Feed:
    """Windows of a stream of small frames; those of the last window are kept, because the next one overlaps it."""

    def __init__(self, frames: Iterator[Frame], window: int) -> None:
        self._frames = frames
        self._held: deque[NDArray[np.uint8]] = deque(maxlen=window)
        self._read = 0

    def window(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [start, stop); the last one repeats where the file ends before its index says so."""
        while self._read < stop:
            frame = next(self._frames, None)
            if frame is None and not self._held:
                raise EditError("The clip has no frame that can be decoded in this range; check that it plays.")
            self._held.append(self._held[-1] if frame is None else frame.image)
            self._read += 1
        first = self._read - len(self._held)
        return np.stack(list(self._held)[start - first : stop - first])


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
    )


def _scheduler(pipeline: SamaPipeline, name: str) -> FlowScheduler:
    """The scheduler that a request asks for: the pipeline's own where it is of that kind."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    kind = dict(zip(SCHEDULERS, (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler), strict=True))[name]
    own = pipeline.scheduler
    return own if isinstance(own, kind) else kind()  # the run takes the kind only: its noise levels are the pipeline's


def _to_uint8(frames: Any) -> NDArray[np.uint8]:
    return (frames * 255).round().byte().cpu().numpy()
