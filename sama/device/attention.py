"""The attention kernel that a GPU runs fastest, among diffusers' exact ones: tried out once in a process."""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from sama.model.transformer import SamaTransformer3DModel

USUAL = "native"
CANDIDATES = (USUAL, "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""diffusers' names of backends that give what `USUAL` gives, but for rounding; those that are not installed are left
out."""
OVERRIDE = "DIFFUSERS_ATTN_BACKEND"
"""diffusers' own environment variable, which names a backend for everything."""
_GAIN = 0.95  # of the usual backend's time: what is hardly quicker would change with every trial, and bits with it
_HEADS = 4  # enough to fill a GPU
_RUNS = 4


def choose_attention(transformer: SamaTransformer3DModel, device: str, tokens: int) -> str | None:
    """Let a transformer use the quickest backend for sequences of `tokens` on a GPU; returns its name.

    None, and nothing is changed, on other devices and where the user has named a backend: by `OVERRIDE`, or by
    diffusers' `set_attention_backend`.
    """
    if not device.startswith("cuda") or OVERRIDE in os.environ or attention_of(transformer) is not None:
        return None
    name = quickest(_trial(device, tokens, transformer.config["attention_head_dim"], transformer.dtype))
    use_attention(transformer, name)
    return name


def attention_of(transformer: SamaTransformer3DModel) -> str | None:
    """The backend that a transformer's attention was told to use; None where nobody has told it."""
    found = transformer.blocks[0].attn1.processor._attention_backend
    return None if found is None else str(found.value)


def use_attention(transformer: SamaTransformer3DModel, name: str | None) -> None:
    """Let a transformer use a backend, and no other model: diffusers' `set_attention_backend` is for the process."""
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.models.transformers.transformer_wan import WanAttention

    backend = None if name is None else AttentionBackendName(name)
    for module in transformer.modules():
        if isinstance(module, WanAttention):
            module.processor._attention_backend = backend


def quickest(seconds: Mapping[str, float]) -> str:
    """The backend to use, by the time that each took; the usual one unless another is clearly quicker."""
    best = min(seconds, key=lambda name: seconds[name], default=USUAL)
    return best if seconds.get(best, math.inf) < _GAIN * seconds.get(USUAL, math.inf) else USUAL


@cache
def _trial(device: str, tokens: int, head_dim: int, dtype: torch.dtype) -> Mapping[str, float]:
    """Seconds of each backend that works here."""
    import torch

    parts = [torch.randn(1, tokens, _HEADS, head_dim, device=device, dtype=dtype) for _ in range(3)]
    found = {}
    for name in CANDIDATES:
        try:
            found[name] = attention_seconds(name, parts)
        except Exception:  # whatever a kernel raises that is missing, or does not fit this GPU
            continue
    return found


def attention_seconds(name: str, parts: list[torch.Tensor]) -> float:
    """Seconds of the quickest of several runs, after one that warms up. parts: query, key and value (B, N, H, d)."""
    import torch
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    taken = []
    with torch.no_grad():
        for _ in range(1 + _RUNS):
            began = time.perf_counter()
            dispatch_attention_fn(*parts, backend=name)
            if parts[0].is_cuda:
                torch.cuda.synchronize(parts[0].device)
            taken.append(time.perf_counter() - began)
    return min(taken[1:])
