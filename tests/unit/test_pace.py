"""How long an edit takes, as the page tells it: close at first, and learnt from jobs of the same kind."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from sama.edit.estimate import Speed, estimate
from sama.edit.request import EditRequest
from sama.video import probe
from tests.media import make_clip
from ui.jobs.jobs import Edited, Jobs
from ui.jobs.pace import Kind, Pace, StopWatch
from ui.settings import ASSETS, Settings

FACTOR = 1.5


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=5, width=256, height=192)


@pytest.fixture
def request_(clip, tmp_path):
    return EditRequest(clip, "Make it snowy", tmp_path / "result.mp4", steps=4, device="cpu")


def expected_of(request):
    return estimate(request, probe(request.video), Speed(1e12, 1e12, 1e12, "a test"))


def watched(monkeypatch, steps: int, seconds: float) -> StopWatch:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch = StopWatch()
    for step in range(1, steps + 1):
        watch.saw(1, step)
        clock[0] += seconds
    monkeypatch.undo()
    return watch


def test_a_job_teaches_its_own_kind_and_no_other(request_, monkeypatch):
    pace, other = Pace(), replace(request_, guidance=1.0)
    first, second = expected_of(request_), expected_of(other)
    before = pace.seconds(other, second)
    pace.learn(request_, first, watched(monkeypatch, 4, 30.0), 4 * 30.0 + 7)
    assert pace.seconds(request_, first) == pytest.approx(127)
    assert pace.seconds(other, second) == before
    longer = replace(request_, steps=8)  # the same kind: steps of the same size
    assert pace.seconds(longer, expected_of(longer)) == pytest.approx(247)


def test_an_edit_without_the_source_decoded_is_of_another_kind(request_):
    off = replace(request_, keep_source="off", detail="off")
    kinds = {replace(off, keep_source=keep, detail=detail): (keep, detail) != ("off", "off")
             for keep in ("auto", "off") for detail in ("auto", "on", "off")}  # fmt: skip
    for request, decodes in kinds.items():
        assert Kind.of(request, expected_of(request)).decodes_source == decodes


def test_one_slow_job_does_not_spoil_what_was_learnt(request_, monkeypatch):
    pace, expected = Pace(), expected_of(request_)
    for seconds in (1.0, 1.0, 60.0):
        pace.learn(request_, expected, watched(monkeypatch, 4, seconds), 4 * seconds + 2)
    assert pace.seconds(request_, expected) == pytest.approx(6)


def test_a_loaded_model_needs_no_start(request_):
    jobs = Jobs(Settings(warm=False))
    jobs._speed = Speed(1e12, 1e12, 1e12, "a test")
    cold = jobs.estimate(request_)
    jobs.engine._pipeline = object()
    expected = expected_of(request_)
    assert cold - jobs.estimate(request_) == expected.startup_seconds > 1
    assert cold == pytest.approx(expected.seconds)


@pytest.mark.skipif(not (ASSETS / "sama-tiny" / "model_index.json").is_file(), reason="needs assets/sama-tiny")
def test_the_embedded_model_takes_as_long_as_was_told(request_, monkeypatch):
    """On one thread and by its processor time, which is what an idle machine's clock would show."""
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        jobs = Jobs(Settings(warm=False))
        jobs.engine.warm()
        told = jobs.estimate(request_)
        *_, done = jobs.edit(request_)
        again = jobs.estimate(request_)
    finally:
        torch.set_num_threads(threads)
    assert isinstance(done, Edited)
    assert done.seconds / FACTOR < told < done.seconds * FACTOR
    assert again == pytest.approx(done.seconds, rel=0.1)
