"""Activation checkpointing: blocks are computed again in the backward pass instead of keeping what they computed.

Of a long clip's arithmetic, self-attention is most (at 81 frames of 480 x 832, 82 % in the 1.3B model and 69 % in the
14B): keeping its output, one tensor of the size of the block's input, leaves a fifth to a third of a forward pass to be
computed again.

| kept for each block        | 1.3B, 81 frames | 14B, 81 frames | computed again |
|----------------------------|-----------------|----------------|----------------|
| input                      | 0.20 GB         | 0.67 GB        | all            |
| input and attention output | 0.41 GB         | 1.35 GB        | all but self-attention |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.config import ParallelConfig

_ATTENTION = re.compile(r"attention|flash_attn")


def checkpoint_activations(model: Any, config: ParallelConfig, preserve_rng: bool = False) -> None:
    """Apply `config.checkpointing` to every n-th block (`checkpoint_every`), from the first on; the others keep
    everything. Compiled blocks and shared sequences are fine.

    model: a diffusers model with `blocks`. preserve_rng: blocks draw random numbers.
    """
    if config.checkpointing == "none":
        return
    chosen = {id(block) for block in list(model.blocks)[:: config.checkpoint_every]}
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": preserve_rng}
    if config.checkpointing.startswith("attention"):
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        if id(block) not in chosen:
            return block(*inputs)
        with _kept_on_host(inputs[0]) if config.checkpointing.endswith("offload") else nullcontext():
            return checkpoint(block, *inputs, **options)

    model.enable_gradient_checkpointing(run)


def _policy(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:  # noqa: ARG001
    name = str(operation)
    # Cross-attention, whose keys are the 512 tokens of a text, is cheap to compute again.
    if _ATTENTION.search(name) and "backward" not in name and args[0].shape == args[1].shape:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _kept_on_host(tokens: Tensor) -> torch.autograd.graph.saved_tensors_hooks:
    """Hooks that move `tokens`, a block's input, to page-locked host memory until the backward pass needs them. What is
    small or shared by all blocks stays."""
    device, place = tokens.device, tokens.data_ptr()

    def pack(tensor: Tensor) -> tuple[bool, Tensor]:
        if tensor.data_ptr() != place:
            return False, tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
        return True, host.copy_(tensor, non_blocking=True)

    def unpack(packed: tuple[bool, Tensor]) -> Tensor:
        moved, tensor = packed
        return tensor.to(device, non_blocking=True) if moved else tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
