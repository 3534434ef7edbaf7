"""Checkpoints on disk, stopping, and what a resumed run insists on. For killing see `tests/distributed`."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.comparing import assert_trained
from tests.unit.test_training_loop import ToyStage, assert_same, configuration, weights_of
from training.batch import Place
from training.checkpoint import Checkpoints, random_state, set_random_state
from training.config import ConfigError, SaveConfig
from training.distributed import Layout
from training.loop import Trainer
from training.tracking import read_metrics
from training.train import stop_on_signals

CPU = torch.device("cpu")


def checkpoints(folder, keep=2, count=1):
    return Checkpoints(folder, Layout(Place(0, 1, CPU)), 0, count, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_stay_and_what_was_never_finished_goes(tmp_path):
    kept = checkpoints(tmp_path)
    (tmp_path / ".step-00000009" / "tensors").mkdir(parents=True)  # of a run that was killed
    assert kept.newest() is None
    for step in (2, 10, 3):
        kept.save(step, {"weight": torch.full((2,), float(step))}, {}, {})
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert kept.newest().name == "step-00000010"


def test_what_is_stored_comes_back(tmp_path):
    kept = checkpoints(tmp_path)
    stored = {"model.a": torch.randn(3, 5), "optimiser.0.step": torch.tensor(7.0)}
    path = kept.save(4, stored, {"feed": {"drawn": 3}}, {"seconds": 1.5})
    found = {name: torch.zeros_like(value) for name, value in stored.items()}
    assert kept.load(path, found) == {"feed": {"drawn": 3}}
    assert_same(found, stored)
    assert kept.describe(path) == {"seconds": 1.5, "step": 4, "processes": 1}


def test_a_checkpoint_of_more_processes_is_refused(tmp_path):
    path = checkpoints(tmp_path, count=3).save(1, {"a": torch.zeros(1)}, {}, {})
    with pytest.raises(ConfigError, match=r"written by 3 processes.* not 1"):
        checkpoints(tmp_path).load(path, {"a": torch.zeros(1)})


def test_two_runs_do_not_share_a_folder(tmp_path):
    holding = f"""
import fcntl, sys
file = open({str(tmp_path / ".claim")!r}, "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="another process is training"):
        checkpoints(tmp_path).claim()
    other.communicate()
    checkpoints(tmp_path).claim()


def test_every_generator_comes_back():
    state = random_state(CPU)
    drawn = [random.random(), float(np.random.rand()), float(torch.rand(1))]
    set_random_state(state, CPU)
    assert [random.random(), float(np.random.rand()), float(torch.rand(1))] == drawn


# A run


class Signalled(ToyStage):
    """Is told to end while it computes the loss of its third step."""

    def loss(self, model, batch, random):
        if self.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, batch, random)


def test_a_run_that_is_told_to_end_finishes_its_step_and_goes_on_later(tmp_path):
    config = configuration(tmp_path / "run", max_steps=6)
    whole = Trainer(replace(config, output=str(tmp_path / "whole")), ToyStage(), Accelerator(cpu=True))
    assert whole.run()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    run = Trainer(config, Signalled(), Accelerator(cpu=True))
    try:
        stop_on_signals(run)
        assert not run.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert run.step == 3 and names(tmp_path / "run" / "checkpoints") == ["step-00000003"]
    assert not (tmp_path / "run" / "exported.pt").exists()

    resumed = Trainer(config, ToyStage(), Accelerator(cpu=True))
    assert resumed.resume() and resumed.run() and resumed.step == 6
    for one in (resumed, whole):
        assert_trained(read_metrics(one.folder), ToyStage().model.state_dict(), weights_of(one))
    assert_same(weights_of(resumed), weights_of(whole))
    losses = [[line["loss"] for line in read_metrics(one.folder)] for one in (resumed, whole)]
    assert losses[0] == losses[1]


def test_checkpoints_come_by_steps_and_by_minutes(tmp_path):
    def saved(**save):
        folder = tmp_path / str(len(names(tmp_path)))
        Trainer(
            configuration(folder, max_steps=5, save=SaveConfig(keep=9, **save)), ToyStage(), Accelerator(cpu=True)
        ).run()
        return [int(name[-8:]) for name in names(folder / "checkpoints")]

    assert saved(steps=2, minutes=0.0) == [2, 4, 5]
    assert saved(steps=0, minutes=1e-9) == [1, 2, 3, 4, 5]
    assert saved(steps=0, minutes=60.0) == [5]
