"""The interface between feeds and stages: one encoded batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class EncodedBatch:
    """Encoded samples of one bucket, on the device.

    source: (B, C, F, H, W) normalised latents, float32 or bfloat16; None to train text-to-video.
    target: (B, C, F, H, W).
    text: (B, L, text_dim) states, padded rows zero; drop-out has been applied.
    anchors: (B, 65, semantic_dim) clean tokens of the targets' first frames; None where the objective uses none.
    exact: (B,) bool, whether the target is the only right answer (`distill.truth_tasks`); None where all are.
    """

    source: Tensor | None
    target: Tensor
    text: Tensor
    anchors: Tensor | None
    exact: Tensor | None = None

    def finite(self) -> Tensor:
        """Which rows hold finite values only: (B,) bool on the device."""
        return finite_rows(self.source, self.target, self.text, self.anchors)


def finite_rows(*tensors: Tensor | None) -> Tensor:
    """Whether row i of all tensors (B, ...) holds finite values only: (B,) bool on their device. None is left out."""
    rows = [tensor.flatten(1).isfinite().all(1) for tensor in tensors if tensor is not None]
    return torch.stack(rows).all(0)


def without_broken_rows(batch: EncodedBatch) -> tuple[EncodedBatch, Tensor]:
    """A batch in which the first row of finite values stands in place of every row with a value that is not finite, and
    which rows were finite, (B,) bool. Without a finite row nothing changes.

    All is decided on the device. One broken sample would otherwise cost the whole step, since its loss is in the mean.
    """
    finite = batch.finite()
    numbers = torch.arange(len(finite), device=finite.device)
    rows = torch.where(finite, numbers, finite.to(torch.uint8).argmax())
    optional = (batch.source, batch.anchors, batch.exact)
    source, anchors, exact = (None if tensor is None else tensor[rows] for tensor in optional)
    return EncodedBatch(source, batch.target[rows], batch.text[rows], anchors, exact), finite


class Feed(Protocol):
    """An endless stream of batches of one data rank (`training.parallel.processes.DataRank`), whose position can be
    stored."""

    def batches(self) -> Iterator[EncodedBatch]:
        """Batches from the present position on. Every data rank has the same bucket in the same micro-step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was taken: integers, no more."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; call before `batches`. With another number of data ranks, no sample that was seen in
        the present epoch comes again in it."""
        ...

    def summary(self) -> str:
        """The samples that will be seen and those left out, as lines for the user: sizes, buckets, drops and why."""
        ...
