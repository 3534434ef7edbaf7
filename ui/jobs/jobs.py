"""Runs the model's jobs (edit, restoration) as generators that yield every denoising step.

Closing a generator stops its job at the next step, here and on ZeroGPU. On ZeroGPU its events come from another
process, so they are small and can be pickled. A job leaves no state in this module.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sama.edit.request import NO_FEW_STEPS, EditRequest, check_request, loras_of, sampled
from sama.video import VideoInfo, probe
from ui.jobs import zero_gpu
from ui.jobs.countdown import Countdown
from ui.jobs.engine import Engine
from ui.jobs.ledger import Ledger
from ui.jobs.line import Line
from ui.jobs.machine import Machine, matrix_product
from ui.jobs.pace import Pace, Parts
from ui.jobs.remote import WorkerEngine
from ui.jobs.work import Edited, JobStep, Restoration, Restored, edit, restore
from ui.settings import Settings
from ui.web.visitors import current_visitor

if TYPE_CHECKING:
    from sama.edit.estimate import Estimate, Speed

logger = logging.getLogger(__name__)

GPU = "gpu"
"""What the model's events have in common for gradio, which starts them at once: they wait in the app's own `Line`."""
_LENT_AT_ONCE = 8  # jobs beside each other on ZeroGPU, each on a GPU of its own
_TELL_SECONDS = 1.0  # how often a waiting job says where it stands, and may be stopped
T = TypeVar("T")


class Jobs:
    """Starts the jobs of one app and estimates how long they take."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine: Engine | WorkerEngine = Engine(settings) if settings.gpus == 1 else WorkerEngine(settings)
        self._speed: Speed | None = None
        self._pace = Pace()
        self._machine = Machine(matrix_product if settings.gpus == 1 and not settings.zero_gpu else None)
        self.ledger = Ledger()
        self.line = Line(
            _LENT_AT_ONCE if settings.zero_gpu else 1, settings.queue_size, settings.limits.jobs, settings.zero_gpu
        )
        self._edit_here: Callable[..., Generator[Any, None, None]] = self._edit
        self._restore_here: Callable[..., Generator[Any, None, None]] = self._restore
        if settings.zero_gpu:
            self._edit_here = zero_gpu.on_lent_gpu(self._edit, self.edit_seconds)
            self._restore_here = zero_gpu.on_lent_gpu(self._restore, self.restore_seconds)

    @property
    def at_once(self) -> int:
        """How many of the model's events gradio may start: those that have a place in the line, and one to refuse."""
        return self.line.at_once + self.line.places + 1

    def start(self) -> None:
        """Load the model in the background, or before returning on ZeroGPU, which takes weights only while the app
        starts.

        On ZeroGPU a model that cannot be loaded raises: otherwise every visitor's process would try again, on their
        quota.

        """
        if self.settings.zero_gpu:
            self.engine.load()
        elif self.settings.warm:
            threading.Thread(target=self._warm, name="warm", daemon=True).start()

    def edit(self, request: EditRequest) -> Generator[JobStep | Edited, None, None]:
        """Edit a clip. Closing the generator stops it within one step and leaves no file.

        Bad requests are refused at once, before they wait and before a visitor's quota is spent.
        """
        check_request(request, with_weights=False)
        expected = self._known(request)
        if self.settings.zero_gpu:
            self._refuse_too_long(expected)
        parts = None if expected is None else self._pace.parts(request, expected)
        slower = self._slower()
        countdown = Countdown(parts, slower)
        with closing(self._in_turn("edit", countdown, partial(self._edit_here, request))) as events:
            for event in events:
                if isinstance(event, Edited) and expected is not None:
                    took = countdown.took(Parts.of(expected))
                    if took is not None:
                        self._pace.learn(request, expected, took, slower)
                yield event

    def restore(self, task: Restoration) -> Generator[JobStep | Restored, None, None]:
        """Restore a damaged clip. Closing the generator stops it within one step."""
        expected = self._expected_of_restoration(task) if self._speed is not None or self.settings.zero_gpu else None
        if self.settings.zero_gpu:
            self._refuse_too_long(expected)
        countdown = Countdown(None if expected is None else Parts.of(expected), self._slower())
        yield from self._in_turn("restoration", countdown, partial(self._restore_here, task))

    def health(self) -> dict[str, Any]:
        """Facts for a monitor, without a word of any user's: `status` is "ok", "loading" or "stopping"."""
        alive, wanted = self.engine.workers
        status = "stopping" if self.ledger.closing.is_set() else "ok" if self.engine.loaded else "loading"
        counts = self.ledger.counts() | {"waiting": self.line.waiting}
        return {"status": status, "workers_alive": alive, "workers": wanted, **counts}

    def close(self, seconds: float = 60.0) -> None:
        """Refuse new jobs, stop the one at work within its step, for which its user gets a sentence, and end the
        workers. seconds: how long the job may take to stop."""
        self.ledger.close(seconds)
        self.engine.close()

    def estimate(self, request: EditRequest) -> float | None:
        """Seconds that an edit will take from the moment its turn comes, on this machine as busy as it is now; None
        where nothing is known about the model, or the request cannot be met."""
        try:
            expected = self._expected(request, probe(request.video))
        except (ValueError, OSError):  # bad input is the run's to report
            return None
        except RuntimeError as error:  # a device without room for a measurement
            logger.warning("no estimate: %s", error)
            return None
        if expected is None:
            return None
        seconds = self._pace.parts(request, expected).total * self._slower()
        return seconds + (0 if self.engine.loaded else expected.startup_seconds)

    def first_window(self, request: EditRequest) -> int:
        """How many frames the first window of an edit has. Raises EditError for a request that cannot be met."""
        start, stop = check_request(request, with_weights=False).plan.windows[0]
        return stop - start

    def restoration_seconds(self, task: Restoration) -> float | None:
        """Seconds that a restoration will take from the moment its turn comes; None where nothing is known about the
        model."""
        try:
            expected = self._expected_of_restoration(task)
        except RuntimeError as error:  # a device without room for a measurement
            logger.warning("no estimate: %s", error)
            return None
        if expected is None:
            return None
        seconds = self._pace.parts(_as_edit(task, self.settings), expected).total * self._slower()
        return seconds + (0 if self.engine.loaded else expected.startup_seconds)

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
        return self.engine.reader.max_tokens

    def unread(self, instruction: str) -> str:
        """The end of an instruction that the model does not read; "" where it reads all, or is not loaded yet."""
        return self.engine.reader.unread(instruction) if self.engine.loaded else ""

    def _expected(self, request: EditRequest, info: VideoInfo) -> Estimate | None:
        """The estimate of an edit; None for weights whose size is not known. Raises EditError for a range beyond the
        clip's end."""
        if self.settings.pipeline_loader is not None:
            return None
        from sama.edit.estimate import architecture_of, estimate
        from sama.workers.estimate import on_several

        try:
            architecture_of(request.preset)
        except ValueError:  # not fetched yet
            return None
        speed = self._measured_speed(request)
        # The device by name: asking torch for one would start CUDA, which the app of ZeroGPU must not do.
        device = "cuda" if self.settings.zero_gpu else request.device
        return on_several(estimate(replace(request, device=device), info, speed), request, self.settings.gpus)

    def _expected_of_restoration(self, task: Restoration) -> Estimate | None:
        count, height, width, _ = task.frames.shape
        info = VideoInfo("", width, height, count, Fraction(24), count / 24, False, "", 0, False, 8)
        return self._expected(_as_edit(task, self.settings), info)

    def _measured_speed(self, request: EditRequest) -> Speed:
        from sama.edit.estimate import default_device

        if self._speed is None and self.settings.zero_gpu:
            self._speed, _ = zero_gpu.lent_speed()
        if self._speed is None:  # it hardly depends on the clip
            device = request.device or default_device()
            if device == "cpu":
                self._machine.refer()
            self._speed = self.engine.speed(request.preset, device)
        return self._speed

    def _known(self, request: EditRequest) -> Estimate | None:
        """The estimate of an edit that is to start now: None rather than a measurement that it would wait for."""
        if self._speed is None and not self.settings.zero_gpu:
            return None
        try:
            return self._expected(request, probe(request.video))
        except (ValueError, OSError):  # the job will say what is wrong
            return None

    def _slower(self) -> float:
        """How many times slower than when its speed was measured this machine is: by the job at work, or by a trial."""
        at_work = self.line.pace
        return self._machine.pace() if at_work is None else at_work

    def _warm(self) -> None:
        self.engine.warm()
        if self.settings.pipeline_loader is None:
            try:
                self._measured_speed(EditRequest("", "", "", preset=self.settings.preset, device=self.settings.device))
            except (ValueError, OSError, RuntimeError) as error:
                logger.warning("no estimates yet: %s", error)

    def _refuse_too_long(self, expected: Estimate | None) -> None:
        if expected is not None:
            zero_gpu.refuse_too_long(expected.seconds - expected.startup_seconds)

    def _guess(self, frames: int, steps: int | None) -> float:
        """Seconds of a job with weights whose size is not known."""
        return 0.02 * frames * (steps or self.settings.info.steps)

    def _in_turn(
        self, kind: str, countdown: Countdown, start: Callable[[], Generator[T, None, None]]
    ) -> Generator[JobStep | T, None, None]:
        """A job's events, from its place in the line to its end, with the seconds left in each."""
        own = None if countdown.parts is None else countdown.parts.total * countdown.prior
        with self.line.turn(current_visitor(), own) as turn:
            while not turn.wait(_TELL_SECONDS):
                self.ledger.check()
                wait = turn.seconds_ahead
                left = None if wait is None or own is None else wait + own
                yield JobStep("waiting", ahead=turn.ahead, wait=wait, seconds_left=left)
            if not self.engine.loaded:
                yield JobStep("loading")
            turn.countdown = countdown
            with closing(self._watched(kind, start)) as events:
                for event in events:
                    if isinstance(event, JobStep):
                        event = replace(event, seconds_left=countdown.saw(event))
                    yield event

    def _watched(self, kind: str, start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        """A job's events, until its time is over or the app stops."""
        with self.ledger.job(kind, self.settings.time_limit) as check, closing(self._stepped(start)) as events:
            for event in events:
                check()
                yield event
                check()

    def _stepped(self, start: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        # On ZeroGPU the job has a process of its own, and the visitor's quota is found through the calling context.
        return start() if self.settings.zero_gpu else _in_one_thread(start)

    def _edit(self, request: EditRequest) -> Generator[JobStep | Edited, None, None]:
        request = self._sampled(request)
        yield from self.engine.run(partial(edit, request), loras_of(request))

    def _sampled(self, request: EditRequest) -> EditRequest:
        """The request as the app's pipeline meets it: one in place of the preset's has no LoRA for few steps."""
        if self.settings.pipeline_loader is not None and request.few_steps is None:
            request = replace(request, few_steps=NO_FEW_STEPS)
        return sampled(request)

    def _restore(self, task: Restoration) -> Generator[JobStep | Restored, None, None]:
        yield from self.engine.run(partial(restore, task))


def _as_edit(task: Restoration, settings: Settings) -> EditRequest:
    """The edit that takes as long as a restoration."""
    keep = "off" if task.clean is None else "on"  # like it, a measured restoration decodes two clips
    return EditRequest(
        "", "restore", "", preset=settings.preset, steps=task.steps, guidance=task.guidance, keep_source=keep,
        detail="off", few_steps=NO_FEW_STEPS,
    )  # fmt: skip


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
