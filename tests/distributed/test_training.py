"""Two processes train as one: the same weights on both, and those that a single process finds on the whole batch."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.comparing import assert_trained
from tests.distributed import train_line
from tests.distributed.processes import Session
from training.config import load_config
from training.dry_run import state_bytes

pytestmark = pytest.mark.distributed
STEPS = 8


def train(folder: Path, processes: int, **settings) -> tuple[list[dict[str, torch.Tensor]], list[dict]]:
    """Run the stage; return the weights of every process, the averaged ones first, and the log, after proof that the
    run did something."""
    folder.mkdir()
    optimiser = {"warmup_steps": 2} | settings.pop("optimiser", {})
    settings |= {"stage": "sft", "output": str(folder), "max_steps": STEPS, "precision": "float32"}
    settings |= {"watch": {"log_every": 1, "trackers": []}, "optimiser": optimiser}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    session = Session(train_line.main, [str(folder / "config.yaml")], processes, folder / "told.txt")
    session.finish()
    files = [folder / "averaged.pt", *(folder / f"weights-{rank}.pt" for rank in range(processes))]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    weights = [torch.load(file, weights_only=True) for file in files]
    for found in weights:
        if found:
            assert_trained(log, start(), found)
    return weights, log


def start() -> dict[str, torch.Tensor]:
    """The weights that every run begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(train_line.Line().state_dict())


def test_two_processes_give_the_weights_of_one(tmp_path):
    (_, alone), log_of_one = train(tmp_path / "one", 1)
    (_, first, second), log_of_two = train(tmp_path / "two", 2)
    assert [line["step"] for line in log_of_two] == list(range(1, STEPS + 1)), "a step is logged once, by one process"
    assert log_of_two[0]["grad_norm"] == pytest.approx(log_of_one[0]["grad_norm"], abs=2e-5)
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name]), f"the processes differ in {name}"
        moved = (weights - start()[name]).norm()
        # Muon orthogonalises in bfloat16, which turns the last bits of a matrix's gradient into its third digit.
        tolerance = 1e-3 if name.endswith("bias") else 5e-2
        error = float((first[name] - weights).norm() / moved)
        assert error < tolerance, f"two processes and one differ in {name} by {error:.2%} of how far it moved"
    first, second = (torch.load(tmp_path / "two" / f"noise-{rank}.pt") for rank in range(2))
    draws = torch.cat([first, second]).tolist()
    assert len(first) == STEPS and len({tuple(draw) for draw in draws}) == 2 * STEPS, "noise came twice"
    assert torch.equal(first, torch.load(tmp_path / "one" / "noise-0.pt")), "a process more changes no other's noise"


def test_two_processes_with_sharded_weights_give_the_weights_and_averages_of_one(tmp_path):
    adamw = {"name": "adamw", "learning_rate": 1e-2, "ema_decay": 0.8, "clip_norm": 0.5}
    shared = {"optimiser": adamw, "accumulate": 2}
    (average, alone), log_of_one = train(tmp_path / "one", 1, **shared)
    (averaged, sharded, empty), log_of_two = train(tmp_path / "two", 2, **shared, parallel={"weights": "shard"})
    assert not empty, "the whole weights are gathered in the first process only"
    for one, two in zip(log_of_one, log_of_two, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert two["samples"] == one["samples"]
    for name, weights in alone.items():
        torch.testing.assert_close(sharded[name], weights, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(averaged[name], average[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(averaged[name], sharded[name]) for name in alone)


def run_watched(folder: Path, processes: int, **settings) -> list[dict]:
    """Run the real command on the small stage; return what each process noted."""
    adamw = {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 1, "clip_norm": 1e9}
    settings |= {"stage": "sft", "output": str(folder), "max_steps": 2, "precision": "float32", "optimiser": adamw}
    settings |= {"watch": {"trackers": []}, "data": {"rendered": {"pack": str(folder)}}}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    Session(train_line.watched, ["--config", str(folder / "config.yaml")], processes, folder / "told.txt").finish()
    return [torch.load(folder / f"seen-{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "sharded"
    return folder, run_watched(folder, 2, accumulate=4, parallel={"weights": "shard"})


def test_sharded_gradients_stay_sharded_between_micro_steps(tmp_path, sharded):
    """What is accumulated is what one process accumulates, and no process ever holds much more than its half."""
    (alone,), (_, both) = run_watched(tmp_path / "one", 1, accumulate=4), sharded
    elements = sum(weight.numel() for weight in train_line.Line().parameters())
    for process in both:
        after_micro_steps = [count for count in process["elements"] if count]
        assert len(after_micro_steps) == 2 * 4, "three forward passes that follow a backward, and the step itself"
        assert max(after_micro_steps) <= 0.55 * elements
    assert max(alone["elements"]) == elements, "the measure sees every gradient"
    for one, two in zip(alone["gradients"], both[0]["gradients"], strict=True):
        for name, gradient in one.items():
            assert gradient.isfinite().all() and gradient.any(), name
            torch.testing.assert_close(two[name], gradient, atol=1e-5, rtol=1e-4)


def held_as_planned(folder, processes, shards):
    planned = state_bytes(load_config(folder / "config.yaml"), train_line.Line(), shards)
    for process in processes:
        assert process["held"].keys() == planned.keys()
        for name, expected in planned.items():
            # Halves of odd sizes are uneven, and AdamW counts its steps.
            assert process["held"][name] == pytest.approx(expected, rel=0.12), name


def test_the_plan_tells_the_memory_that_sharded_processes_hold(sharded):
    held_as_planned(*sharded, 2)


def test_the_plan_tells_the_memory_that_replicas_hold(tmp_path):
    held_as_planned(tmp_path / "run", run_watched(tmp_path / "run", 2, accumulate=2), 1)


@pytest.mark.parametrize("weights", ["replicate", "shard"])
def test_what_one_process_cannot_use_is_skipped_by_all_and_ends_them_together(tmp_path, weights):
    adamw = {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 1}
    settings = {
        "stage": "sft", "output": str(tmp_path / "run"), "max_steps": 40, "precision": "float32", "optimiser": adamw,
        "parallel": {"weights": weights}, "save": {"steps": 2}, "watch": {"log_every": 1, "trackers": []},
        "guard": {"window": 8, "max_skipped_share": 0.5},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    session = Session(train_line.main, [str(tmp_path / "config.yaml"), "4"], 2, tmp_path / "told.txt")
    session.finish(status=2)
    assert "5 of the last 8 steps" in session.words()
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 10))
    assert [line["skipped_steps"] for line in log] == [0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert ["loss" in line for line in log] == [True] * 4 + [False] * 5
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*step-*"))
    assert left == ["step-00000002", "step-00000004"] and not (tmp_path / "run" / "averaged.pt").exists()
    dcp_to_torch_save(tmp_path / "run" / "checkpoints" / left[-1] / "tensors", tmp_path / "all.pt")
    kept = torch.load(tmp_path / "all.pt", weights_only=True)
    for name, value in torch.load(tmp_path / "run" / "weights-0.pt", weights_only=True).items():
        assert value.isfinite().all() and torch.equal(value, kept[f"model.{name}"]), f"{name} has moved since"
