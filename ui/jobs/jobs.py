"""Runs the model's jobs (edit, restoration) as generators that yield every denoising step.

Closing a generator stops its job at the next step, here and on ZeroGPU. On ZeroGPU its events come from another
process, so they are small and can be pickled. A job leaves no state in this module.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sama.edit.request import EditRequest, check_request
from sama.video import VideoInfo, probe
from ui.jobs import zero_gpu
from ui.jobs.engine import Engine
from ui.jobs.pace import Pace, StopWatch
from ui.media.runs import Tokens
from ui.settings import Settings

if TYPE_CHECKING:
    from sama.edit import EditResult
    from sama.edit.estimate import Estimate, Speed
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

GPU = "gpu"
"""The queue that everything that uses the model waits in."""
T = TypeVar("T")


@dataclass(frozen=True)
class JobStep:
    """Progress of a job: `step` of `steps` in `window` of `windows`, counted from 1; 0 before the first.

    seconds_left is None until it can be told; preview is (H, W, 3) uint8 or None.
    """

    phase: str
    step: int = 0
    steps: int = 0
    window: int = 1
    windows: int = 1
    seconds_left: float | None = None
    preview: np.ndarray | None = None


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


class Jobs:
    """Starts the jobs of one app and estimates how long they take."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self._speed: Speed | None = None
        self._pace = Pace()
        self._edit_here: Callable[..., Generator[Any, None, None]] = self._edit
        self._restore_here: Callable[..., Generator[Any, None, None]] = self._restore
        if settings.zero_gpu:
            self._edit_here = zero_gpu.on_lent_gpu(self._edit, self.edit_seconds)
            self._restore_here = zero_gpu.on_lent_gpu(self._restore, self.restore_seconds)

    @property
    def at_once(self) -> int:
        """How many jobs run beside each other: on ZeroGPU each has a GPU of its own."""
        return 8 if self.settings.zero_gpu else 1

    def start(self) -> None:
        """Load the model in the background, or before returning on ZeroGPU, which takes weights only while the app
        starts.

        On ZeroGPU a model that cannot be loaded raises: otherwise every visitor's process would try again, on their
        quota.

        """
        if self.settings.zero_gpu:
            self.engine.pipeline()
        elif self.settings.warm:
            threading.Thread(target=self.engine.warm, name="warm", daemon=True).start()

    def edit(self, request: EditRequest) -> Generator[JobStep | Edited, None, None]:
        """Edit a clip. Closing the generator stops it within one step and leaves no file."""
        if self.settings.zero_gpu:  # before a visitor's quota is spent
            check_request(request, with_weights=False)
            self._refuse_too_long(self._expected(request, probe(request.video)))
        if not self.engine.loaded:
            yield JobStep("loading")
        watch = StopWatch()
        with closing(self._stepped(partial(self._edit_here, request))) as events:
            for event in events:
                if isinstance(event, JobStep) and event.step and event.phase == "painting":
                    watch.saw(event.window, event.step)
                if isinstance(event, Edited):
                    self._learn(request, watch, event.seconds)
                yield event

    def restore(self, task: Restoration) -> Generator[JobStep | Restored, None, None]:
        """Restore a damaged clip. Closing the generator stops it within one step."""
        if self.settings.zero_gpu:
            self._refuse_too_long(self._expected_of_restoration(task))
        if not self.engine.loaded:
            yield JobStep("loading")
        yield from self._stepped(partial(self._restore_here, task))

    def estimate(self, request: EditRequest) -> float | None:
        """Seconds that an edit will take from the moment its turn comes, or None where nothing is known about the model
        or the request cannot be met."""
        try:
            expected = self._expected(request, probe(request.video))
        except (ValueError, OSError):  # bad input is the run's to report
            return None
        except RuntimeError as error:  # a device without room for a measurement
            logger.warning("no estimate: %s", error)
            return None
        if expected is None:
            return None
        return self._pace.seconds(request, expected) + (0 if self.engine.loaded else expected.startup_seconds)

    def edit_seconds(self, request: EditRequest) -> int:
        """GPU seconds to ask for. Never raises: a wrong guess must not cost a visitor the run."""
        expected = self.estimate(request)
        frames = request.frames or self.settings.info.max_frames
        return zero_gpu.seconds_to_ask(self._guess(frames, request.steps) if expected is None else expected)

    def restore_seconds(self, task: Restoration) -> int:
        """GPU seconds to ask for."""
        expected = self._expected_of_restoration(task)
        guess = self._guess(len(task.frames), task.steps)
        return zero_gpu.seconds_to_ask(guess if expected is None else expected.seconds)

    @property
    def read_tokens(self) -> int:
        """How many tokens of an instruction the model reads. Loads the model."""
        return int(self.engine.pipeline().config["max_sequence_length"])

    def unread(self, instruction: str) -> str:
        """The end of an instruction that the model does not read; "" where it reads all, or is not loaded yet."""
        if not self.engine.loaded:
            return ""
        from sama.pipeline.prompts import unread

        pipeline = self.engine.pipeline()
        prefix, spelling = pipeline.config["prompt_prefix"], pipeline.config["spell_quotes"]
        return unread(instruction, pipeline.tokenizer, self.read_tokens, prefix, spelling)

    def _expected(self, request: EditRequest, info: VideoInfo) -> Estimate | None:
        """The estimate of an edit; None for weights whose size is not known. Raises EditError for a range beyond the
        clip's end."""
        if self.settings.pipeline_loader is not None:
            return None
        from sama.edit.estimate import architecture_of, estimate

        try:
            architecture_of(request.preset)
        except ValueError:  # not fetched yet
            return None
        speed = self._measured_speed(request)
        # The device by name: asking torch for one would start CUDA, which the app of ZeroGPU must not do.
        device = "cuda" if self.settings.zero_gpu else request.device
        return estimate(replace(request, device=device), info, speed)

    def _expected_of_restoration(self, task: Restoration) -> Estimate | None:
        count, height, width, _ = task.frames.shape
        request = EditRequest(
            "", "restore", "", preset=self.settings.preset, steps=task.steps, guidance=task.guidance, keep_source="off",
            detail="off",
        )  # fmt: skip
        info = VideoInfo("", width, height, count, Fraction(24), count / 24, False, "", 0, False, 8)
        return self._expected(request, info)

    def _measured_speed(self, request: EditRequest) -> Speed:
        from sama.edit.estimate import architecture_of, default_device, known_speed, measure_speed

        if self._speed is None and self.settings.zero_gpu:
            self._speed, _ = zero_gpu.lent_speed()
        if self._speed is None:  # it hardly depends on the clip
            device = request.device or default_device()
            self._speed = known_speed(device)
        if self._speed is None:
            self.engine.pipeline()  # a model that is being loaded, or is at work, would slow the measurement
            with self.engine.busy:
                self._speed = measure_speed(device, 1000, architecture_of(request.preset))
        return self._speed

    def _learn(self, request: EditRequest, watch: StopWatch, seconds: float) -> None:
        if self._speed is None:  # nobody has asked for an estimate, and a measurement would hold up the result
            return
        try:
            expected = self._expected(request, probe(request.video))
        except (ValueError, OSError):  # the clip is gone
            return
        if expected is not None:
            self._pace.learn(request, expected, watch, seconds)

    def _refuse_too_long(self, expected: Estimate | None) -> None:
        if expected is not None:
            zero_gpu.refuse_too_long(expected.seconds - expected.startup_seconds)

    def _guess(self, frames: int, steps: int | None) -> float:
        """Seconds of a job with weights whose size is not known."""
        return 0.02 * frames * (steps or self.settings.info.steps)

    def _at_work(self) -> AbstractContextManager[Any]:
        """The lock of a working pipeline; no lock on ZeroGPU, where each job has a process and so a pipeline of its
        own, and where a lock held during a fork would stay locked in it."""
        return nullcontext() if self.settings.zero_gpu else self.engine.busy

    def _stepped(self, start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        # On ZeroGPU the job has a process of its own, and the visitor's quota is found through the calling context.
        return start() if self.settings.zero_gpu else _in_one_thread(start)

    def _edit(self, request: EditRequest) -> Generator[JobStep | Edited, None, None]:
        from sama.edit import edit_video

        pipeline = self.engine.pipeline()
        clock = _Clock()
        with self._at_work(), closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
            self.engine.wear(request.lora)
            for event in events:
                if event.result is not None:
                    yield Edited(_tokens_of(pipeline, event.result), event.result.seconds)
                elif event.phase != "saving" or not event.step:
                    done = max(0, event.window - 1) * event.steps + event.step
                    left = clock.left(done, event.windows * event.steps)
                    yield JobStep(
                        event.phase, event.step, event.steps, event.window, event.windows, left, event.preview
                    )

    def _restore(self, task: Restoration) -> Generator[JobStep | Restored, None, None]:
        import torch

        from sama.pipeline import SamaStep

        clock = _Clock()
        run = self.engine.pipeline().stream(
            video=task.frames,
            prompt=task.prompt,
            prompt_prefix=task.prefix,
            num_inference_steps=task.steps,
            guidance_scale=task.guidance,
            generator=torch.Generator().manual_seed(task.seed),
        )
        with self._at_work(), closing(run) as items:
            self.engine.wear(())
            for item in items:
                if isinstance(item, SamaStep):
                    left = clock.left(item.step, item.num_steps)
                    yield JobStep("restoring", item.step, item.num_steps, seconds_left=left)
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
    import torch

    from sama.model.semantics import anchor_tokens

    pictures = [np.asarray(image) for image in (result.anchor_source, result.anchor_result)]
    weight = next(tower.parameters())
    with torch.inference_mode():
        source, outcome = (
            anchor_tokens(tower, torch.from_numpy(image.copy()).to(weight).permute(2, 0, 1)[None] / 255)[0].float()
            for image in pictures
        )
    plan = np.asarray(result.semantic_tokens[0], np.float32)
    ordered = pipeline.transformer.config.semantic_positions == "grid"
    return Tokens(plan, source.cpu().numpy(), outcome.cpu().numpy(), pictures[0], pictures[1], ordered)


def _in_one_thread(start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
    """Run a generator in a thread of its own, step by step.

    gradio resumes a generator in whichever thread is free, but torch keeps its gradient mode per thread: a generator
    that moves between threads would lose it.
    """
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="job") as thread:
        iterator = thread.submit(start).result()
        try:
            while (item := thread.submit(next, iterator, end).result()) is not end:
                yield item  # type: ignore[misc]
        finally:
            thread.submit(iterator.close).result()
