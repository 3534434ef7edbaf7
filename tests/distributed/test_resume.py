"""kill -9 at any moment, resume: the same losses, weights, averages and optimiser states, bit for bit."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.tiny import tiny_pipeline

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("train_tiny.py")
STEPS = 34
FIRST_KILL = range(7, 11)
"""Steps after which the first session may be killed: more than 20 are left, and a checkpoint is there."""

MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pipeline = tiny_pipeline()
    for part in ("vae", "semantic_tower", "text_encoder", "tokenizer"):
        getattr(pipeline, part).save_pretrained(folder / part)
    return folder


def configuration(base, **changes):
    """Groups are replaced while it runs, so that a resumed run has to find out what it held."""
    rendered = {"frames": 1, "groups": 4, "capacity_groups": 5, "refresh_per_step": 0.4, "paraphrases": 2}
    settings = {
        "stage": "sft", "base": str(base), "model": MODEL, "batch_size": 4, "max_steps": STEPS,
        "data": {"workers": 1, "rendered": rendered},
        "optimiser": {"warmup_steps": 3, "ema_decay": 0.9},
        "save": {"steps": 3, "keep": 2},
        "watch": {"log_every": 1, "trackers": []},
    }  # fmt: skip
    return settings | changes


class Session:
    """One start of the trainer, with everything it starts in a process group of its own."""

    def __init__(self, folder: Path, settings: dict, processes: int, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings | {"output": str(folder)}))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [
            sys.executable,
            *(launcher if processes > 1 else ()),
            str(SCRIPT),
            "--config",
            str(config),
            *arguments,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._errors = (folder / "errors.txt").open("w")
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=self._errors,
            stderr=self._errors,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )

    def wait_until(self, happened) -> None:
        deadline = time.monotonic() + 100
        while not happened():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, "nothing happened for too long"
            time.sleep(0.002)

    def kill(self) -> None:
        """All at once: a launcher's children, who live in sessions of their own, would go on without it."""
        for number in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        assert self.process.wait(timeout=240) == 0, self.told()

    def told(self) -> str:
        return (self.folder / "errors.txt").read_text()[-3000:]


def descendants(number: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def logged(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def is_saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step-*/tensors/*"))


def stored(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / f"step-{step:08d}" / "tensors"
    dcp_to_torch_save(last, folder / "all.pt")
    return torch.load(folder / "all.pt", weights_only=True)


COMPARED = ("loss", "grad_norm", "flow", "semantic", "flow_band_0", "semantic_band_3", "samples", "learning_rate")
ADAMW = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 3, "ema_decay": 0.9}


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        pytest.param(1, {"float8_share": 0.3, "precision": "bfloat16"}, id="one"),
        pytest.param(2, {"parallel": {"weights": "shard"}, "optimiser": ADAMW, "accumulate": 2}, id="two"),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, base, processes, changes):
    chance = random.Random(os.urandom(8))
    settings = configuration(base, **changes)
    whole = Session(tmp_path / "whole", settings, processes)
    folder = tmp_path / "killed"

    first, late, pause = Session(folder, settings, processes), chance.choice(FIRST_KILL), chance.random() / 5
    first.wait_until(lambda: len(logged(folder)) >= late)
    time.sleep(pause)  # whatever it is doing then
    first.kill()
    second = Session(folder, settings, processes, "--resume")
    second.wait_until(lambda: len(logged(folder)) > late + 3 and is_saving(folder))
    second.kill()
    Session(folder, settings, processes, "--resume").finish()
    whole.finish()

    told = f"killed {pause:.3f} s after step {late}"
    there, here = logged(tmp_path / "whole"), logged(folder)
    assert [line["step"] for line in here] == list(range(1, STEPS + 1))
    for one, other in zip(there, here, strict=True):
        for name in COMPARED:
            assert one.get(name) == other.get(name), f"{name} of step {one['step']}, {told}"
    expected, found = stored(tmp_path / "whole"), stored(folder)
    assert expected.keys() == found.keys() and any(name.startswith("ema.") for name in found)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), f"{name}, {told}"
    left = sorted(path.name for path in (folder / "checkpoints").glob("*step-*"))
    assert left == [f"step-{STEPS - 1:08d}", f"step-{STEPS:08d}"]


@pytest.mark.parametrize("weights", ["replicate", "shard"])
def test_two_processes_that_share_every_sequence_train_as_one(tmp_path, base, weights):
    settings = configuration(base, optimiser=ADAMW, precision="float32", max_steps=5)
    alone = Session(tmp_path / "alone", settings, 1)
    sharing = Session(tmp_path / "sharing", settings | {"parallel": {"sequence": 2, "weights": weights}}, 2)
    for session in (alone, sharing):
        session.finish()
    for one, two in zip(logged(alone.folder), logged(sharing.folder), strict=True):
        assert two["samples"] == one["samples"]
        for name in ("loss", "grad_norm", "flow", "semantic"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), f"{name} of step {one['step']}"
    expected, found = stored(alone.folder, 5), stored(sharing.folder, 5)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-4, rtol=1e-3), name
