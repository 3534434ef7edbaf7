"""One process of two that read one set of clips: what it drew, as a file."""

import json
from itertools import islice
from pathlib import Path

import torch

from training.config import DataConfig, ManifestConfig, SetConfig, TrainConfig
from training.data.files.feed import ManifestData


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    torch.distributed.init_process_group("gloo")
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    manifest = ManifestConfig(sets=(SetConfig(str(folder / "m.csv")),), buckets="tiny", frames=(1,), image_batch=2)
    config = TrainConfig("sft", str(folder / "run"), data=DataConfig(source="manifest", manifest=manifest))
    data = ManifestData(config, rank, count)
    dataset = data.dataset()
    steps = [
        {
            "signature": list(step.signature),
            "draws": [list(draw) for draw in step.draws],
            "texts": [sample.text for sample in dataset[step].samples],
        }
        for step in islice(iter(data.sampler), 6)
    ]
    (folder / f"drawn-{rank}.json").write_text(json.dumps(steps))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return 0
