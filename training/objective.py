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


def sample_sigmas(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels in (0, 1), (count,): stratified over the batch, then shifted towards noise as at inference."""
    device = generator.device
    offsets = torch.rand(count, generator=generator, device=device)
    uniform = (torch.randperm(count, generator=generator, device=device) + offsets) / count
    return shift * uniform / (1 + (shift - 1) * uniform)


def add_noise(clean: Tensor, sigmas: Tensor, noise: Tensor) -> Noised:
    """States at noise levels `sigmas` (B,) of clean tensors (B, ...)."""
    sigmas = sigmas.view(-1, *[1] * (clean.ndim - 1))
    return Noised((1 - sigmas) * clean + sigmas * noise, noise - clean)


def edit_weights(source: Tensor, target: Tensor, weight: float, threshold: float = 0.25) -> Tensor:
    """Weights (B, 1, F, H, W) with mean 1 per sample: `weight` where the latents of source and target differ by more
    than `threshold` standard deviations on average, 1 elsewhere. An edit often covers a tenth of the picture, and the
    plain mean then mostly rewards copying."""
    changed = (source - target).abs().mean(dim=1, keepdim=True) > threshold
    weights = torch.where(changed, weight, 1.0)
    return weights / weights.mean(dim=(1, 2, 3, 4), keepdim=True)


def losses(
    velocity: Tensor,
    wanted: Tensor,
    semantic: Tensor,
    wanted_semantic: Tensor,
    weights: Tensor,
    config: ObjectiveConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, flow and semantic loss in float32. The flow loss is returned per sample, (B,), for the log."""
    flow = ((velocity.float() - wanted.float()).square() * weights).mean(dim=(1, 2, 3, 4))
    anchors = (semantic.float() - wanted_semantic.float()).abs().mean()
    return flow.mean() + config.semantic_weight * anchors, flow, anchors
