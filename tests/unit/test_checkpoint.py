"""Checkpoints on disk, stopping, and what a resumed run insists on. For killing see `tests/distributed`."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from tests.comparing import assert_trained
from tests.unit.test_training_loop import ToyStage, assert_same, configuration, stop_after, weights_of
from training.config import OptimiserConfig, SaveConfig, TrainConfig
from training.core.checkpoint import Checkpoints, run_facts, stored_config
from training.core.loop import Trainer
from training.core.tracking import read_metrics
from training.errors import ConfigError
from training.parallel.processes import DataRank, ProcessGroups
from training.train import stop_on_signals

CPU = torch.device("cpu")


CONFIG = TrainConfig("sft", "runs/x", max_steps=7, optimiser=OptimiserConfig(learning_rate=2e-5))


def checkpoints(folder, keep=2, count=1):
    return Checkpoints(folder, ProcessGroups(DataRank(0, 1, CPU)), 0, count, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_stay_and_what_was_never_finished_goes(tmp_path):
    kept = checkpoints(tmp_path)
    (tmp_path / ".step-00000009" / "tensors").mkdir(parents=True)  # of a run that was killed
    assert kept.newest() is None
    for step in (2, 10, 3):
        kept.save(step, {"weight": torch.full((2,), float(step))}, {}, {}, CONFIG)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert kept.newest().name == "step-00000010"


def test_what_is_stored_comes_back(tmp_path):
    kept = checkpoints(tmp_path)
    stored = {"model.a": torch.randn(3, 5), "optimiser.0.step": torch.tensor(7.0)}
    path = kept.save(4, stored, {"feed": {"drawn": 3}}, {"seconds": 1.5}, CONFIG)
    found = {name: torch.zeros_like(value) for name, value in stored.items()}
    assert kept.load(path, found) == {"feed": {"drawn": 3}}
    assert_same(found, stored)
    assert run_facts(path) == {"seconds": 1.5, "step": 4, "processes": 1}
    assert stored_config(path) == CONFIG


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


@pytest.mark.parametrize(("seconds", "survives"), [(60.0, True), (0.0, False)])
def test_a_signal_that_is_passed_on_is_one_signal_and_a_later_one_ends_at_once(monkeypatch, seconds, survives):
    monkeypatch.setattr("training.train.SAME_SIGNAL_SECONDS", seconds)
    child = os.fork()
    if not child:
        stop_on_signals(SimpleNamespace(stop=lambda: None))
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.001)  # the clock moves on
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (7 if survives else -signal.SIGTERM)


def test_a_run_that_is_extended_before_its_rate_falls_is_the_longer_run(tmp_path):
    def trainer(name, **changes):
        return Trainer(configuration(tmp_path / name, **changes), ToyStage(), Accelerator(cpu=True))

    whole = trainer("whole", max_steps=8)
    assert whole.run()
    stop_after(trainer("run", max_steps=4), 2)
    longer = trainer("run", max_steps=8)
    assert longer.resume() and longer.run() and longer.step == 8
    assert all(value.isfinite().all() for value in weights_of(whole).values())
    assert_same(weights_of(longer), weights_of(whole))
    assert not torch.equal(longer.stage.model.matrix.weight, ToyStage().model.matrix.weight)


def test_a_run_that_has_ended_goes_on_for_more_steps_and_may_end_early(tmp_path):
    run = Trainer(configuration(tmp_path / "run", max_steps=2), ToyStage(), Accelerator(cpu=True))
    assert run.run()
    more = Trainer(configuration(tmp_path / "run", max_steps=6), ToyStage(), Accelerator(cpu=True))
    assert more.resume() and more.step == 2
    stop_after(more, 3)
    assert (
        more.step == 3 and more.optimisers[0].param_groups[0]["lr"] == more.optimisers[0].param_groups[0]["initial_lr"]
    )
    (tmp_path / "run" / "exported.pt").unlink()
    ended = Trainer(configuration(tmp_path / "run", max_steps=3), ToyStage(), Accelerator(cpu=True))
    assert ended.resume() and ended.run() and ended.step == 3
    assert (tmp_path / "run" / "exported.pt").is_file()


def test_what_a_step_computes_may_not_change(tmp_path):
    config = configuration(tmp_path / "run")
    stop_after(Trainer(config, ToyStage(), Accelerator(cpu=True)), 1)
    for changed, says in (
        (replace(config, seed=4), "seed: 0 -> 4"),
        (replace(config, accumulate=2), "accumulate: 1 -> 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            Trainer(changed, ToyStage(), Accelerator(cpu=True)).resume()


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
