"""A stage small enough to check by hand, run by `test_training.py` in one process and in two."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from training.config import load_config
from training.distributed import full_state_dict, lay_out
from training.flops import Cost
from training.loop import Trainer

BATCH = 8


class Line(nn.Module):
    """Some layers as `blocks`, which is what is sharded by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 15)  # odd: shards are uneven
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(15, 15), nn.GELU()) for _ in range(2))
        self.proj_out = nn.Linear(15, 2)

    def forward(self, inputs):
        hidden = self.embed(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.proj_out(hidden)


class LineStage:
    """Fits a small network; process r of n sees its n-th part of every batch."""

    def __init__(self, accelerator: Accelerator, sharded: bool) -> None:
        torch.manual_seed(0)
        self.rank, self.count, self.taken = accelerator.process_index, accelerator.num_processes, 0
        self.noise = []
        with torch.device("meta" if sharded and self.rank else "cpu"):
            self.model = Line()

    def batches(self):
        while True:
            random = torch.Generator().manual_seed(self.taken)
            self.taken += 1
            yield torch.randn(BATCH, 4, generator=random).chunk(self.count)[self.rank]

    def cost(self, batch):
        return Cost(len(batch), 0, 0)

    def figures(self):
        return {}

    def watcher(self, tracker):
        return None

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]

    def loss(self, model, batch, random):
        self.noise.append(torch.randn(4, generator=random))
        wanted = torch.stack([batch.sum(1), batch[:, 0] * batch[:, 1]], dim=1)
        loss = (model(batch) - wanted).square().mean()
        return loss, {"square": loss.detach()}

    def export(self, folder: Path) -> None:
        weights = full_state_dict(self.model)
        if self.rank == 0:
            torch.save(weights, folder / "averaged.pt")


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    config = load_config(Path(arguments[0]))
    layout = lay_out(config, accelerator)
    stage = LineStage(accelerator, layout.sharded)
    trainer = Trainer(config, stage, accelerator, layout)
    trainer.run()
    own = stage.model.state_dict() if not layout.sharded else full_state_dict(stage.model)
    torch.save(own, Path(config.output) / f"weights-{accelerator.process_index}.pt")
    torch.save(torch.stack(stage.noise), Path(config.output) / f"noise-{accelerator.process_index}.pt")
    layout.wait()
    accelerator.end_training()
    return 0
