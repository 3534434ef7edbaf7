"""Weights in float8: large matrices stored in float8, the rest in bfloat16, and training that survives the rounding.

A float8 (e4m3) weight has a relative error of about 2.5 %. What is trained *on top of* a stored network sees the stored
weights, so their rounding costs nothing; for a network that is itself shipped in float8 the last steps of training run
through the rounding (`float8_rounded`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sama.files import whole_file
from training.parallel.processes import local

FLOAT8 = torch.float8_e4m3fn


def is_large_matrix(name: str, tensor: Tensor) -> bool:
    """The weights worth a byte each: linear layers, embeddings and convolutions, not norms, biases and tables."""
    return name.endswith("weight") and tensor.ndim >= 2 and tensor.numel() >= 4096


def float8_rounded(tensor: Tensor) -> Tensor:
    """`tensor` through float8 and back, in its own dtype."""
    return tensor.to(FLOAT8).to(tensor.dtype)


def rewrite_compact(path: Path) -> None:
    """Rewrite a safetensors file in place, whole or not at all: large matrices in float8, every other floating tensor
    in bfloat16."""
    state = {
        name: tensor.to(FLOAT8 if is_large_matrix(name, tensor) else torch.bfloat16)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in load_file(path).items()
    }
    with whole_file(path) as part:
        save_file(state, part, metadata={"format": "pt"})
        part.chmod(0o644)  # the writer's temporary files are private


class RoundedWeights:
    """Run a model through its stored form: inside the block the large matrices hold their float8 rounding, after it
    their own values again. A step taken with the gradients found inside trains the weights to survive the rounding."""

    def __init__(self, model: nn.Module) -> None:
        self._live: list[Tensor] = [
            local(parameter.detach())
            for name, parameter in model.named_parameters()
            if is_large_matrix(name, parameter)
        ]
        self._own: list[Tensor] = [torch.empty_like(parameter) for parameter in self._live]

    @torch.no_grad()
    def __enter__(self) -> None:
        torch._foreach_copy_(self._own, self._live)
        torch._foreach_copy_(self._live, [float8_rounded(parameter) for parameter in self._live])

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        torch._foreach_copy_(self._live, self._own)
