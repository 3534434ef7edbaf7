"""Runs that go on: with another number of processes, longer than planned, after a launcher was told to end, and after a
disk was full."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.distributed import train_line
from tests.distributed.processes import Session
from training.core.checkpoint import read_weights

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
FIRST, STEPS = 6, 12
COMPARED = ("loss", "grad_norm", "samples", "learning_rate")


def configured(folder: Path, **changes) -> Path:
    """A configuration whose learning rate does not depend on when the run ends."""
    adamw = {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 1, "decay_share": 0.0, "ema_decay": 0.9}
    settings = {
        "stage": "sft", "output": str(folder), "max_steps": STEPS, "precision": "float32", "optimiser": adamw,
        "parallel": {"weights": "shard"}, "data": {"rendered": {"pack": str(folder)}},
        "watch": {"log_every": 1, "trackers": []},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder


def start(folder: Path, processes: int, *arguments: str, main=train_line.command) -> Session:
    given = ["--config", str(folder / "config.yaml"), *arguments]
    return Session(main, given, processes, folder / "told.txt")


def logged(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*step-*"))


def weights(folder: Path, step: int, averaged: bool = False) -> dict[str, torch.Tensor]:
    return read_weights(folder / "checkpoints" / f"step-{step:08d}", averaged)[0]


def assert_trained(found: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    begun = train_line.Line().state_dict()
    for name, value in found.items():
        assert value.isfinite().all() and not torch.equal(value, begun[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> list[dict]:
    folder = configured(tmp_path_factory.mktemp("runs") / "one")
    start(folder, 1).finish()
    return logged(folder)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, uninterrupted, before, after):
    folder = configured(tmp_path / "run")
    start(folder, before, "--set", f"max_steps={FIRST}").finish()
    start(folder, after, "--resume", main=train_line.watched).finish()
    stored = {f"model.{name}": value for name, value in weights(folder, FIRST).items()}
    stored |= {f"ema.{name}": value for name, value in weights(folder, FIRST, averaged=True).items()}
    assert_trained(weights(folder, FIRST))
    for rank in range(after):
        resumed = torch.load(folder / f"seen-{rank}.pt", weights_only=True)["resumed"]
        assert stored.keys() < resumed.keys()
        for name, value in stored.items():
            assert torch.equal(resumed[name], value), f"{name} at the moment of the resumption"
    log = logged(folder)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    for one, two in zip(uninterrupted, log, strict=True):
        for name in COMPARED:
            assert math.isfinite(one[name])
            assert two[name] == pytest.approx(one[name], rel=1e-3), f"{name} of step {one['step']}"
    told = (folder / "told.txt").read_text()
    assert told.count(f"written by {before} processes, going on with {after}") == 1
    assert told.count(f"its end was at {FIRST} steps or 0 minutes (0: never) and is at {STEPS} or 0") == 1


def test_a_launcher_that_is_told_to_end_lets_all_save_and_the_run_goes_on(tmp_path):
    folder, whole = configured(tmp_path / "run", max_steps=10**6), configured(tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [train_line.__file__, "--config", str(folder / "config.yaml")]
    with (folder / "launched.txt").open("w") as told:
        launcher = subprocess.Popen(command, stderr=told, env=environment, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 150
    while len(logged(folder)) < 5:
        assert launcher.poll() is None and time.monotonic() < deadline, (folder / "launched.txt").read_text()[-3000:]
        time.sleep(0.01)
    os.killpg(launcher.pid, signal.SIGTERM)  # as a scheduler does: every process is told, and the launcher tells again
    launcher.wait(60)
    words = (folder / "launched.txt").read_text()
    (name,) = checkpoints(folder)
    step = int(name.removeprefix("step-"))
    assert step >= 5 and logged(folder)[-1]["step"] == step, words[-3000:]
    assert f"stopped at step {step}; the same command with --resume goes on" in words
    assert not list(folder.glob("averaged.pt")), "an unfinished run writes no result"

    end = ("--set", f"max_steps={step + 5}")
    start(folder, 2, "--resume", *end).finish()
    start(whole, 2, *end).finish()
    expected, found = weights(whole, step + 5), weights(folder, step + 5)
    assert_trained(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert [line["loss"] for line in logged(folder)] == [line["loss"] for line in logged(whole)]


def test_a_full_disk_ends_the_run_in_one_sentence_and_costs_no_checkpoint(tmp_path):
    folder = configured(tmp_path / "run", save={"steps": 2, "keep": 2}, max_steps=6)
    start(folder, 2, main=train_line.short_of_disk).finish(status=2)
    assert checkpoints(folder) == ["step-00000002"], "the last good one stays, and nothing of the other"
    told = (folder / "told.txt").read_text()
    assert "Traceback" not in told
    sentences = [line for line in told.splitlines() if "could not be written" in line]
    assert len(sentences) == 2, "each process says why it ends"
    assert all("the checkpoint of step 4" in line and "from step-00000002" in line for line in sentences)
    assert not (folder / "averaged.pt").exists()
    start(folder, 2, "--resume").finish()
    assert [line["step"] for line in logged(folder)] == list(range(1, 7))
    assert_trained(weights(folder, 6))
