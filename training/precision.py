"""What is computed in which type.

Weights, gradients, optimisers and averages are float32. Forward passes run under bfloat16 autocast where the
configuration says so. These stay in float32 even then, and `FLOAT32_ISLANDS` names them for the sharded weights, whose
other parts are gathered in bfloat16:

- rotary positions, computed in float64 and kept as float32 tables (diffusers);
- the time embedder's sinusoid, norms and modulation (diffusers casts their inputs; the tables are listed below);
- noise, noise levels, the states made from them and both losses (`training.objective`).
"""

from __future__ import annotations

import torch

FLOAT32_ISLANDS = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
"""Parts of parameter names that diffusers, too, keeps in float32 whatever type a Wan transformer is loaded in."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Forward passes in bfloat16 where `precision` says so; weights, gradients and losses stay float32. Rounded copies
    of weights are not kept beyond their layer: each is used once in a pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)
