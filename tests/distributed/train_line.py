"""A stage small enough to check by hand, run by tests in one process and in two.

Run as a script, this file is `training.train` on that stage, for a launcher.
"""

import gc
import logging
import math
import resource
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training import train
from training.config import load_config
from training.core.checkpoint import run_tensors
from training.core.loop import Trainer
from training.core.meter import Cost
from training.errors import RunStoppedError
from training.parallel.processes import full_state_dict, local, process_groups

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
    """Fits a small network; process r of n sees its n-th part of every batch. broken_from: the batch from which on the
    last process sees what is not finite."""

    def __init__(self, accelerator: Accelerator, sharded: bool, broken_from: float = math.inf) -> None:
        torch.manual_seed(0)
        self.rank, self.count, self.taken = accelerator.process_index, accelerator.num_processes, 0
        self.noise = []
        self.broken_from = broken_from
        with torch.device("meta" if sharded and self.rank else "cpu"):
            self.model = Line()

    def batches(self):
        while True:
            random = torch.Generator().manual_seed(self.taken)
            batch = torch.randn(BATCH, 4, generator=random).chunk(self.count)[self.rank]
            broken = self.taken >= self.broken_from and self.rank == self.count - 1
            self.taken += 1
            yield batch * torch.nan if broken else batch

    def cost(self, batch):
        return Cost(len(batch), 0, 0)

    def figures(self):
        return {}

    def summary(self):
        return "lines"

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
    """arguments: the configuration, and the batch from which on one process sees what is not finite (default: none).
    Returns the exit status: 2 for a run that the guard has stopped."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    config = load_config(Path(arguments[0]))
    groups = process_groups(config, accelerator)
    stage = LineStage(accelerator, groups.sharded, float(arguments[1]) if arguments[1:] else math.inf)
    trainer = Trainer(config, stage, accelerator, groups)
    status = 0
    try:
        trainer.run()
    except RunStoppedError as error:
        logging.warning("%s", error)
        status = 2
    own = stage.model.state_dict() if not groups.sharded else full_state_dict(stage.model)
    torch.save(own, Path(config.output) / f"weights-{accelerator.process_index}.pt")
    torch.save(torch.stack(stage.noise), Path(config.output) / f"noise-{accelerator.process_index}.pt")
    groups.wait()
    accelerator.end_training()
    return status


# The same by the real command


def command(arguments: list[str]) -> int:
    """`training.train` on the small stage."""

    def build(config, accelerator):
        groups = process_groups(config, accelerator)
        return LineStage(accelerator, groups.sharded), groups

    torch.set_num_threads(1)
    train.build_stage = build
    return train.main(arguments)


def watched(arguments: list[str]) -> int:
    """The same. Every process writes down what it holds, its gradient before each step, and what it resumed with."""

    class Watched(Trainer):
        def __init__(self, config, stage, accelerator, *further):
            super().__init__(config, stage, accelerator, *further)
            self.seen = {"elements": [], "gradients": [], "held": None}
            self.file = Path(config.output) / f"seen-{accelerator.process_index}.pt"
            compute = stage.loss
            stage.loss = lambda *inputs: self.note() or compute(*inputs)
            self.optimisers[0].register_step_pre_hook(lambda *_: self.note(before_step=True))

        def note(self, before_step=False):
            """Called before each forward pass, the first one's aside after a backward, and before each step."""
            self.seen["elements"].append(gradient_elements())
            if before_step:
                named = dict(self.stage.model.named_parameters())
                self.seen["gradients"].append({name: whole(weight.grad) for name, weight in named.items()})

        def resume(self):
            found = super().resume()
            tensors = run_tensors(self.stage.model, self.ema, self.optimisers)
            self.seen["resumed"] = {name: whole(tensor) for name, tensor in tensors.items()}
            return found

        def save(self):
            super().save()
            self.seen["held"] = {
                "weights": stored_bytes(self.stage.model.parameters()),
                "gradients": 4 * max(self.seen["elements"]),
                "optimiser": stored_bytes(t for state in self.optimisers[0].state.values() for t in state.values()),
                "average": stored_bytes(self.ema.shadow.values()),
            }
            torch.save(self.seen, self.file)

    train.Trainer = Watched
    gc.freeze()  # what was imported holds no gradient, and is not looked through
    return command(arguments)


def short_of_disk(arguments: list[str]) -> int:
    """The same, but the second process can write no large file any more once the third step has begun."""
    compute = LineStage.loss

    def loss(self, *inputs):
        if self.rank == 1 and self.taken == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
        return compute(self, *inputs)

    LineStage.loss = loss
    return command(arguments)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def stored_bytes(tensors) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    storages = {local(t.detach()).untyped_storage().data_ptr(): local(t.detach()).untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def gradient_elements() -> int:
    """Float32 elements of all gradients that this process holds, those of gathered weights too."""
    gc.collect()
    leaves = [found for found in gc.get_objects() if issubclass(type(found), Tensor) and found.is_leaf]
    return stored_bytes(leaf.grad for leaf in leaves if leaf.grad is not None) // 4


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
