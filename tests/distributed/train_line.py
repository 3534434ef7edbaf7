"""A stage small enough to check by hand, run by `test_training.py` in one process and in two."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from training.config import OptimiserConfig, TrainConfig, WatchConfig
from training.flops import Cost
from training.loop import Trainer

BATCH = 8


class LineStage:
    """Fits a small network; process r of n sees its n-th part of every batch."""

    def __init__(self, accelerator: Accelerator) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 2))
        self.rank, self.count = accelerator.process_index, accelerator.num_processes

    def batches(self):
        random = torch.Generator().manual_seed(1)
        while True:
            inputs = torch.randn(BATCH, 4, generator=random)
            yield inputs.chunk(self.count)[self.rank]

    def cost(self, batch):
        return Cost(len(batch), 0, 0)

    def figures(self):
        return {}

    def watcher(self, tracker):
        return None

    def state_dict(self):
        return {}

    def loss(self, model, batch, random):
        wanted = torch.stack([batch.sum(1), batch[:, 0] * batch[:, 1]], dim=1)
        loss = (model(batch) - wanted).square().mean()
        return loss, {"square": loss.detach()}

    def export(self, folder: Path) -> None:
        if self.rank == 0:
            torch.save(self.model.state_dict(), folder / "averaged.pt")


def main(folder: str) -> None:
    accelerator = Accelerator(cpu=True)
    config = TrainConfig(
        stage="sft", output=folder, batch_size=BATCH // accelerator.num_processes, max_steps=12, precision="float32",
        watch=WatchConfig(log_every=1), optimiser=OptimiserConfig(warmup_steps=2),
    )  # fmt: skip
    trainer = Trainer(config, LineStage(accelerator), accelerator)
    trainer.run()
    torch.save(trainer.stage.model.state_dict(), Path(folder) / f"weights-{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
