"""The transformer's inputs: clips as latents and prompts as text states. Editing and training both use this.

Text travels as token ids in which padding is `PADDING`, so that one tensor says which tokens the tokenizer made and
which places are empty: a prompt may hold the padding token's own name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import BertModel, PreTrainedModel, PreTrainedTokenizerBase

from sama.model import vae_stripes

if TYPE_CHECKING:
    from sama.model.processes import Coder

PADDING = -1
"""Stands in token ids where the tokenizer padded."""


# --- Clips -----------------------------------------------------------------------------------------------------------


class LatentStatistics(NamedTuple):
    """Mean and standard deviation of a VAE's latents, (1, C, 1, 1, 1) float32 each."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(vae: AutoencoderKLWan, device: torch.device | str) -> LatentStatistics:
        both = torch.tensor([vae.config["latents_mean"], vae.config["latents_std"]], device=device)
        return LatentStatistics(*both.view(2, 1, -1, 1, 1, 1))


def to_pixels(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames (B, T, H, W, 3), uint8 or floats in [0, 1], as the VAE takes them: (B, 3, T, H, W) in [-1, 1].

    dtype: to which the frames are rounded before they are scaled.
    """
    frames = frames if frames.is_floating_point() else frames.float() / 255
    return frames.movedim(-1, 1).to(dtype) * 2 - 1


def encode_clips(
    vae: AutoencoderKLWan,
    frames: Tensor,
    statistics: LatentStatistics | None = None,
    encode: Callable[[Tensor], Tensor] | None = None,
    stripes: int = 1,
    coder: Coder | None = None,
) -> Tensor:
    """Frames (B, T, H, W, 3), uint8 or floats in [0, 1], T = 4k+1 and sides divisible by 16, on the VAE's device, as
    normalised latents (B, C, F, H / 8, W / 8), float32.

    statistics: of this VAE, where they are on the device already.
    encode: a quicker way from pixels (B, 3, T, H, W), float32 in [-1, 1], to the means of this VAE's latents, in place
        of its own.
    stripes: in how many the VAE takes the picture, see `sama.model.vae_stripes`.
    coder: runs the VAE on several processes, see `sama.model.processes.Processes.coder`.
    """
    if encode is None:
        pixels = to_pixels(frames, vae.dtype)
        latents = (coder("encode", pixels) if coder else vae_stripes.encode(vae, pixels, stripes)).float()
    else:
        latents = encode(to_pixels(frames, torch.float32)).float()
    mean, std = statistics or LatentStatistics.of(vae, latents.device)
    return (latents - mean) / std


def decode_clips(vae: AutoencoderKLWan, latents: Tensor, stripes: int = 1, coder: Coder | None = None) -> Tensor:
    """Normalised latents (B, C, F, h, w), float32 on the VAE's device, as frames (B, T, H, W, 3) in [0, 1], float32.

    stripes: in how many the VAE takes the picture, see `sama.model.vae_stripes`.
    coder: runs the VAE on several processes, see `sama.model.processes.Processes.coder`.
    """
    mean, std = LatentStatistics.of(vae, latents.device)
    latents = (latents * std + mean).to(vae.dtype)
    pixels = (coder("decode", latents) if coder else vae_stripes.decode(vae, latents, stripes)).float()
    return (pixels.clamp(-1, 1) / 2 + 0.5).movedim(1, -1)


# --- Text ------------------------------------------------------------------------------------------------------------


def tokenise(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> Tensor:
    """Complete prompts (see `sama.pipeline.prompts.model_prompt`) as token ids (N, length), int32 on the host: cut, or
    filled up with `PADDING`."""
    tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids.masked_fill(tokens.attention_mask == 0, PADDING).int()


def text_states(text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> Tensor:
    """Text states (N, L, text_dim) of token ids (N, L) from `tokenise`, in the encoder's type.

    Padded rows are zero and take part in the attention of the transformer, as in the official code.
    tokens: on the encoder's device.
    """
    mask = tokens != PADDING
    ids = torch.where(mask, tokens, tokenizer.pad_token_id).long()
    seen: Tensor = mask
    if isinstance(text_encoder, BertModel):
        # With four dimensions it is taken as it is; of two, the encoder would first ask the device for padding.
        seen = mask[:, None, None].expand(-1, 1, tokens.shape[1], -1)
    states = text_encoder(input_ids=ids, attention_mask=seen).last_hidden_state
    return torch.where(mask.unsqueeze(-1), states, 0.0)
