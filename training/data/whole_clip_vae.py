"""Wan's causal VAE over a whole clip at once.

diffusers runs the VAE chunk by chunk with a feature cache, which bounds memory and is slow to train. The network is
causal, so that one pass over all frames gives the same result (to 3e-6): only the layers that change the frame rate
need to know where a clip begins. Activations are kept with channels last, so that a norm is one kernel.

The causal convolutions stay the library's, which pad the past explicitly. Padding both ends of time by `padding=` and
dropping the surplus frames saves a copy, but oneDNN's bfloat16 kernel for CPUs with AMX then returns NaN for one frame.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanResample,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from torch import Tensor, nn


class OnePassVAE(nn.Module):
    """A view of an `AutoencoderKLWan` (residual form) that encodes and decodes clips of 4k+1 frames in one pass.

    It shares the VAE's weights and changes how its layers run; use another instance for chunked inference.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        if not vae.config.is_residual:
            raise ValueError("the one-pass view is written for the residual form (is_residual=True)")
        self.vae = vae
        replacements = {WanResample: _resample, WanRMS_norm: _rms_norm}
        for module in vae.modules():
            if type(module) in replacements:
                module.forward = types.MethodType(replacements[type(module)], module)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, 4k+1, H, W) in [-1, 1] to mean and log-variance, (B, z, k+1, H/8, W/8) each."""
        patches = patchify(frames, patch_size=self.vae.config.patch_size)
        hidden = self.vae.encoder(patches.contiguous(memory_format=torch.channels_last_3d))
        mean, logvar = self.vae.quant_conv(hidden).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, z, k+1, h, w) to clips (B, 3, 4k+1, 8h, 8w), not clamped."""
        hidden = self.vae.post_quant_conv(latents.contiguous(memory_format=torch.channels_last_3d))
        decoder = self.vae.decoder
        hidden = decoder.mid_block(decoder.conv_in(hidden))
        for block in decoder.up_blocks:
            hidden = block(hidden, first_chunk=True)
        hidden = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(hidden)))
        return unpatchify(hidden, patch_size=self.vae.config.patch_size)

    def forward(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance for clips and standard normal noise of the latents' shape."""
        mean, logvar = self.encode(frames)
        return self.decode(mean + torch.exp(0.5 * logvar) * noise), mean, logvar


def _resample(self: WanResample, hidden: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:  # noqa: ARG001
    """`WanResample.forward` for a whole clip: the first frame, which has no past, skips the temporal convolution."""
    if self.mode == "upsample3d" and hidden.shape[2] > 1:
        later = self.time_conv(hidden[:, :, 1:])  # (B, 2C, T-1, H, W)
        batch, channels, count, height, width = later.shape
        later = later.view(batch, 2, channels // 2, count, height, width)
        later = later.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # (B, C, 2(T-1), H, W)
        hidden = torch.cat([hidden[:, :, :1], later], dim=2)
    batch, _, count = hidden.shape[:3]
    frames = self.resample(hidden.transpose(1, 2).flatten(0, 1))
    hidden = frames.unflatten(0, (batch, count)).transpose(1, 2)
    if self.mode == "downsample3d" and hidden.shape[2] > 1:
        hidden = torch.cat([hidden[:, :, :1], self.time_conv(hidden)], dim=2)
    return hidden


def _rms_norm(self: WanRMS_norm, hidden: Tensor) -> Tensor:
    """`WanRMS_norm.forward`, division by the length times the root of the dimension, as one kernel."""
    moved = hidden.movedim(1, -1)  # (B, ..., C)
    with torch.autocast(hidden.device.type, enabled=False):
        moved = F.rms_norm(moved, moved.shape[-1:], self.gamma.flatten().to(moved.dtype), eps=1e-12)
    return moved.movedim(-1, 1)
