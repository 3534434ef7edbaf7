"""The exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Shadow weights, updated every step.

    The decay is `min(decay, (1 + t) / (10 + t))`: a short run is not dominated by its first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._names = [name for name, _ in model.named_parameters()]
        self._live = [parameter for _, parameter in model.named_parameters()]
        self._shadow = [parameter.detach().float().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._shadow, [parameter.detach().float() for parameter in self._live], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model holds the averaged weights inside the block, and its own again after it."""
        own = [parameter.detach().clone() for parameter in self._live]
        with torch.no_grad():
            torch._foreach_copy_([parameter.data for parameter in self._live], self._shadow)
            try:
                yield
            finally:
                torch._foreach_copy_([parameter.data for parameter in self._live], own)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"updates": self.updates, **dict(zip(self._names, self._shadow, strict=True))}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        state = dict(state)
        self.updates = int(state.pop("updates"))
        if set(state) != set(self._names):
            raise ValueError("the averaged weights belong to another model")
        with torch.no_grad():
            for name, shadow in zip(self._names, self._shadow, strict=True):
                shadow.copy_(state[name])  # type: ignore[arg-type]
