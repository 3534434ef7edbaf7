"""Training on one and two GPUs, through the command line's entry: it learns, it goes on after a kill, it shares."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from sama import SamaPipeline
from tests.distributed import train_tiny
from tests.tiny import tiny_clip, tiny_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
ROOT = Path(__file__).parents[2]
STEPS = 24
MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip
ADAMW = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 3, "ema_decay": 0.9}
LORA = {"stage": "lora", "model": {}, "lora": {"rank": 4}, "batch_size": 2, "max_steps": 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    return folder


def configured(folder, base, **changes):
    settings = {
        "stage": "sft", "base": str(base), "output": str(folder), "model": MODEL, "batch_size": 4, "max_steps": STEPS,
        "data": {"workers": 1, "rendered": {
            "pack": str(base), "frames": 5, "groups": 4, "capacity_groups": 5, "refresh_per_step": 0.4,
            "paraphrases": 2,
        }},
        "optimiser": {"warmup_steps": 3, "ema_decay": 0.9},
        "save": {"steps": 3, "keep": 2}, "deterministic": True,
        "watch": {"log_every": 1, "trackers": []},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder


class Run:
    """A run as a launcher starts it, on the first `gpus` of the visible devices."""

    def __init__(self, folder, gpus, *arguments):
        there = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = ",".join(there.split(",")[:gpus])
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        environment |= {"CUDA_VISIBLE_DEVICES": devices, "OMP_NUM_THREADS": "1"}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"] if gpus > 1 else []
        command = [sys.executable, *launcher, train_tiny.__file__, "--config", str(folder / "config.yaml"), *arguments]
        self.folder, self.log = folder, folder / "told.txt"
        with self.log.open("a") as told:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=told, stderr=told, start_new_session=True
            )

    def finish(self):
        assert self.process.wait(timeout=300) == 0, self.words()
        return self

    def kill_after(self, step):
        """kill -9 of the launcher, its processes and their workers, once `step` was logged."""
        deadline = time.monotonic() + 240
        while len(logged(self.folder)) < step:
            assert self.process.poll() is None and time.monotonic() < deadline, self.words()
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def words(self):
        return self.log.read_text(errors="replace")[-4000:]


def logged(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def weights(folder, step=STEPS):
    dcp_to_torch_save(folder / "checkpoints" / f"step-{step:08d}" / "tensors", folder / "all.pt")
    return torch.load(folder / "all.pt", weights_only=True)


def require_learning(folder, steps=STEPS):
    """Every step was finite and was taken, and the weights are not those of the first checkpoint kept."""
    lines = logged(folder)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert all(torch.tensor(line["loss"]).isfinite() and line["grad_norm"] > 0 for line in lines)
    assert lines[-1]["skipped_steps"] == 0
    return lines


def require_moved(folder, model, step=STEPS):
    """The trained weights are finite and differ from those the run began with."""
    after = {name[len("model.") :]: value for name, value in weights(folder, step).items() if name.startswith("model.")}
    assert after and all(value.isfinite().all() for value in after.values())
    moved = [name for name, value in model.items() if name in after and not torch.equal(value, after[name])]
    assert len(moved) > len(after) / 2


TWO = {"parallel": {"weights": "shard"}, "optimiser": ADAMW, "accumulate": 2}


@pytest.mark.parametrize(
    ("gpus", "changes"),
    [
        pytest.param(1, {"float8_share": 0.3, "precision": "bfloat16"}, id="one"),
        pytest.param(2, {"precision": "bfloat16"}, id="two_replicated", marks=two_gpus),
        pytest.param(2, TWO, id="two_sharded", marks=two_gpus),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, base, gpus, changes):
    untouched, killed = (configured(tmp_path / name, base, **changes) for name in ("untouched", "killed"))
    Run(untouched, gpus).finish()
    Run(killed, gpus).kill_after(8)
    Run(killed, gpus, "--resume").finish()
    there, here = require_learning(untouched), require_learning(killed)
    assert len({line["loss"] for line in there}) == STEPS
    for one, other in zip(there, here, strict=True):
        for name in ("loss", "grad_norm", "samples", "learning_rate"):
            assert one[name] == other[name], f"{name} of step {one['step']}"
    expected, found = weights(untouched), weights(killed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@two_gpus
def test_two_gpus_that_share_every_sequence_train_as_one(tmp_path, base):
    common = {"optimiser": ADAMW, "precision": "float32", "max_steps": 5}
    one = configured(tmp_path / "one", base, **common)
    two = configured(tmp_path / "two", base, **common, parallel={"sequence": 2, "weights": "shard"})
    Run(one, 1).finish()
    Run(two, 2).finish()
    for left, right in zip(require_learning(one, 5), require_learning(two, 5), strict=True):
        assert right["samples"] == left["samples"]
        for name in ("loss", "flow", "semantic"):  # float32 products are TF32 here
            assert right[name] == pytest.approx(left[name], rel=1e-3), f"{name} of step {left['step']}"


@pytest.mark.parametrize("gpus", [1, pytest.param(2, marks=two_gpus)])
def test_an_adapter_is_trained_and_loads(tmp_path, base, gpus):
    folder = configured(tmp_path / "lora", base, **LORA, start_from=str(base))
    Run(folder, gpus).finish()
    require_learning(folder, LORA["max_steps"])
    file = next(folder.rglob("*.safetensors"))
    pipeline = SamaPipeline.from_pretrained(base).to("cuda")
    given = {"video": tiny_clip(), "prompt": "make it snowy", "output_type": "pt"}

    def edited():
        return pipeline(**given, generator=torch.Generator().manual_seed(0)).frames.cpu()

    before = edited()
    pipeline.load_lora_weights(file)
    after = edited()
    assert after.isfinite().all() and not torch.equal(before, after)


def test_compiled_blocks_train_as_eager_ones(tmp_path, base):
    eager = configured(tmp_path / "eager", base, max_steps=4, precision="float32")
    compiled = configured(tmp_path / "compiled", base, max_steps=4, precision="float32", compile=True)
    for folder in (eager, compiled):
        Run(folder, 1).finish()
    for left, right in zip(require_learning(eager, 4), require_learning(compiled, 4), strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-2), f"step {left['step']}"
