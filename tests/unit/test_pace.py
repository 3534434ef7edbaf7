"""How long an edit takes, as the page tells it: close at first, and learnt from jobs of the same kind."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from sama.edit.estimate import Speed, estimate
from sama.edit.request import EditRequest
from sama.video import probe
from tests.media import make_clip
from ui.jobs.countdown import Countdown
from ui.jobs.jobs import Edited, Jobs, JobStep
from ui.jobs.line import Line, LineFullError
from ui.jobs.machine import Machine
from ui.jobs.pace import Kind, Pace, Parts, Ratios
from ui.settings import ASSETS, Settings

FACTOR = 1.5


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=5, width=256, height=192)


@pytest.fixture
def request_(clip, tmp_path):
    return EditRequest(clip, "Make it snowy", tmp_path / "result.mp4", steps=4, device="cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def expected_of(request):
    return estimate(request, probe(request.video), Speed(1e12, 1e12, 1e12, "a test"))


def test_the_parts_of_an_estimate_are_the_whole(request_):
    expected = expected_of(request_)
    assert Parts.of(expected).total == pytest.approx(expected.seconds - expected.startup_seconds)


def test_a_job_teaches_its_own_kind_and_no_other(request_):
    pace, other = Pace(), replace(request_, guidance=1.0)
    first, second = expected_of(request_), expected_of(other)
    for _ in range(3):
        pace.learn(request_, first, Ratios(1, 3, 2, 1))
    plain, learnt = Parts.of(first), pace.parts(request_, first)
    assert (learnt.encode, learnt.step, learnt.decode) == (plain.encode, 3 * plain.step, 2 * plain.decode)
    assert pace.parts(other, second) == Parts.of(second)
    longer = replace(request_, steps=8)  # the same kind: steps of the same size
    assert pace.parts(longer, expected_of(longer)).step == learnt.step


def test_an_edit_without_the_source_decoded_is_of_another_kind(request_):
    off = replace(request_, keep_source="off", detail="off")
    kinds = {replace(off, keep_source=keep, detail=detail): (keep, detail) != ("off", "off")
             for keep in ("auto", "off") for detail in ("auto", "on", "off")}  # fmt: skip
    for request, decodes in kinds.items():
        assert Kind.of(request, expected_of(request)).decodes_source == decodes


@pytest.mark.parametrize("jobs", [[4.0], [4.0, 1.0], [1.0, 4.0, 1.0], [1.0, 1.0, 5.0, 6.0, 1.0]])
def test_busy_runs_do_not_spoil_the_estimate_of_everybody(request_, jobs):
    pace, expected = Pace(), expected_of(request_)
    for slow in jobs:
        pace.learn(request_, expected, Ratios(slow, slow, slow, slow))
    assert pace.parts(request_, expected).total == pytest.approx(Parts.of(expected).total, rel=FACTOR - 1)


def test_what_was_learnt_is_of_the_idle_machine_and_forgotten_after_an_hour(request_, clock):
    pace, expected = Pace(), expected_of(request_)
    for _ in range(3):
        pace.learn(request_, expected, Ratios(6, 6, 6, 6), slower=3.0)
    assert pace.parts(request_, expected).total == pytest.approx(2 * Parts.of(expected).total)
    clock[0] += 3601
    assert pace.parts(request_, expected) == Parts.of(expected)


def test_the_machine_is_as_busy_as_its_work_is_slow(clock):
    slow = [0.01]

    def work():
        clock[0] += slow[0]

    machine = Machine(lambda: work)
    assert machine.pace() == 1  # nothing to compare with
    machine.refer()
    slow[0] = 0.03
    assert machine.pace() == pytest.approx(3)
    slow[0] = 0.01
    assert machine.pace() == pytest.approx(3)  # asked again at once
    clock[0] += 60
    assert machine.pace() == pytest.approx(1)


def job(parts, slower, rng):
    """The events of a job, each with the seconds until it."""
    wobble = lambda seconds: seconds * slower * rng.uniform(0.85, 1.15)  # noqa: E731
    yield 0.0, JobStep("reading")
    for window in range(1, parts.windows + 1):
        at = {"window": window, "windows": parts.windows}
        for step in range(1, parts.steps + 1):
            yield wobble(parts.step + (parts.encode if step == 1 else 0)), JobStep("painting", step, parts.steps, **at)
        yield 0.0, JobStep("decoding", **at)
        yield wobble(parts.decode), JobStep("saving", **at)
        for _ in range(4):
            yield wobble(parts.write / 4), JobStep("saving", **at)


@pytest.mark.parametrize("slower", [0.6, 1.0, 4.0])
@pytest.mark.parametrize("known", [True, False])
def test_the_seconds_left_are_true_in_every_phase_on_a_busy_and_on_an_idle_machine(clock, slower, known):
    parts = Parts(windows=3, steps=6, encode=2.0, step=1.0, decode=6.0, write=1.5)
    events = list(job(parts, slower, random.Random(0)))
    end = clock[0] + sum(seconds for seconds, _ in events)
    countdown = Countdown(parts if known else None, 1.0)
    told = []
    for number, (seconds, event) in enumerate(events):
        clock[0] += seconds
        left, real = countdown.saw(event), end - clock[0]
        if left is not None and (number > 1 or slower == 1.0) and (known or event.window > 1):
            assert real / FACTOR - 0.5 * slower < left < real * FACTOR + 0.5 * slower, event
            told.append(event.phase)
    assert {"painting", "decoding", "saving"} <= set(told) and left < slower
    took = countdown.took(parts)
    for value in (took.encode, took.step, took.decode, took.write):
        assert slower * 0.6 < value < slower * 1.5


def test_an_edit_in_one_step_teaches_too(clock):
    parts = Parts(windows=1, steps=1, encode=2.0, step=1.0, decode=6.0, write=1.5)
    countdown = Countdown(parts, 1.0)
    for seconds, event in job(parts, 3.0, random.Random(0)):
        clock[0] += seconds
        countdown.saw(event)
    took = countdown.took(parts)
    for value in (took.encode, took.step, took.decode, took.write):
        assert 3 * 0.8 < value < 3 * 1.2


def test_a_line_is_fair_and_tells_each_its_place(clock):
    line = Line(at_once=1, places=3, each=2)
    with line.turn("a", 30.0) as first, line.turn("b", 10.0) as second, line.turn("a", 20.0) as third:
        assert [turn.ahead for turn in (first, second, third)] == [0, 1, 2]
        assert first.wait(0) and not second.wait(0) and not third.wait(0)
        clock[0] += 12
        assert [turn.seconds_ahead for turn in (first, second, third)] == [0, 18, 28]
        with pytest.raises(LineFullError, match=r"^2 runs of yours .* Wait for one"), line.turn("a"):
            pass
        with line.turn(None, 5.0), pytest.raises(LineFullError, match=r"3 runs wait already.*about 18 s"):
            line.turn("c").__enter__()
        assert line.waiting == 2
    assert line.waiting == 0
    with line.turn("a") as first:
        assert first.wait(0)


def test_whose_turn_it_is_is_told_at_once_and_those_who_leave_are_passed_over():
    line, order = Line(at_once=1, places=9, each=9), []
    with line.turn("x") as running:
        assert running.wait(0)
        left = line.turn("y")
        left.__enter__()
        entered = [threading.Event() for _ in range(3)]

        def visit(number):
            with line.turn(str(number)) as turn:
                entered[number].set()
                assert turn.wait(30)
                order.append(number)

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            entered[number].wait(30)
        left.__exit__(None, None, None)
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2] and line.waiting == 0


def test_lent_gpus_are_for_different_visitors():
    line = Line(at_once=2, places=5, each=3, one_each=True)
    with line.turn("a") as first, line.turn("a") as second, line.turn("b") as third, line.turn("c") as fourth:
        assert [turn.wait(0) for turn in (first, second, third, fourth)] == [True, False, True, False]
    assert line.waiting == 0


def test_a_loaded_model_needs_no_start(request_):
    jobs = Jobs(Settings(warm=False))
    jobs._speed = Speed(1e12, 1e12, 1e12, "a test")
    cold = jobs.estimate(request_)
    jobs.engine._pipeline = object()
    expected = expected_of(request_)
    assert cold - jobs.estimate(request_) == pytest.approx(expected.startup_seconds) and expected.startup_seconds > 1
    assert cold == pytest.approx(expected.seconds)


@pytest.mark.skipif(not (ASSETS / "sama-tiny" / "model_index.json").is_file(), reason="needs assets/sama-tiny")
def test_the_embedded_model_takes_as_long_as_was_told(request_, monkeypatch):
    """On one thread and by its processor time, which is what an idle machine's clock would show."""
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        jobs = Jobs(Settings(warm=False))
        jobs.engine.warm()
        told = jobs.estimate(request_)
        events = list(jobs.edit(request_))
        again = jobs.estimate(request_)
    finally:
        torch.set_num_threads(threads)
    *steps, done = events
    assert isinstance(done, Edited)
    assert done.seconds / FACTOR < told < done.seconds * FACTOR
    assert done.seconds / FACTOR < again < done.seconds * FACTOR
    lefts = [step.seconds_left for step in steps]
    assert None not in lefts and lefts[0] == pytest.approx(told, rel=0.01) and lefts[-1] < 0.2 * told
    assert {"reading", "painting", "decoding", "saving"} <= {step.phase for step in steps}
