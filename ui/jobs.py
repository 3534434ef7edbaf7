"""Work for the model: one pipeline, and jobs as generators that yield every denoising step.

A generator is the only kind of job that can be stopped: closing it ends the work at its next step, here and on ZeroGPU.
What it yields crosses a process there, so it is small and can be pickled. Nothing of a job outlives it in this module.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sama.request import EditError, EditRequest, parse_lora
from sama.video import probe
from ui.runs import Tokens
from ui.settings import Settings

if TYPE_CHECKING:
    from sama.edit import EditResult
    from sama.estimate import Speed
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

GPU = "gpu"
"""The queue that everything that uses the model waits in, one job at a time."""
_SHORTEST, _LONGEST = 15, 120  # seconds of a lent GPU
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Where a job is: step of steps in window of windows, counted from 1; 0 before the first.

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
    """The end of an edit, whose files are written: its anchor tokens, where the model has them."""

    tokens: Tokens | None
    seconds: float


@dataclass(frozen=True)
class Restored:
    """The end of a restoration: (T, H, W, 3) uint8."""

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


class Engine:
    """The pipeline, loaded when it is first needed, by whoever comes first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.busy = threading.Lock()
        """Held by the job at work: a job that was stopped may be in its last step when the next one begins."""
        self._pipeline: SamaPipeline | None = None
        self._adapters: dict[Path, str] = {}

    @property
    def loaded(self) -> bool:
        return self._pipeline is not None

    def pipeline(self) -> SamaPipeline:
        """The pipeline; the first call loads it, and others wait for that."""
        with self._lock:
            if self._pipeline is None:
                pipeline = self._load()
                names = getattr(pipeline.transformer, "peft_config", {})  # in the order in which they were loaded
                self._adapters = dict(zip((lora.path for lora in self._settings.loras.values()), names, strict=False))
                self._pipeline = pipeline
            return self._pipeline

    def wear(self, lora: Sequence[str]) -> None:
        """Let exactly these LoRAs act, at their strengths; none leaves the model itself. They are among those that the
        app was started with: EditError for another."""
        pipeline = self.pipeline()
        chosen = [parse_lora(spec) for spec in lora]
        if any(path not in self._adapters for path, _ in chosen):
            raise EditError("This app was not started with that LoRA; choose one that it offers.")
        if chosen:
            pipeline.enable_lora()
            pipeline.set_adapters([self._adapters[path] for path, _ in chosen], [scale for _, scale in chosen])
        elif self._adapters:
            pipeline.disable_lora()

    def _load(self) -> SamaPipeline:
        paths = [str(lora.path) for lora in self._settings.loras.values()]
        if self._settings.pipeline_loader is not None:
            return _with_loras(self._settings.pipeline_loader(), paths)
        from sama.edit import load_pipeline

        device = "cuda" if self._settings.zero_gpu else self._settings.device
        return load_pipeline(self._settings.preset, device=device, lora=paths)

    def warm(self) -> None:
        """Load the model and run it once on a grey clip, so that the first visitor does not pay for it."""
        try:
            pipeline = self.pipeline()
            if not self._settings.zero_gpu:  # its GPU is lent to visitors, not to us
                grey = np.full((5, 64, 64, 3), 127, np.uint8)
                with self.busy:
                    self.wear(())
                    pipeline(video=grey, prompt="", num_inference_steps=1, guidance_scale=1.0)
        except Exception as error:  # the first real job meets the same failure and tells its user
            logger.warning("the model could not be loaded ahead of time: %s", error)


class Jobs:
    """The jobs of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self._speed: Speed | None = None
        self._pace = 1.0
        """Seconds that the last edit took for each that was expected: a short measurement on a busy machine errs."""
        self._edit_on_gpu = _on_gpu(settings, self._edit, self.edit_seconds)
        self._restore_on_gpu = _on_gpu(settings, self._restore, self.restore_seconds)

    def start(self) -> None:
        """Load in the background; at once on ZeroGPU, which moves weights to its GPU only while the app starts."""
        if self.settings.zero_gpu:
            self.engine.warm()
        elif self.settings.warm:
            threading.Thread(target=self.engine.warm, name="warm", daemon=True).start()

    def edit(self, request: EditRequest) -> Generator[Step | Edited, None, None]:
        """Edit a clip. Closing the generator stops it within one step and leaves no file."""
        if not self.engine.loaded:
            yield Step("loading")
        done: Edited | None = None
        with closing(self._stepped(partial(self._edit_on_gpu, request))) as events:
            for event in events:
                if isinstance(event, Edited):
                    done = event
                else:
                    yield event
        if done is not None:
            expected = self._estimate(request) if self._speed is not None else None
            self._pace = done.seconds / expected if expected else self._pace
            yield done

    def restore(self, task: Restoration) -> Generator[Step | Restored, None, None]:
        """Restore a damaged clip. Closing the generator stops it within one step."""
        if not self.engine.loaded:
            yield Step("loading")
        yield from self._stepped(partial(self._restore_on_gpu, task))

    def estimate(self, request: EditRequest) -> float | None:
        """Seconds that an edit will take, or None where nothing is known about the model."""
        seconds = self._estimate(request)
        return None if seconds is None else seconds * self._pace

    def _estimate(self, request: EditRequest) -> float | None:
        if self.settings.pipeline_loader is not None:
            return None
        from sama.estimate import architecture_of, default_device, estimate, known_speed, measure_speed

        try:
            info = probe(request.video)
            architecture = architecture_of(request.preset)
            if self._speed is None:  # it hardly depends on the clip
                device = request.device or default_device()
                self._speed = known_speed(device)
            if self._speed is None:
                self.engine.pipeline()  # a model that is being loaded, or is at work, would slow the measurement
                with self.engine.busy:
                    self._speed = measure_speed(device, 1000, architecture)
            return estimate(request, info, self._speed).seconds
        except (
            ValueError,
            OSError,
        ):  # bad input is the run's to report; weights of one's own have no published numbers
            return None

    def edit_seconds(self, request: EditRequest) -> int:
        """GPU seconds to ask for. Never raises: a wrong guess must not cost a visitor the run."""
        frames = request.frames or self.settings.info.max_frames
        steps = request.steps or self.settings.info.steps
        return _clamp(10 + 0.02 * frames * steps)

    def restore_seconds(self, task: Restoration) -> int:
        """GPU seconds to ask for."""
        return _clamp(10 + 0.02 * len(task.frames) * (task.steps or self.settings.info.steps))

    def _stepped(self, start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        # On ZeroGPU the job has a process of its own, and the visitor's quota is found through the calling context.
        return start() if self.settings.zero_gpu else _in_one_thread(start)

    def _edit(self, request: EditRequest) -> Iterator[Step | Edited]:
        from sama.edit import edit_video

        pipeline = self.engine.pipeline()
        clock = _Clock()
        with self.engine.busy, closing(edit_video(request, pipeline=pipeline, previews=True)) as events:
            self.engine.wear(request.lora)
            for event in events:
                if event.result is not None:
                    yield Edited(_tokens_of(pipeline, event.result), event.result.seconds)
                elif event.phase != "saving" or not event.step:
                    done = max(0, event.window - 1) * event.steps + event.step
                    left = clock.left(done, event.windows * event.steps)
                    yield Step(event.phase, event.step, event.steps, event.window, event.windows, left, event.preview)

    def _restore(self, task: Restoration) -> Iterator[Step | Restored]:
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
        with self.engine.busy, closing(run) as items:
            self.engine.wear(())
            for item in items:
                if isinstance(item, SamaStep):
                    left = clock.left(item.step, item.num_steps)
                    yield Step("restoring", item.step, item.num_steps, seconds_left=left)
                else:
                    yield Restored((np.asarray(item.frames[0]) * 255).round().clip(0, 255).astype(np.uint8))


def _with_loras(pipeline: SamaPipeline, paths: Sequence[str]) -> SamaPipeline:
    from sama.checkpoints import CheckpointError

    try:
        for path in paths:
            pipeline.load_lora_weights(path)
    except CheckpointError as error:
        raise EditError(str(error)) from error
    return pipeline


class _Clock:
    """Seconds left, from the pace since the first step."""

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
    """The plan of the first window, with the tower's tokens of the two frames that it is about."""
    tower = getattr(pipeline, "semantic_tower", None)
    if tower is None or result.semantic_tokens is None:
        return None
    import torch

    from sama.semantics import anchor_tokens

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


def _on_gpu(settings: Settings, function: Callable[..., Any], seconds: Callable[..., int]) -> Callable[..., Any]:
    if not settings.zero_gpu:
        return function
    import spaces

    return spaces.GPU(duration=seconds)(function)


def _clamp(seconds: float) -> int:
    return int(min(_LONGEST, max(_SHORTEST, seconds)))
