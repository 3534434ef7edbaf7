"""Paints the windows of a job one after another and hands each finished frame to the writer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sama.device.placement import previews_by_map
from sama.edit.composing.change import shown_change
from sama.edit.composing.compose import changes_everything, differences, edit_mask
from sama.edit.composing.painted import Painted
from sama.edit.composing.region import means_a_change, planned_region, source_tokens, vouched
from sama.edit.composing.user_mask import open_mask
from sama.edit.events import MAX_PLANS, EditEvent
from sama.edit.request import SCHEDULERS, Job, wants_detail
from sama.edit.texts import Texts
from sama.edit.windows import Continuity, as_pixels, faithful_latents
from sama.errors import EditError
from sama.shapes import padded_frame_count
from sama.video import Frame, FrameReader, VideoWriter

if TYPE_CHECKING:
    from torch import Tensor

    from sama.edit.preview import LinearPreview
    from sama.pipeline import SamaPipeline, SamaStep

Limits = Iterator[NDArray[np.float32] | None]


class Painter:
    """Paints a job window by window and writes each frame as soon as no later window can touch it."""

    def __init__(self, job: Job, pipeline: SamaPipeline, previews: bool) -> None:
        from sama.pipeline.schedule import scheduler_of_kind

        self.job = job
        self.pipeline = pipeline
        self.previews = previews
        self.keep: bool | None = {"on": True, "off": False}.get(job.request.keep_source)  # None: the first window tells
        self.detail = wants_detail(job)
        self.scheduler = scheduler_of_kind(job.request.scheduler or SCHEDULERS[0], pipeline.scheduler)
        self.continuity = Continuity(pipeline, job.request.seed, job.request.steps)
        self.notices: tuple[str, ...] = ()
        self.changed = 0.0  # shares of the pictures written so far, added up
        self.meant: bool | None = None  # whether the first window's plan means a change
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
                known = None if pending is None else pending.frames
                painted = yield from self._window(feed.window(start, stop), known, number, text)
                if pending is not None:
                    painted = pending.fading_into(painted)
                after = job.plan.windows[number][0] - start if number < len(job.plan.windows) else stop - start
                pending = painted.part(after)
                yield from self._write(writer, originals, limits, painted.part(0, after), number)
            self.notices = large.notices

    def _window(
        self, frames: NDArray[np.uint8], known: NDArray[np.uint8] | None, number: int, text: Texts
    ) -> Generator[EditEvent, None, Painted]:
        """One window (T, h, w, 3): padded to 4k+1 frames, painted, trimmed, and compared with the source.

        known: what the window before made of the first frames; None for the first window.
        """
        from sama.pipeline import SamaPipelineOutput

        request, count, total = self.job.request, len(frames), len(self.job.plan.windows)
        padded = np.concatenate([frames, np.repeat(frames[-1:], padded_frame_count(count) - count, axis=0)])
        held = None if known is None else faithful_latents(self.pipeline, as_pixels(known))
        source = self.pipeline.encode_video(as_pixels(padded))
        if self.previews and self.linear is None and previews_by_map(self.pipeline):
            from sama.edit.preview import LinearPreview

            self.linear = LinearPreview.fit(self.pipeline, frames[0], source)
        run = self.pipeline.stream(
            source_latents=source,
            prompt_embeds=text.positive,
            negative_prompt_embeds=text.negative,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            source_guidance_scale=request.source_guidance,
            guidance_interval=request.guidance_interval,
            cache_threshold=request.cache,
            output_type="latent",
            scheduler=self.scheduler,
            **self.continuity.start(source, held),
        )
        tokens = source_tokens(self.pipeline, frames[0])
        with closing(run):
            for step in run:
                if isinstance(step, SamaPipelineOutput):
                    output = step
                    break
                yield EditEvent(
                    "painting", step.step, step.num_steps, number, total,
                    message=f"Painting step {step.step} of {step.num_steps}", preview=self._preview(step),
                    region=planned_region(tokens, step.semantic_tokens[0]),
                )  # fmt: skip
        if len(self.plans) < MAX_PLANS:
            self.plans.append(output.semantic_tokens[0].numpy())
        last = number == total
        yield EditEvent("saving" if last else "painting", window=number, windows=total, message="Decoding the frames")
        result = self._decoded(output.frames, count)
        if number == 1:
            self.anchors = (frames[0], result[0])
        if self.keep is False and not self.detail:
            return Painted(result, shown_change(differences(result, frames), None))
        return self._composed(result, self._decoded(source, count), tokens, output.semantic_tokens[0, -1])

    def _composed(
        self, result: NDArray[np.uint8], reference: NDArray[np.uint8], tokens: Tensor | None, plan: Tensor
    ) -> Painted:
        """A window's result with the mask of where it is shown.

        reference: the decoded source. tokens: (65, C) of the source's first frame, see `source_tokens`. plan: (65, C).
        """
        from sama.model.semantics import token_scale

        apart = differences(result, reference)
        if self.keep is None:
            # Decided once: a change between windows would be seen.
            self.keep = not changes_everything(apart)
        mask = edit_mask(apart) if self.keep else None
        region = planned_region(tokens, plan)
        if mask is not None and tokens is not None and region is not None:
            meant = means_a_change(region, scale := token_scale(tokens))
            self.meant = meant if self.meant is None else self.meant
            # A later window goes on with the edit of the first, also where its own plan no longer speaks of it.
            if meant or not self.meant:
                mask = vouched(mask, region, scale)
        return Painted.of(result, shown_change(apart, mask), mask, reference if self.detail else None)

    def _limits(self) -> AbstractContextManager[Limits]:
        """The user's mask for one full-size frame after another; None for each where there is no mask."""
        job = self.job
        if job.request.mask is None:
            return nullcontext(repeat(None))
        return open_mask(job.request.mask, job.plan.start, (job.info.width, job.info.height))

    def _decoded(self, latents: Any, count: int) -> NDArray[np.uint8]:
        return _to_uint8(self.pipeline.decode_latents(latents)[0, :count])

    def _preview(self, step: SamaStep) -> NDArray[np.uint8] | None:
        if not self.previews:
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
                message=f"Saved frame {writer.frames_written} of {self.job.plan.frames}", written=writer.frames_written,
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


def _to_uint8(frames: Any) -> NDArray[np.uint8]:
    return (frames * 255).round().byte().cpu().numpy()
