"""kill -9 at any moment, resume: the same losses, weights, averages and optimiser states, bit for bit."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.comparing import assert_trained
from tests.distributed import train_tiny
from tests.distributed.processes import Session
from tests.tiny import tiny_pipeline

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
STEPS = 17
FIRST_KILL = range(5, 8)
"""Steps after which the first session may be killed: nine or more are left, and a checkpoint is there."""

MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip
ADAMW = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 3, "ema_decay": 0.9}
COMPARED = ("loss", "grad_norm", "flow", "semantic", "flow_band_0", "semantic_band_3", "samples", "learning_rate")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pipeline = tiny_pipeline()
    for part in ("vae", "semantic_tower", "text_encoder", "tokenizer"):
        getattr(pipeline, part).save_pretrained(folder / part)
    return folder


def configured(folder, base, **changes):
    """A configuration on disk. Groups are replaced while it runs: a resumed run has to find out what it held."""
    rendered = {
        "pack": str(base),
        "frames": 5,
        "groups": 4,
        "capacity_groups": 5,
        "refresh_per_step": 0.4,
        "paraphrases": 2,
    }
    settings = {
        "stage": "sft", "base": str(base), "output": str(folder), "model": MODEL, "batch_size": 4, "max_steps": STEPS,
        "data": {"workers": 1, "rendered": rendered | {"pack": str(base)}},
        "optimiser": {"warmup_steps": 3, "ema_decay": 0.9},
        "save": {"steps": 4, "keep": 2},
        "watch": {"log_every": 1, "trackers": []},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder


def start(folder, processes, *arguments):
    given = ["--config", str(folder / "config.yaml"), *arguments]
    return Session(train_tiny.main, given, processes, folder / "told.txt")


def logged(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def is_saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step-*/tensors/*"))


def stored(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, after proof that the run did something: averages begin as the weights, and are other
    than they once the weights have moved."""
    last = folder / "checkpoints" / f"step-{step:08d}" / "tensors"
    dcp_to_torch_save(last, folder / "all.pt")
    tensors = torch.load(folder / "all.pt", weights_only=True)
    before = {f"model.{name.removeprefix('ema.')}": value for name, value in tensors.items() if name.startswith("ema.")}
    assert_trained(logged(folder), before, tensors)
    return tensors


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        pytest.param(1, {"float8_share": 0.3, "precision": "bfloat16"}, id="one"),
        pytest.param(2, {"parallel": {"weights": "shard"}, "optimiser": ADAMW, "accumulate": 2}, id="two"),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, base, processes, changes):
    chance = random.Random(os.urandom(8))
    untouched, folder = (configured(tmp_path / name, base, **changes) for name in ("untouched", "killed"))
    whole = start(untouched, processes)

    first, late, pause = start(folder, processes), chance.choice(FIRST_KILL), chance.random() / 5
    first.wait_until(lambda: len(logged(folder)) >= late)
    time.sleep(pause)  # whatever it is doing then
    first.kill()
    second = start(folder, processes, "--resume")
    second.wait_until(lambda: len(logged(folder)) > late + 3 and is_saving(folder))
    second.kill()
    start(folder, processes, "--resume").finish()
    whole.finish()

    told = f"killed {pause:.3f} s after step {late}"
    there, here = logged(untouched), logged(folder)
    assert [line["step"] for line in here] == list(range(1, STEPS + 1))
    expected, found = stored(untouched), stored(folder)
    for one, other in zip(there, here, strict=True):
        for name in COMPARED:
            assert one.get(name) == other.get(name), f"{name} of step {one['step']}, {told}"
    assert expected.keys() == found.keys() and any(name.startswith("ema.") for name in found)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), f"{name}, {told}"
    left = sorted(path.name for path in (folder / "checkpoints").glob("*step-*"))
    assert left == [f"step-{STEPS - 1:08d}", f"step-{STEPS:08d}"]


def test_two_processes_of_a_launcher_that_share_every_sequence_train_as_one(tmp_path, base):
    common = {"optimiser": ADAMW, "precision": "float32", "max_steps": 5}
    one = configured(tmp_path / "one", base, **common)
    two = configured(tmp_path / "two", base, **common, parallel={"sequence": 2, "weights": "shard"})
    alone = start(one, 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [train_tiny.__file__, "--config", str(two / "config.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    alone.finish()
    expected, found = stored(one, 5), stored(two, 5)
    for left, right in zip(logged(one), logged(two), strict=True):
        assert right["samples"] == left["samples"]
        for name in ("loss", "grad_norm", "flow", "semantic"):
            assert right[name] == pytest.approx(left[name], rel=1e-5), f"{name} of step {left['step']}"
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-4, rtol=1e-3), name
