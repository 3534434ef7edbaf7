"""ZeroGPU with the wrapper of `spaces` itself: a job in a forked process, what it yields pickled, exceptions lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch

from sama.edit.request import EditRequest
from sama.errors import EditError
from sama.video import probe
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from ui.errors import ReportedError, sentence
from ui.jobs.jobs import Edited, Jobs, JobStep, Restoration, Restored
from ui.settings import Settings

STEPS = 3


@dataclass
class Lender:
    """ZeroGPU as far as an app can tell: the wrapper of `spaces` with its process, queues and errors; the service that
    lends, and CUDA, are stood in for."""

    asked: list[int] = field(default_factory=list)
    released: list[bool] = field(default_factory=list)
    refusal: Exception | None = None

    def schedule(self, *, duration, **_others):
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(int(duration.total_seconds()))
        return SimpleNamespace(allowToken="token", nvidiaIndex=len(self.asked), nvidiaUUID="card", idle=True)

    def release(self, _token, fail=False, **_others):
        self.released.append(not fail)


def without_cuda() -> ModuleType:
    """`spaces.zero.torch`, which cannot be imported beside a torch without CUDA."""
    module = ModuleType("spaces.zero.torch")
    for name in ("unpatch", "enter_mode", "move"):
        setattr(module, name, lambda *_, **__: None)
    module.size = lambda: 0
    module.init = lambda _card: torch.set_num_threads(1)  # a forked process has none of the threads of its parent
    return module


@pytest.fixture
def lender(monkeypatch) -> Iterator[Lender]:
    import spaces.zero

    monkeypatch.setitem(sys.modules, "spaces.zero.torch", without_cuda())
    monkeypatch.setattr(spaces.zero, "torch", sys.modules["spaces.zero.torch"], raising=False)
    from spaces.zero import wrappers

    lender, workers = Lender(), []
    monkeypatch.setattr(
        "spaces.GPU", lambda duration: lambda task: wrappers.generator_function_wrapper(task, duration, None)
    )
    for name in ("schedule", "release"):
        monkeypatch.setattr(wrappers.client, name, getattr(lender, name))
    monkeypatch.setattr(wrappers.client, "allow", lambda _token: None)
    monkeypatch.setattr(wrappers.client, "get_duration_seconds", lambda duration, _size: duration.total_seconds() + 600)
    start = wrappers.Process.start
    monkeypatch.setattr(wrappers.Process, "start", lambda process: (workers.append(process), start(process))[1])
    yield lender
    for worker in workers:
        worker.kill()
        worker.join(10)


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_clip(tmp_path / "clip.mp4", frames=9)


def borrowing(pipeline=tiny_pipeline, **settings) -> Jobs:
    jobs = Jobs(Settings(pipeline_loader=lambda: pipeline(default_steps=STEPS), zero_gpu=True, **settings))
    jobs.start()
    return jobs


def broken_pipeline(error: Exception, **config):
    pipeline = tiny_pipeline(**config)

    def fail(*_args, **_kwargs):
        raise error
        yield

    pipeline.stream = fail
    return pipeline


def test_an_edit_comes_back_from_its_process(lender, clip, tmp_path):
    events = list(borrowing().edit(EditRequest(clip, "Make it snowy", tmp_path / "result.mp4")))
    painted = [
        event.step for event in events if isinstance(event, JobStep) and event.phase == "painting" and event.step
    ]
    assert painted == list(range(1, STEPS + 1))
    assert isinstance(events[-1], Edited) and np.isfinite(events[-1].tokens.plan.astype(float)).all()
    assert probe(tmp_path / "result.mp4").frames == 9
    assert len(lender.asked) == 1 and lender.released == [True]


def test_a_restoration_comes_back_from_its_process(lender):
    frames = np.full((5, 64, 64, 3), 127, np.uint8)
    *_, last = borrowing().restore(Restoration(frames, "[Restore]", ""))
    assert isinstance(last, Restored) and last.frames.shape == frames.shape


def test_closing_a_lent_edit_stops_it_and_leaves_no_file(lender, clip, tmp_path):
    run = borrowing().edit(EditRequest(clip, "Make it snowy", tmp_path / "result.mp4"))
    with closing(run):
        while next(run).step < 1:
            pass
    assert not list(tmp_path.glob("*result*"))


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (EditError("That cannot be done; do this."), "That cannot be done; do this."),
        (KeyError("secret"), "ref "),
    ],
)
def test_a_failure_in_the_process_arrives_as_its_sentence(lender, clip, tmp_path, error, part):
    jobs = borrowing(lambda **config: broken_pipeline(error, **config))
    with pytest.raises(ReportedError) as failure:
        list(jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "result.mp4")))
    words = sentence(failure.value)
    assert part in words and "worker error" not in words.lower() and "secret" not in words


@pytest.mark.parametrize(
    "change", [{"start": 99}, {"steps": 999}, {"instruction": ""}, {"video": "missing.mp4"}, {"output": "result.gif"}]
)
def test_what_can_be_refused_is_refused_before_a_gpu_is_lent(lender, clip, tmp_path, change):
    values = {"video": clip, "instruction": "Make it snowy", "output": tmp_path / "result.mp4"} | change
    with pytest.raises(EditError):
        list(borrowing().edit(EditRequest(**values)))
    assert lender.asked == []


def test_the_app_of_zero_gpu_never_starts_cuda(lender, clip, tmp_path, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise RuntimeError("CUDA must not be initialized in the main process")

    # As ZeroGPU leaves torch: it says that there is CUDA, and fails where somebody uses it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA RTX PRO 6000 Blackwell Server Edition")
    for name in ("_lazy_init", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    for preset in ("tiny", "14b"):
        jobs = Jobs(Settings(preset=preset, zero_gpu=True))
        request = EditRequest(clip, "Make it snowy", tmp_path / "result.mp4", preset=preset)
        assert jobs.estimate(request) > 0
        assert jobs.edit_seconds(request) >= 15


def test_the_time_asked_for_is_what_the_edit_needs(lender, tmp_path):
    jobs = Jobs(Settings(preset="14b", zero_gpu=True))
    clip = make_clip(tmp_path / "long.mp4", frames=160)

    def asked(frames, steps):
        return jobs.edit_seconds(EditRequest(clip, "x", tmp_path / "r.mp4", preset="14b", frames=frames, steps=steps))

    # 81 frames in 50 guided steps: about 840 s of a whole H200, and the card that is lent is less than half of one.
    assert 1500 < asked(81, 50) <= 2400
    assert asked(17, 4) < asked(17, 50) < asked(81, 50)
    with pytest.raises(EditError, match=r"GPU time.*fewer frames or steps"):
        list(jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "r.mp4", preset="14b", steps=50)))
    assert lender.asked == []


def test_a_refusal_of_the_lender_is_said_in_words_and_the_next_visitor_is_served(lender, clip, tmp_path):
    jobs = borrowing()
    request = EditRequest(clip, "Make it snowy", tmp_path / "result.mp4")
    lender.refusal = gr.Error("You have exceeded your GPU quota (48s requested).", title="ZeroGPU quota exceeded")
    with pytest.raises(gr.Error) as refused:
        list(jobs.edit(request))
    assert "Your free GPU time is used up" in sentence(refused.value) and jobs.line.waiting == 0
    lender.refusal = None
    *_, last = jobs.edit(request)
    assert isinstance(last, Edited)


def test_jobs_of_different_visitors_run_beside_each_other_and_those_of_one_do_not(lender, clip, tmp_path, monkeypatch):
    jobs, visitor = borrowing(), ["a"]
    monkeypatch.setattr("ui.jobs.jobs.current_visitor", lambda: visitor[0])
    monkeypatch.setattr("ui.jobs.jobs._TELL_SECONDS", 0.01)
    runs = []
    for number, name in enumerate(("a", "b", "a")):
        visitor[0] = name
        run = jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / f"{number}.mp4"))
        runs.append(run)
        first = next(run)
        assert first.phase == ("waiting" if number == 2 else "reading"), number
        assert number != 2 or first.ahead == 0
    list(runs[0])
    *_, last = runs[2]
    assert isinstance(last, Edited) and len(lender.asked) == 3
    runs[1].close()


def test_a_model_that_cannot_be_loaded_ends_the_start(lender):
    with pytest.raises(EditError, match="missing"):
        borrowing(lambda **_: (_ for _ in ()).throw(EditError("The weights are missing.")))


def test_a_lock_that_is_held_while_the_process_is_made_does_not_stop_the_job(lender, clip, tmp_path):
    jobs = borrowing()
    with jobs.engine.busy, jobs.engine._lock:
        *_, last = jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "result.mp4"))
    assert isinstance(last, Edited)
