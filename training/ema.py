"""The exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.distributed import local


class Ema:
    """Shadows of the trainable weights, updated every step; of sharded weights, each process has its shard's.

    The decay is `min(decay, (1 + t) / (10 + t))`: a short run is not dominated by its first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.shadow: dict[str, Tensor] = {name: weight.detach().float().clone() for name, weight in trained.items()}
        """By parameter name; sharded as the weights are."""
        self._live = [local(weight.detach()) for weight in trained.values()]
        self._shadow = [local(shadow) for shadow in self.shadow.values()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._shadow, [weight.float() for weight in self._live], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model holds the averaged weights inside the block, and its own again after it."""
        own = [weight.clone() for weight in self._live]
        with torch.no_grad():
            torch._foreach_copy_(self._live, self._shadow)
            try:
                yield
            finally:
                torch._foreach_copy_(self._live, own)
