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
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sama.compose import changes_everything, compose, crossfade, edit_mask, enlarge
from sama.placement import fast_dtype, place, resolve_device, vae_dtype
from sama.presets import PRESETS
from sama.request import (
    SCHEDULERS,
    Canvas,
    EditError,
    EditRequest,
    Job,
    check_lora,
    check_preset,
    check_request,
    check_weights,
    parse_lora,
)
from sama.settings import write_settings
from sama.shapes import padded_frame_count
from sama.video import Frame, FrameReader, VideoError, VideoWriter
from sama.video.limits import VideoLimits
from sama.video.timeline import read_timeline
from sama.video.writing import holds_alpha

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline, SamaStep

PHASES = ("reading", "planning", "painting", "saving", "done")
PREVIEW_EVERY = 2  # steps
MAX_PLANS = 16
"""Windows whose semantic tokens are kept: a long clip's plans would fill the memory."""


@dataclass(frozen=True)
class EditResult:
    """A finished edit.

    output, settings: the video and the JSON that repeats it. seconds: how long it took.
    kept_source: whether unchanged places show the source's own pixels.
    semantic_tokens: (windows, steps, 65, D) float32, the plan of each of the first `MAX_PLANS` windows as it formed.
    anchor_source, anchor_result: (h, w, 3) uint8, the first frame as the model saw it and as the model painted it.
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
    semantic_tokens: NDArray[np.float32]
    anchor_source: NDArray[np.uint8]
    anchor_result: NDArray[np.uint8]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditEvent:
    """How far an edit is.

    phase: one of `PHASES`. step of steps in window of windows, counted from 1; 0 where there is none yet.
    message: a few words for people. preview: (h, w, 3) uint8, the first frame as the model imagines it, or None.
    result: with the last event only.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 0
    windows: int = 0
    message: str = ""
    preview: NDArray[np.uint8] | None = None
    result: EditResult | None = None


class EditFailedError(RuntimeError):
    """An edit that was possible as asked and failed all the same. The message is one sentence for the user."""


def edit_video(
    request: EditRequest,
    pipeline: SamaPipeline | None = None,
    previews: bool = False,
    canvas: Canvas | None = None,
) -> Generator[EditEvent, None, None]:
    """Edits a file; the last event carries the result. Closing the generator cancels within one step, leaving no file.

    pipeline: one that is loaded already; the request's `device` and `lora` are then the caller's business. One edit at
        a time may use a pipeline.
    previews: whether events carry a picture every second step, which costs the decoding of one frame each.
    canvas: sizes and window of a pipeline that was trained on others than the preset's.
    Raises EditError for anything that the user can put right, before any file is made, and EditFailedError when the
    memory does not suffice.
    """
    began = time.monotonic()
    job = check_request(request, with_weights=pipeline is None, canvas=canvas)
    if pipeline is None and (request.device not in (None, "cpu") or _needs_gpu(request.preset, request.model)):
        resolve_device(request.device, _needs_gpu(request.preset, request.model))
    windows = len(job.plan.windows)
    with _user_errors(), ExitStack() as stack:
        writer = stack.enter_context(_writer(job))
        yield EditEvent("reading", windows=windows, message=f"Reading {job.plan.frames} frames")
        if pipeline is None:
            yield EditEvent("planning", windows=windows, message="Loading the model")
            pipeline = load_pipeline(request.preset, request.device, request.lora, request.model)
        stack.enter_context(_sampler(pipeline, request.scheduler))
        yield EditEvent("planning", windows=windows, message="Planning the edit")
        painter = _Painter(job, pipeline, previews)
        yield from painter.paint(writer)
        frames = writer.frames_written
        stack.close()  # the result is in its place from here on; what follows does not yield until it is complete
        seconds = time.monotonic() - began
        notices = tuple(dict.fromkeys([*job.info.notices, *painter.notices, *writer.notices, *pipeline.lora_notices]))
        facts = {"frames": frames, "seconds": round(seconds, 2), "kept_source": painter.keep, "notices": notices}
        try:
            write_settings(job, pipeline, facts)
        except BaseException:
            job.output.unlink(missing_ok=True)
            raise
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
        semantic_tokens=np.stack(painter.plans),
        anchor_source=painter.anchors[0],
        anchor_result=painter.anchors[1],
        notices=notices,
    )
    yield EditEvent("done", windows=windows, window=windows, message=f"Saved {job.output.name}", result=result)


def load_pipeline(
    preset: str, device: str | None = None, lora: Sequence[str] = (), model: str | os.PathLike[str] | None = None
) -> SamaPipeline:
    """A preset's pipeline on a device, ready to edit.

    device: None takes CUDA where there is any, else the CPU. A GPU that cannot hold the whole model gets it in parts.
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
    from sama.checkpoints import CheckpointError

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


@dataclass(frozen=True)
class _Painted:
    """Frames at the model's size (T, h, w, 3), and where they replace the source (T, h, w), or None for everywhere."""

    frames: NDArray[np.uint8]
    mask: NDArray[np.float32] | None

    def part(self, start: int, stop: int | None = None) -> _Painted:
        return _Painted(self.frames[start:stop], None if self.mask is None else self.mask[start:stop])

    def fading_into(self, later: _Painted) -> _Painted:
        """`later`, cross-faded from this, which shows its first frames too."""
        mask = None if self.mask is None or later.mask is None else _faded(self.mask, later.mask)
        return _Painted(_faded(self.frames, later.frames), mask)


class _Painter:
    """Paints a job window by window and writes each frame as soon as no later window can touch it."""

    def __init__(self, job: Job, pipeline: SamaPipeline, previews: bool) -> None:
        self.job = job
        self.pipeline = pipeline
        self.previews = previews
        self.keep: bool | None = {"on": True, "off": False}.get(job.request.keep_source)  # None: the first window tells
        self.notices: tuple[str, ...] = ()
        self.plans: list[NDArray[np.float32]] = []
        self.anchors: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    def paint(self, writer: VideoWriter) -> Iterator[EditEvent]:
        job = self.job
        where: dict[str, Any] = {
            "path": job.request.video, "start": job.plan.start, "count": job.plan.frames, "alpha": writer.alpha
        }  # fmt: skip
        size = (job.plan.bucket.width, job.plan.bucket.height)
        with FrameReader(**where, size=size) as small, FrameReader(**where) as large:
            feed, originals = _Feed(iter(small), job.plan.windows[0][1]), iter(large)
            pending: _Painted | None = None
            for number, (start, stop) in enumerate(job.plan.windows, start=1):
                painted = yield from self._window(feed.window(start, stop), number)
                if pending is not None:
                    painted = pending.fading_into(painted)
                after = job.plan.windows[number][0] - start if number < len(job.plan.windows) else stop - start
                pending = painted.part(after)
                yield from self._write(writer, originals, painted.part(0, after), number)
            self.notices = large.notices

    def _window(self, frames: NDArray[np.uint8], number: int) -> Generator[EditEvent, None, _Painted]:
        """One window (T, h, w, 3): padded to 4k+1 frames, painted, trimmed, and compared with the source."""
        import torch

        from sama.pipeline import SamaPipelineOutput

        request, count, total = self.job.request, len(frames), len(self.job.plan.windows)
        padded = np.concatenate([frames, np.repeat(frames[-1:], padded_frame_count(count) - count, axis=0)])
        source = self.pipeline.encode_video(torch.from_numpy(padded).unsqueeze(0).float() / 255)
        run = self.pipeline.stream(
            source_latents=source,
            prompt=request.instruction,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            source_guidance_scale=request.source_guidance,
            generator=torch.Generator().manual_seed(request.seed),  # the same noise for every window
            output_type="latent",
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
        return _Painted(result, self._mask(result, source, count))

    def _mask(self, result: NDArray[np.uint8], source: Any, count: int) -> NDArray[np.float32] | None:
        if self.keep is False:
            return None
        reference = self._decoded(source, count)
        if self.keep is None:
            # Decided once: a change between windows would be seen.
            self.keep = not changes_everything(result, reference)
        return edit_mask(result, reference) if self.keep else None

    def _decoded(self, latents: Any, count: int) -> NDArray[np.uint8]:
        return _to_uint8(self.pipeline.decode_latents(latents)[0, :count])

    def _preview(self, step: SamaStep) -> NDArray[np.uint8] | None:
        if not self.previews or (step.step - 1) % PREVIEW_EVERY:
            return None
        return _to_uint8(self.pipeline.decode_latents(step.clean_latents[:, :, :1])[0, 0])

    def _write(
        self, writer: VideoWriter, originals: Iterator[Frame], finished: _Painted, number: int
    ) -> Iterator[EditEvent]:
        total = len(self.job.plan.windows)
        for index, frame in enumerate(finished.frames):
            original = next(originals, None)
            if original is None:  # the file ends before its index says so
                return
            if finished.mask is None:
                image = enlarge(frame, self.job.info.width, self.job.info.height)
            else:
                image = compose(original.image, frame, finished.mask[index])
            writer.write(image, pts=original.pts, alpha=original.alpha)
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
    timeline = read_timeline(job.request.video, VideoLimits())

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
        alpha=job.info.alpha and holds_alpha(job.output),
    )


@contextmanager
def _sampler(pipeline: SamaPipeline, name: str) -> Iterator[None]:
    """The scheduler that a request asks for, for one edit."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    kind = dict(zip(SCHEDULERS, (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler), strict=True))[name]
    before = pipeline.scheduler
    if not isinstance(before, kind):
        pipeline.scheduler = kind()  # the run takes the kind only: its noise levels are the pipeline's
    try:
        yield
    finally:
        pipeline.scheduler = before


@contextmanager
def _user_errors() -> Iterator[None]:
    """What a user can act on, as one sentence."""
    try:
        yield
    except VideoError as error:
        raise EditError(str(error)) from error
    except MemoryError as error:
        raise EditFailedError("There is not enough memory; edit fewer frames, or use a smaller preset.") from error
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise EditFailedError(
            "The device ran out of memory; edit fewer frames at a time, or use a smaller preset."
        ) from error


def _faded(earlier: NDArray, later: NDArray) -> NDArray:
    overlap = len(earlier)
    return np.concatenate([crossfade(earlier, later[:overlap]), later[overlap:]])


def _to_uint8(frames: Any) -> NDArray[np.uint8]:
    return (frames * 255).round().byte().cpu().numpy()
