"""Two processes train as one: the same weights on both, and those that a single process finds on the whole batch."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.distributed import train_line
from tests.distributed.processes import Session

pytestmark = pytest.mark.distributed
STEPS = 8


def train(folder: Path, processes: int, **settings) -> tuple[list[dict[str, torch.Tensor]], list[dict]]:
    """Run the stage; return the weights of every process, the averaged ones first, and the log."""
    folder.mkdir()
    optimiser = {"warmup_steps": 2} | settings.pop("optimiser", {})
    settings |= {"stage": "sft", "output": str(folder), "max_steps": STEPS, "precision": "float32"}
    settings |= {"watch": {"log_every": 1, "trackers": []}, "optimiser": optimiser}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    session = Session(train_line.main, [str(folder / "config.yaml")], processes, folder / "told.txt")
    session.finish()
    files = [folder / "averaged.pt", *(folder / f"weights-{rank}.pt" for rank in range(processes))]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [torch.load(file, weights_only=True) for file in files], log


def test_two_processes_give_the_weights_of_one(tmp_path):
    (_, alone), log_of_one = train(tmp_path / "one", 1)
    (_, first, second), log_of_two = train(tmp_path / "two", 2)
    assert [line["step"] for line in log_of_two] == list(range(1, STEPS + 1)), "a step is logged once, by one process"
    assert log_of_two[0]["grad_norm"] == pytest.approx(log_of_one[0]["grad_norm"], abs=2e-5)
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name]), f"the processes differ in {name}"
        # Muon orthogonalises in bfloat16, which turns the last bits of a matrix's gradient into its third digit.
        tolerance = 1e-4 if name.endswith("bias") else 2e-2
        assert torch.allclose(first[name], weights, atol=tolerance), f"two processes and one differ in {name}"
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
