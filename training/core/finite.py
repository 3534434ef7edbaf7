"""Values that are not finite: found on the device, told to the host when it can know without waiting."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import torch
from torch import Tensor

About = TypeVar("About")


def finite_rows(*tensors: Tensor | None) -> Tensor:
    """Whether row i of all tensors (B, ...) holds finite values only: (B,) bool on their device. None is left out."""
    rows = [tensor.flatten(1).isfinite().all(1) for tensor in tensors if tensor is not None]
    return torch.stack(rows).all(0)


class LateFlags(Generic[About]):
    """Flags that were computed on the device, read on the host as soon as they have arrived there.

    The host runs ahead of a GPU: a step's flags arrive while later steps are being launched. Nothing waits for them,
    except where `take` is told to. On a CPU they are there at once.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, About]] = deque()

    def put(self, flags: Tensor, about: About) -> None:
        """Send bool flags of any shape on their way. about: what `take` returns with them."""
        arrived = None
        if flags.is_cuda:
            host = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
            host.copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            host = flags.detach().clone()
        self._waiting.append((host, arrived, about))

    def take(self, wait: bool = False) -> list[tuple[Tensor, About]]:
        """Flags that have arrived, on the host, in the order in which they were put. wait: all of them."""
        taken = []
        while self._waiting:
            flags, arrived, about = self._waiting[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    break
                arrived.synchronize()
            self._waiting.popleft()
            taken.append((flags, about))
        return taken
