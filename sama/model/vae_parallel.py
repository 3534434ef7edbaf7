"""Wan's autoencoder on several processes, each of which holds a part of the picture, exact at the seams.

    picture        | process 0 | process 1 | process 2 |     cut along its longer side, in whole latents
    convolution     each asks its neighbours for the one row or column next to its own
    middle block    its attention gathers the whole picture, at 1/8 of its size, and keeps a part
    result          gathered on all processes

Each process computes its own part and nothing twice, so that the time falls as the number of processes grows; stripes
(`sama.model.vae_stripes`), which must not wait for each other, have wide rims instead. diffusers' modules run as they
are, with hooks where they look beyond a pixel. The result differs from one process's at most by the order in which a
kernel adds (float32: 1e-6 of the range).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock
from torch import Tensor, nn

from sama.model.parallel import tokens_per_process
from sama.model.vae_stripes import can_stripe, longer_side

PAYS = 2e6
"""Pixels of a clip, all frames together, from which several processes are quicker than one: fewer are decoded in the
time that the exchanges take."""
_LEAST = 2  # latents of a part
_RIM = 2  # latents: a neighbour's edges take no more


def can_spread(vae: AutoencoderKLWan, clip: Sequence[int], processes: int) -> bool:
    """Whether it pays to spread a clip (B, T, H, W) over so many processes, and the autoencoder is one that can be cut:
    it is neither tiled nor moved about by accelerate's hooks."""
    cut = can_stripe(vae.config) and not vae.use_tiling and not hasattr(vae, "_hf_hook")
    enough = math.prod(clip) >= PAYS and max(clip[2:]) >= _LEAST * processes * vae.spatial_compression_ratio
    return cut and processes > 1 and enough


def largest_share(vae: AutoencoderKLWan, clip: Sequence[int], processes: int) -> float:
    """The largest part of the picture of a clip (B, T, H, W) that a process holds, with its neighbours' edges."""
    longer = max(clip[2:]) // vae.spatial_compression_ratio
    return min(1.0, (tokens_per_process(longer, processes)[0] + _RIM) / longer)


@torch.no_grad()
def encode(vae: AutoencoderKLWan, pixels: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The mode of the latents (B, C, F, h, w) of pixels (B, 3, T, H, W) in [-1, 1], T = 4k+1, that every process of the
    group has and gives; all get the whole."""
    dim, scale = longer_side(pixels), vae.spatial_compression_ratio
    counts = tokens_per_process(pixels.shape[dim] // scale, group.size())
    own = pixels.split([scale * count for count in counts], dim)[group.rank()].contiguous()
    with _Seams(dim - pixels.ndim, counts, group).on(vae.encoder):
        latents = vae.encode(own).latent_dist.mode()
    return _gathered(latents, dim, counts, group)


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Pixels (B, 3, T, H, W) in [-1, 1] of latents (B, C, F, h, w) that every process of the group has and gives; all
    get the whole."""
    dim, scale = longer_side(latents), vae.spatial_compression_ratio
    counts = tokens_per_process(latents.shape[dim], group.size())
    own = latents.split(counts, dim)[group.rank()].contiguous()
    with _Seams(dim - latents.ndim, counts, group).on(vae.decoder):
        pixels = vae.decode(own, return_dict=False)[0]
    return _gathered(pixels, dim, [scale * count for count in counts], group)


class _Seams:
    """Hooks that join the parts of a picture where a module looks beyond a pixel.

    dim: along which the picture is cut, from the end (-1 width, -2 height). counts: latents of each process.
    """

    def __init__(self, dim: int, counts: list[int], group: dist.ProcessGroup) -> None:
        self.dim, self.counts, self.group = dim, counts, group
        self.before, self.after = int(group.rank() > 0), int(group.rank() < group.size() - 1)

    @contextmanager
    def on(self, coder: nn.Module) -> Iterator[None]:
        """Put the hooks on an encoder or a decoder."""
        hooks = []
        for module in coder.modules():
            if isinstance(module, WanAttentionBlock):
                hooks.append(module.register_forward_pre_hook(self._gather))
                hooks.append(module.register_forward_hook(self._keep_own))
            elif isinstance(module, nn.ZeroPad2d):
                hooks.append(module.register_forward_hook(self._pad_by_neighbour))
            elif isinstance(module, (nn.Conv2d, nn.Conv3d)) and _looks_around(module):
                hooks.append(module.register_forward_pre_hook(self._widen))
                hooks.append(module.register_forward_hook(self._narrow))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _widen(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
        x, remembered = inputs[0], inputs[1] if len(inputs) > 1 else None
        if remembered is None:
            return (self._with_edges(x), *inputs[1:])
        wide = self._with_edges(torch.cat([remembered.to(x.device), x], dim=2))  # frames before, which it knows as well
        return wide[:, :, remembered.shape[2] :], wide[:, :, : remembered.shape[2]]

    def _narrow(self, module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:  # noqa: ARG002
        return out.narrow(self.dim, self.before, out.shape[self.dim] - self.before - self.after)

    def _pad_by_neighbour(self, module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:  # noqa: ARG002
        """Before a convolution of stride 2, which looks one further behind: the neighbour's first in place of zeros."""
        x, other = inputs[0], -1 if self.dim == -2 else -2
        following = self._edges(x)[1]
        if following is not None:
            place = out.narrow(self.dim, x.shape[self.dim], 1).narrow(other, 0, x.shape[other])
            place.copy_(following)
        return out

    def _gather(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
        return (_gathered(inputs[0], self.dim, self.counts, self.group),)

    def _keep_own(self, module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:  # noqa: ARG002
        return out.split(self.counts, self.dim)[self.group.rank()].contiguous()

    def _with_edges(self, x: Tensor) -> Tensor:
        before, after = self._edges(x)
        return torch.cat([part for part in (before, x, after) if part is not None], self.dim)

    def _edges(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The neighbours' rows or columns next to this process's `x`; None at an edge of the picture."""
        last = x.shape[self.dim] - 1
        own = torch.stack([x.narrow(self.dim, 0, 1), x.narrow(self.dim, last, 1)])
        everyone, rank = _all(own, self.group), self.group.rank()
        return everyone[rank - 1][1] if self.before else None, everyone[rank + 1][0] if self.after else None


def _looks_around(layer: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a convolution sees more than a pixel of a frame; one of stride 2 is looked after where it is padded."""
    return layer.kernel_size[-1] > 1 and layer.stride[-1] == 1


def _gathered(own: Tensor, dim: int, counts: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """All parts side by side. counts: of each process, along `dim`."""
    missing = max(counts) - own.shape[dim]
    if missing:  # the transport wants equal shapes; the filling is cut off again
        own = torch.cat([own, own.narrow(dim, 0, missing)], dim)
    parts = zip(_all(own, group), counts, strict=True)
    return torch.cat([part.narrow(dim, 0, count) for part, count in parts], dim)


def _all(own: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The tensor of every process; their shapes are the same."""
    sent = own.contiguous()
    found = [torch.empty_like(sent) for _ in range(group.size())]
    dist.all_gather([part.view(torch.uint8) for part in found], sent.view(torch.uint8), group=group)  # of any type
    return found
