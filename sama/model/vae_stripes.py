"""Wan's autoencoder in stripes, for a picture that does not fit the device's memory at once, and exact at the seams.

    latents -> [ convolution, middle block ]  the whole picture: it attends to all of it, at 1/8 of its size
                        |
              cut into stripes, each with a rim as wide as the convolutions that follow reach
                        |
               [ upsampling blocks ]          stripe by stripe, all frames of one before the next
                        |
             the rims are cut off, the stripes are put side by side

Encoding is the same in the other direction. diffusers' own tiling runs the middle block on each tile, so that tiles
see other surroundings than the picture has, and blends what differs. Here nothing differs but the order in which a
kernel adds (float32: 1e-6 of the range).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor, nn

MAX_STRIPES = 8
_KEPT_FRAMES = 2  # what a causal convolution over three frames remembers


def encode(vae: AutoencoderKLWan, pixels: Tensor, stripes: int = 1) -> Tensor:
    """The mode of the latents (B, C, F, h, w) of pixels (B, 3, T, H, W) in [-1, 1], T = 4k+1."""
    if stripes == 1 or hasattr(vae, "_hf_hook"):
        return vae.encode(pixels).latent_dist.mode()
    encoder, patch = vae.encoder, vae.config["patch_size"]
    scale = vae.spatial_compression_ratio // (patch or 1)
    x = patchify(pixels, patch_size=patch) if patch else pixels
    dim = longer_side(x)
    low: Tensor | None = None
    for begin, end, first, last in _stripes(x.shape[dim] // scale, stripes, encoder_rim(vae.config)):
        memory = _Memory(encoder)
        piece = x.narrow(dim, first * scale, (last - first) * scale)
        for number, frames in enumerate(_chunks(piece)):
            memory.rewind()
            y = memory.convolve(encoder.conv_in, frames)
            for block in encoder.down_blocks:
                y = block(y, feat_cache=memory.kept, feat_idx=memory.at)
            if low is None:
                sides = [side // scale for side in x.shape[3:]]
                low = y.new_empty(*y.shape[:2], 1 + (x.shape[2] - 1) // 4, *sides)
            low[:, :, number : number + 1].narrow(dim, begin, end - begin).copy_(
                y.narrow(dim, begin - first, end - begin)
            )
    assert low is not None  # there is a stripe
    memory, out = _Memory(encoder), []
    for y in low.split(1, dim=2):
        memory.rewind()
        y = encoder.mid_block(y, feat_cache=memory.kept, feat_idx=memory.at)
        out.append(memory.convolve(encoder.conv_out, encoder.nonlinearity(encoder.norm_out(y))))
    return vae.quant_conv(torch.cat(out, dim=2)).chunk(2, dim=1)[0]


def decode(vae: AutoencoderKLWan, latents: Tensor, stripes: int = 1) -> Tensor:
    """Pixels (B, 3, T, H, W) in [-1, 1] of latents (B, C, F, h, w)."""
    if stripes == 1 or hasattr(vae, "_hf_hook"):
        return vae.decode(latents, return_dict=False)[0]
    decoder, patch = vae.decoder, vae.config["patch_size"]
    scale = vae.spatial_compression_ratio // (patch or 1)
    memory, low = _Memory(decoder), []
    for y in vae.post_quant_conv(latents).split(1, dim=2):
        memory.rewind()
        y = memory.convolve(decoder.conv_in, y)
        low.append(decoder.mid_block(y, feat_cache=memory.kept, feat_idx=memory.at))
    x = torch.cat(low, dim=2)
    dim = longer_side(x)
    out: Tensor | None = None
    for begin, end, first, last in _stripes(x.shape[dim], stripes, decoder_rim(vae.config)):
        memory, frame = _Memory(decoder), 0
        for number, y in enumerate(x.narrow(dim, first, last - first).split(1, dim=2)):
            memory.rewind()
            for block in decoder.up_blocks:
                y = block(y, feat_cache=memory.kept, feat_idx=memory.at, first_chunk=number == 0)
            y = memory.convolve(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(y)))
            if out is None:
                sides = [side * scale for side in x.shape[3:]]
                out = y.new_empty(*y.shape[:2], 1 + 4 * (x.shape[2] - 1), *sides)
            place = out[:, :, frame : frame + y.shape[2]].narrow(dim, begin * scale, (end - begin) * scale)
            place.copy_(y.narrow(dim, (begin - first) * scale, (end - begin) * scale))
            frame += y.shape[2]
    assert out is not None  # there is a stripe
    out = unpatchify(out, patch_size=patch) if patch else out
    return out.clamp_(-1.0, 1.0)


def decoder_rim(config: Mapping[str, Any]) -> int:
    """How many latents beyond a stripe its pixels depend on, after the middle block."""
    levels, convolutions = len(config["dim_mult"]), 2 * (config["num_res_blocks"] + 1)
    reach = sum(convolutions / 2**level for level in range(levels))
    reach += sum(1 / 2**level for level in range(1, levels))  # after each upsampling
    return math.ceil(reach + 1 / 2 ** (levels - 1))  # the last one to colours


def encoder_rim(config: Mapping[str, Any]) -> int:
    """How many latents beyond a stripe its own depend on, before the middle block."""
    levels, convolutions = len(config["dim_mult"]), 2 * config["num_res_blocks"]
    reach = 1 + sum(convolutions * 2**level for level in range(levels))
    reach += sum(2 * 2**level for level in range(levels - 1))  # downsampling looks two further at most
    return math.ceil(reach / 2 ** (levels - 1))


def can_stripe(config: Mapping[str, Any]) -> bool:
    """Whether nothing but the middle block attends, as in all of Wan's autoencoders."""
    return not config.get("attn_scales")


def stripe_share(side: int, stripes: int, rim: int) -> float:
    """The largest stripe, rim included, as a share of the whole `side`, in latents."""
    return max((last - first) / side for _, _, first, last in _stripes(side, stripes, rim))


def _stripes(side: int, count: int, rim: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of each stripe, and of it with its rim."""
    edges = [round(side * number / count) for number in range(count + 1)]
    for begin, end in pairwise(edges):
        if end > begin:
            yield begin, end, max(0, begin - rim), min(side, end + rim)


def longer_side(x: Tensor) -> int:
    """The dimension along which a clip (B, C, T, H, W) is cut."""
    return 4 if x.shape[4] >= x.shape[3] else 3


def _chunks(frames: Tensor) -> Iterator[Tensor]:
    """One frame, then four at a time, as they become one latent frame each."""
    yield frames[:, :, :1]
    yield from frames[:, :, 1:].split(4, dim=2) if frames.shape[2] > 1 else ()


class _Memory:
    """The cache of earlier frames for the causal convolutions, as diffusers' modules keep it: a list, and the place
    in it of the convolution whose turn it is."""

    def __init__(self, coder: nn.Module) -> None:
        self.kept: list[Any] = [None] * len(list(coder.modules()))  # more than there are convolutions
        self.at = [0]

    def rewind(self) -> None:
        """Before each chunk."""
        self.at[0] = 0

    def convolve(self, layer: nn.Module, x: Tensor) -> Tensor:
        index, before = self.at[0], self.kept[self.at[0]]
        last = x[:, :, -_KEPT_FRAMES:].clone()
        if last.shape[2] < _KEPT_FRAMES and before is not None:
            last = torch.cat([before[:, :, -1:], last], dim=2)
        y: Tensor = layer(x, before)
        self.kept[index] = last
        self.at[0] += 1
        return y
