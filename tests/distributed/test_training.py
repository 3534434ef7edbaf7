"""Two processes train as one: the same weights on both, and those that a single process finds on the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("train_line.py")


def train(folder: Path, processes: int) -> tuple[list[dict[str, torch.Tensor]], list[dict]]:
    """Run the script; return the weights of every process and the log."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(SCRIPT), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=ROOT, check=False)
    files = [folder / f"weights-{rank}.pt" for rank in range(processes)]
    # Judged by what was written at the end: gloo may abort a process that closes its sockets last.
    assert all(file.is_file() for file in files), run.stderr[-2000:]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [torch.load(file, weights_only=True) for file in files], log


def test_two_processes_give_the_weights_of_one(tmp_path):
    (alone,), log_of_one = train(tmp_path / "one", 1)
    (first, second), log_of_two = train(tmp_path / "two", 2)
    assert [line["step"] for line in log_of_two] == list(range(1, 13)), "every step is logged once, by one process"
    assert log_of_two[0]["grad_norm"] == pytest.approx(log_of_one[0]["grad_norm"], abs=2e-5)
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name]), f"the processes differ in {name}"
        # Muon orthogonalises in bfloat16, which turns the last bits of a matrix's gradient into its third digit.
        tolerance = 1e-4 if name.endswith("bias") else 2e-2
        assert torch.allclose(first[name], weights, atol=tolerance), f"two processes and one differ in {name}"
    assert (tmp_path / "two" / "averaged.pt").is_file()
