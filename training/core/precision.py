"""Decides which part is computed in which type.

Weights, gradients, optimiser states and averages are float32, sharded or not; below an adapter, the frozen weights are
in the type of the run but for those that diffusers keeps in float32 as well. Forward passes run under bfloat16 autocast
where the configuration says so. These stay in float32 even then:

- rotary positions: computed in float64, kept as float32 tables (diffusers);
- norms, the time embedder's sinusoid and the sum of each block's modulation (diffusers casts what goes in);
- noise, noise levels, the states made from them, and both losses (`training.stages.objective`).
"""

from __future__ import annotations

import os

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Forward passes in bfloat16 where `precision` says so; weights, gradients and losses stay float32. Rounded copies
    of weights are not kept beyond their layer: each is used once in a pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def choose_kernels(deterministic: bool = False) -> None:
    """Choose the GPU kernels of a process that trains or encodes, before it touches a device: float32 products in TF32,
    and convolutions timed once for each shape that they meet (`training.data.encoders` fills its batches up for
    that).

    deterministic: only kernels that give the same bits every time, which leaves out timed convolutions, and attention
    whose backward pass adds in no fixed order.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
