"""Losses by noise level: a mean over all levels hides that a model learns its layout early and its detail late."""

from __future__ import annotations

import torch
from torch import Tensor


class BandMeans:
    """Running means of the flow and the semantic loss in equal bands of the noise level, from the least noise to the
    most: band k of n holds k / n <= sigma < (k + 1) / n. Kept on the device until they are read."""

    def __init__(self, bands: int, device: torch.device) -> None:
        self.bands = bands
        self._numbers = torch.arange(bands, device=device)
        self._sums = torch.zeros(bands, 4, device=device)  # flow, their count, semantic, their count

    @torch.no_grad()
    def add(self, sigmas: Tensor, flow: Tensor, semantic: Tensor | None = None) -> None:
        """Count the losses (B,) of samples at noise levels `sigmas` (B,) in [0, 1], without waiting for the device.
        Losses that are not finite are left out: one broken sample would hide the others of its band."""
        band = (sigmas.detach().float() * self.bands).long().clamp(0, self.bands - 1)
        member = band[None] == self._numbers[:, None]  # (bands, B)
        for column, loss in ((0, flow), (2, semantic)):
            if loss is None:
                continue
            loss = loss.detach().float()
            counted = member & loss.isfinite()
            self._sums[:, column] += torch.where(counted, loss, 0.0).sum(1)
            self._sums[:, column + 1] += counted.sum(1)

    def read(self) -> dict[str, float]:
        """`flow_band_k` and `semantic_band_k` over all processes since the last reading; a band that saw no sample is
        left out. Every process must call it at the same step: the sums are added up between them."""
        sums = self._sums.clone()
        self._sums.zero_()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        rows = sums.tolist()  # the one wait for the device
        means = {}
        for name, column in (("flow", 0), ("semantic", 2)):
            for band, row in enumerate(rows):
                if row[column + 1]:
                    means[f"{name}_band_{band}"] = row[column] / row[column + 1]
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """What this process has added since the last reading."""
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums.copy_(state["sums"])
