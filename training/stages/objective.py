"""The training objective: flow matching on the video, L1 on the anchors (paper, section 3.2).

With noise e and clean x, the state at noise level s is (1 - s) x + s e and the velocity to learn is e - x, for both
streams at one shared s. Since the noise is known, L1 on the anchors' velocity is L1 on their implied clean value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.config import ObjectiveConfig


class Noised(NamedTuple):
    """A noisy state and the velocity that leads from clean to noise, both of the clean tensor's shape."""

    state: Tensor
    velocity: Tensor


def sample_sigmas(count: int, config: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """Noise levels in (0, 1), (count,): stratified over the batch by `timesteps`, then shifted towards noise as at
    inference."""
    device = generator.device
    offsets = torch.rand(count, generator=generator, device=device)
    levels = (torch.randperm(count, generator=generator, device=device) + offsets) / count
    if config.timesteps == "logit_normal":
        levels = torch.special.ndtri(levels.double()).float().sigmoid()
    return config.sigma_shift * levels / (1 + (config.sigma_shift - 1) * levels)


def add_noise(clean: Tensor, sigmas: Tensor, noise: Tensor) -> Noised:
    """States at noise levels `sigmas` (B,) of clean tensors (B, ...)."""
    sigmas = sigmas.view(-1, *[1] * (clean.ndim - 1))
    return Noised((1 - sigmas) * clean + sigmas * noise, noise - clean)


def edit_weights(source: Tensor | None, target: Tensor, weight: float, threshold: float = 0.25) -> Tensor:
    """Weights (B, 1, F, H, W) with mean 1 per sample: `weight` where the latents of source and target differ by more
    than `threshold` standard deviations on average, 1 elsewhere. An edit often covers a tenth of the picture, and the
    plain mean then mostly rewards copying."""
    if source is None or weight == 1.0:
        return target.new_ones(()).expand(len(target), 1, *target.shape[2:])
    changed = (source - target).abs().mean(dim=1, keepdim=True) > threshold
    weights = torch.where(changed, weight, 1.0)
    return weights / weights.mean(dim=(1, 2, 3, 4), keepdim=True)


def losses(
    velocity: Tensor,
    wanted: Tensor,
    weights: Tensor,
    semantic: Tensor | None = None,
    wanted_semantic: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Flow and semantic loss of each sample, (B,) float32 each: weighted squared error of the video's velocity, and L1
    on the anchors' velocity (None without anchors)."""
    flow = ((velocity.float() - wanted.float()).square() * weights).mean(dim=(1, 2, 3, 4))
    if semantic is None or wanted_semantic is None:
        return flow, None
    return flow, (semantic.float() - wanted_semantic.float()).abs().mean(dim=(1, 2))


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
        """The sums that this process has added since the last reading."""
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums.copy_(state["sums"])
