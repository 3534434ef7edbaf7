"""ZeroGPU, with a stand-in for its decorator: a job in a forked process, what it yields pickled, exceptions lost."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

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
    """What `spaces` is to a job, as far as a job can tell: see spaces.zero.wrappers.generator_function_wrapper."""

    asked: list[int] = field(default_factory=list)

    def decorate(self, duration):
        return lambda task: lambda *args: self._run(task, duration, args)

    def _run(self, task, duration, args):
        self.asked.append(duration(*args))
        context = multiprocessing.get_context("fork")
        results, stop = context.Queue(), context.Event()
        sent = pickle.dumps(args)

        def work():
            torch.set_num_threads(1)  # a forked process has none of the threads of its parent
            items = task(*pickle.loads(sent))
            try:
                for item in items:
                    if stop.is_set():
                        items.close()
                        break
                    results.put(("item", pickle.dumps(item)))
            except Exception as error:
                results.put(("error", type(error).__name__))
            results.put(("end", None))

        process = context.Process(target=work, daemon=True)
        process.start()
        try:
            while (answer := results.get(timeout=60))[0] != "end":
                kind, value = answer
                if kind == "error":
                    raise gr.Error(value, title="ZeroGPU worker error")
                yield pickle.loads(value)
        except GeneratorExit:
            stop.set()
            while results.get(timeout=60)[0] != "end":
                pass
            raise
        finally:
            process.join(10)


@pytest.fixture
def lender(monkeypatch) -> Lender:
    lender, module = Lender(), ModuleType("spaces")
    module.GPU = lender.decorate
    monkeypatch.setitem(sys.modules, "spaces", module)
    return lender


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
    assert len(lender.asked) == 1


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


def test_a_model_that_cannot_be_loaded_ends_the_start(lender):
    with pytest.raises(EditError, match="missing"):
        borrowing(lambda **_: (_ for _ in ()).throw(EditError("The weights are missing.")))


def test_a_lock_that_is_held_while_the_process_is_made_does_not_stop_the_job(lender, clip, tmp_path):
    jobs = borrowing()
    with jobs.engine.busy, jobs.engine._lock:
        *_, last = jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "result.mp4"))
    assert isinstance(last, Edited)
