"""The exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.parallel.processes import local


class Ema:
    """Shadows of the trainable weights, updated every step; of sharded weights, each process has its shard's.

    The decay is `min(decay, (1 + t) / (10 + t))`, t being the number of updates: a short run is not dominated by its
    first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.shadow: dict[str, Tensor] = {name: weight.detach().float().clone() for name, weight in trained.items()}
        """The averages by parameter name; sharded as the weights are."""
        self._live = [local(weight.detach()) for weight in trained.values()]
        self._shadow = [local(shadow) for shadow in self.shadow.values()]
        device = self._live[0].device if self._live else torch.device("cpu")
        self._updates = torch.zeros((), dtype=torch.double, device=device)

    @property
    def updates(self) -> int:
        """How often the averages were updated. Waits for the device."""
        return int(self._updates)

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates.fill_(count)

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Move the averages towards the weights. skip: a bool tensor without dimensions; where it is true nothing
        changes, and the host does not ask."""
        self._updates += 1.0 if skip is None else (~skip).double()
        share = 1 - ((1 + self._updates) / (10 + self._updates)).clamp(max=self.decay)
        if skip is not None:
            share = torch.where(skip, 0.0, share)
        shares = [share.float()] * len(self._shadow)
        torch._foreach_lerp_(self._shadow, [weight.float() for weight in self._live], shares)

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
