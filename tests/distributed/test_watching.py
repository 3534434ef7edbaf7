"""Held-out losses and samples of two processes are those of one, whether weights are replicated or sharded, and whether
the processes see different samples or share each.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from PIL import Image
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sama.model.parallel import sequence_parallel
from tests.distributed.processes import Session
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.config import DataConfig, ManifestConfig, OptimiserConfig, TrainConfig, WatchConfig
from training.core.ema import Ema
from training.core.tracking import Tracker
from training.data.encoders import Encoders
from training.data.files import checks
from training.data.files.clips import look
from training.parallel.processes import DataRank
from training.stages.editor import EditStage
from training.stages.objective import BandMeans
from training.watch.validation import Validator

pytestmark = pytest.mark.distributed
MODEL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "semantic_hidden_dim": 32,
}
SHARED = ("replicated", "sharded", "sequence")
SAMPLES = 3
"""Two places cannot share them evenly."""


def configuration(folder: Path, kind: str) -> TrainConfig:
    manifest = ManifestConfig(buckets="tiny", frames=(1, 5), image_batch=1)
    watch = WatchConfig(
        trackers=(), validation_samples=SAMPLES, sample_count=SAMPLES, sample_steps=1, sample_seconds=600.0,
        validation_manifest=str(folder / "held_out.csv"),
    )  # fmt: skip
    return TrainConfig(
        "sft", str(folder / kind), model=MODEL, base=str(folder / "base"), precision="float32", start_from_base=True,
        data=DataConfig(source="manifest", workers=0, manifest=manifest), watch=watch,
        optimiser=OptimiserConfig(name="adamw"),
    )  # fmt: skip


def prepare(folder: Path) -> None:
    pipeline = tiny_pipeline()
    for part in ("vae", "semantic_tower", "text_encoder", "tokenizer", "transformer"):
        getattr(pipeline, part).save_pretrained(folder / "base" / part)
    lines = ["source_video,target_video,prompt"]
    for number in range(SAMPLES):
        size = (208, 112) if number % 2 else (112, 112)
        make_clip(folder / f"source{number}.mp4", 5 + number, *size)
        make_clip(folder / f"target{number}.mp4", 5 + number, *size, constant=True)
        lines.append(f"source{number}.mp4,target{number}.mp4,make it snowy {number}")
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n")


def watch(folder: Path, kind: str) -> None:
    """Look twice, with a training step in between, and write down everything that was seen."""
    accelerator = Accelerator(cpu=True)
    rank, count = accelerator.process_index, accelerator.num_processes
    config = configuration(folder, kind)
    place = DataRank(0, 1, accelerator.device) if kind == "sequence" else DataRank(rank, count, accelerator.device)
    encoders = Encoders(config.base, config.tower, place.device, config.precision)
    stage = EditStage(config, accelerator, None, encoders, place)
    model = stage.model
    if kind == "sequence":
        sequence_parallel(model, dist.group.WORLD)
    if kind == "replicated":
        model = DistributedDataParallel(model)
    if kind == "sharded":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    ema = Ema(stage.model, 0.5)
    opened: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "look", lambda media: opened.append(media) or look(media))
        validator = Validator(config, stage, encoders, Tracker(Path(config.output), (), {}), place)

    seen = [validator.losses(model, 0, ema)]
    optimiser = torch.optim.SGD(stage.model.parameters(), lr=1e-2)
    loss = sum(stage.errors(model, validator.samples[0].batch, torch.tensor([0.5]), torch.Generator()))
    loss.mean().backward()
    if kind == "sequence":
        for parameter in stage.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(count)
    optimiser.step()
    optimiser.zero_grad()
    seen.append(validator.losses(model, 1, ema))
    path = validator.grid(1, ema)
    validator.config = replace(config, watch=replace(config.watch, sample_seconds=0.0))
    late = validator.grid(2, ema)
    seen.append(validator.losses(model, 2, ema))
    told = {"seen": seen, "path": path and str(path), "late": late and str(late), "opened": len(opened)}
    torch.save(told, folder / f"{kind}-{rank}.pt")
    if dist.is_initialized():
        dist.barrier()


def count_bands(folder: Path) -> None:
    rank = dist.get_rank()
    bands = BandMeans(2, torch.device("cpu"))
    bands.add(torch.tensor([0.1, 0.9])[: 1 + rank], torch.tensor([1.0 + 2 * rank, 7.0])[: 1 + rank])
    torch.save(bands.read(), folder / f"bands-{rank}.pt")


def main(arguments: list[str]) -> int:
    """One of the processes."""
    folder = Path(arguments[0])
    for shared in SHARED:
        watch(folder, shared)
    count_bands(folder)
    return 0


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    prepare(folder)
    watch(folder, "alone")
    session = Session(main, [str(folder)], 2, folder / "told.txt")
    session.join()
    files = {kind: [folder / f"{kind}-{rank}.pt" for rank in range(2)] for kind in SHARED}
    # Judged by what was written at the end: gloo may abort a process that closes its sockets last.
    assert all(file.is_file() for some in files.values() for file in some), session.words()
    found = {kind: [torch.load(file) for file in some] for kind, some in files.items()}
    bands = [torch.load(folder / f"bands-{rank}.pt") for rank in range(2)]
    return {"alone": [torch.load(folder / "alone-0.pt")], "bands": bands, **found}


@pytest.mark.parametrize("kind", SHARED)
def test_losses_are_those_of_one_process(looks, kind):
    (alone,) = looks["alone"]
    for process in looks[kind]:
        assert process["seen"] == looks[kind][0]["seen"]
        for mine, expected in zip(process["seen"], alone["seen"], strict=True):
            assert mine == pytest.approx(expected, abs=2e-5)


def test_each_look_measures_the_weights_of_its_time(looks):
    first, second, third = looks["alone"][0]["seen"]
    assert first["validation/raw/flow"] == first["validation/ema/flow"] == second["validation/ema/flow"]
    assert abs(second["validation/raw/flow"] - first["validation/raw/flow"]) > 1e-3
    assert second == third


@pytest.mark.parametrize("kind", SHARED)
def test_the_clips_of_the_validation_manifest_are_checked_by_one_process_for_all(looks, kind):
    assert looks["alone"][0]["opened"] == 2 * SAMPLES
    assert [process["opened"] for process in looks[kind]] == [2 * SAMPLES, 0]


@pytest.mark.parametrize("kind", SHARED)
def test_the_first_process_draws_the_grid_of_one(looks, kind):
    (alone,) = looks["alone"]
    first, second = looks[kind]
    assert second["path"] is None and second["late"] is None
    for name in ("path", "late"):
        with Image.open(alone[name]) as one, Image.open(first[name]) as other:
            assert one.size == other.size
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).mean() < 0.5


def test_bands_are_of_all_processes(looks):
    assert looks["bands"] == [{"flow_band_0": 2.0, "flow_band_1": 7.0}] * 2
