"""What is computed in which type.

Weights, gradients, optimiser states and averages are float32, sharded or not; below an adapter, the frozen weights are
in the type of the run but for those that diffusers keeps in float32 as well. Forward passes run under bfloat16 autocast
where the configuration says so. These stay in float32 even then:

- rotary positions: computed in float64, kept as float32 tables (diffusers);
- norms, the time embedder's sinusoid and the sum of each block's modulation (diffusers casts what goes in);
- noise, noise levels, the states made from them, and both losses (`training.objective`).
"""

from __future__ import annotations

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Forward passes in bfloat16 where `precision` says so; weights, gradients and losses stay float32. Rounded copies
    of weights are not kept beyond their layer: each is used once in a pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def use_fast_kernels() -> None:
    """Of a whole process that trains or encodes on a GPU: float32 products in TF32, and convolutions timed once for
    each shape that they meet (`training.encoders` fills its batches up for that)."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
