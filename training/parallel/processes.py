"""How several processes share the work: who sees which samples, and where the weights live.

Everything is applied to a finished model from outside, in this order: compilation (the stage's), then
`checkpoint_activations`, then `ProcessGroups.wrap`, which shares sequences and replicates or shards the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from training.config import TrainConfig
from training.errors import ConfigError

SMALL_MODEL = 1_000_000_000
"""Parameters below which `weights: auto` replicates: 16 bytes each then fit beside the activations."""


@dataclass(frozen=True)
class DataRank:
    """Which of the `count` streams of samples a process sees. The processes that share a sequence have the same data
    rank: they see the same batches and draw the same noise."""

    rank: int
    count: int
    device: torch.device


@dataclass
class ProcessGroups:
    """The processes of a run.

    data_rank: which samples this process sees. sharded: whether weights, gradients, optimiser states and averages are
    split between all processes. sequence: those that share this process's sequences. control: all processes, for
    decisions of the hosts that must not wait for the devices; None for one process alone.
    """

    data_rank: DataRank
    sharded: bool = False
    sequence: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def device(self) -> torch.device:
        return self.data_rank.device

    def wrap(self, model: nn.Module, accelerator: Accelerator) -> nn.Module:
        """The module to call in training. Weights may stand anywhere before; they are on the device afterwards. Where
        they are sharded, those of the first process count, and the others' may be empty (`meta`)."""
        if self.sequence is not None:
            from sama.model.parallel import sequence_parallel

            sequence_parallel(model, self.sequence)  # type: ignore[arg-type]
        if not self.sharded:
            model.to(self.device)
            return accelerator.prepare(model) if accelerator.num_processes > 1 else model
        _shard(model, self.device, accelerator.is_main_process)
        return model

    def agree(self, values: Sequence[float]) -> list[float]:
        """The largest of every value over all processes. Asks nothing of the devices."""
        if self.control is None:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return shared.tolist()

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.control is not None:
            dist.barrier(group=self.control)


def process_groups(config: TrainConfig, accelerator: Accelerator, parameters: int = 0) -> ProcessGroups:
    """The groups that a configuration asks for. parameters: how many the model has, for `weights: auto`. Raises
    ConfigError for numbers of processes that do not work out."""
    count, rank, parallel = accelerator.num_processes, accelerator.process_index, config.parallel
    sharded = require_fitting(config, count, parameters)
    data_rank = DataRank(rank // parallel.sequence, count // parallel.sequence, accelerator.device)
    if count == 1:
        return ProcessGroups(data_rank)
    control = dist.new_group(backend="gloo")
    sequence = None
    if parallel.sequence > 1:
        sequence, _ = dist.new_subgroups(parallel.sequence)
    return ProcessGroups(data_rank, sharded, sequence, control)


def require_fitting(config: TrainConfig, processes: int, parameters: int) -> bool:
    """Whether the weights are sharded. Raises ConfigError for what does not go together."""
    parallel = config.parallel
    if processes % parallel.sequence:
        raise ConfigError(
            f"parallel.sequence={parallel.sequence} does not divide the {processes} processes: start a multiple of it"
        )
    if config.stage == "lora" and parallel.weights == "shard":
        raise ConfigError("an adapter is small: set parallel.weights=replicate")
    large = config.stage != "lora" and parameters >= SMALL_MODEL
    if parallel.weights == "replicate" or (parallel.weights == "auto" and not large) or processes == 1:
        return False
    if config.optimiser.name == "muon":
        raise ConfigError(
            "Muon needs whole matrices: set optimiser.name=adamw for sharded weights, or parallel.weights=replicate"
        )
    return True


def _shard(model: nn.Module, device: torch.device, is_first: bool) -> None:
    """FSDP2 block by block, float32: autocast rounds what is computed, so that the islands of `training.core.precision`
    stay as they are and shards compute what replicas do."""
    whole = {name: tensor.detach() for name, tensor in model.state_dict().items()} if is_first else {}
    buffers = {name: buffer.to(device) for name, buffer in model.named_buffers() if not buffer.is_meta}
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(model, "blocks", []):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # or averages swapped in would be seen a step late
    if not is_first:
        model.to_empty(device=device)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole, options=options)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """All weights in host memory, in the first process; empty in the others. Every process must call it."""
    if not isinstance(model, FSDPModule):
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def is_first_process() -> bool:
    """Whether this is the process that writes what all share."""
    return not dist.is_initialized() or dist.get_rank() == 0


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextlib.contextmanager
def without_sync(wrapped: nn.Module, accelerator: Accelerator, hold: bool) -> Iterator[None]:
    """Replicas keep the gradients of the block to themselves if `hold` says so: the last micro-step exchanges their
    sum. Sharded weights exchange in every micro-step, since what is not exchanged is whole: 4 bytes for each weight of
    the model, on every GPU."""
    if not hold or isinstance(wrapped, FSDPModule):
        yield
    else:
        with accelerator.no_sync(wrapped):
            yield


# --- Gradients -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> tuple[Tensor, Tensor]:
    """Clip gradients, sharded ones too; returns their norm and whether it is not finite, in which case the gradients
    are of no use and the step is to be skipped.

    It is decided on the device: a host that asked for the norm would wait for the backward pass, and the device then
    for the host. Gradients have been averaged, so that every process decides alike.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    broken = ~torch.isfinite(norm)
    scale = (max_norm / (norm + 1e-6)).clamp_max(1.0)
    parts = [local(gradient) for gradient in gradients]
    torch._foreach_mul_(parts, scale)
    return norm, broken
