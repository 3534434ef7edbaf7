"""Gradient checkpointing that spares the attention.

A block under ordinary checkpointing is computed again as a whole in the backward pass. Of a long clip's arithmetic,
self-attention is most (at 81 frames of 480 x 832, 82 % in the 1.3B model and 69 % in the 14B): keeping its output,
one tensor of the size of the block's input, leaves a fifth to a third of a forward pass to be computed again.

| kept for each block        | 1.3B, 81 frames | 14B, 81 frames | computed again |
|----------------------------|-----------------|----------------|----------------|
| input                      | 0.20 GB         | 0.67 GB        | all            |
| input and attention output | 0.41 GB         | 1.35 GB        | all but self-attention |
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from sama.model.transformer import SamaTransformer3DModel

_ATTENTION = re.compile(r"attention|flash_attn")


def keep_attention(
    model: SamaTransformer3DModel, every: int = 1, on_host: bool = False, preserve_rng: bool = False
) -> None:
    """Let `model` keep each block's input and the output of its self-attention, and compute the rest again.

    every: only each n-th block, from the first on; the others keep everything. on_host: the inputs wait in host memory,
    so that no more of a block stays on the device than under ordinary checkpointing. preserve_rng: blocks draw random
    numbers. Compiled blocks and shared sequences are fine.
    """
    chosen = {id(block) for block in list(model.blocks)[::every]}

    def run(block: nn.Module, *inputs: Tensor) -> Tensor:
        if id(block) not in chosen:
            return block(*inputs)
        keep = torch.autograd.graph.save_on_cpu(pin_memory=inputs[0].is_cuda) if on_host else nullcontext()
        with keep:
            return checkpoint(
                block, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng, context_fn=_contexts
            )

    model.enable_gradient_checkpointing(run)


def _contexts() -> tuple[Any, Any]:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:  # noqa: ARG001
    name = str(operation)
    # Cross-attention, whose keys are the 512 tokens of a text, is cheap to compute again.
    if _ATTENTION.search(name) and "backward" not in name and args[0].shape == args[1].shape:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
