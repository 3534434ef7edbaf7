"""The frozen parts: what turns clips, prompts and first frames into what the transformer is trained on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BertModel, SiglipVisionConfig, SiglipVisionModel

from sama.pretext import EDIT_PREFIX
from sama.prompts import model_prompt
from sama.semantics import anchor_tokens
from training.closed_yaml import ConfigError
from training.data.rendered import TEXT_LENGTH, tokenise
from training.one_pass import OnePassVAE
from training.precision import autocast

CLIPS_AT_ONCE = 4
"""Clips that the VAE encodes at a time, a group's last ones padded to it: one shape for each bucket. Kernels are tuned
(`cudnn.benchmark`) for every shape that a convolution meets, which takes seconds."""

WAN_TEXT_LENGTH = 512
"""Tokens of a prompt in the Wan models, padding included."""

SAMPLED_VALUES = 1024
"""Values of each tensor that the fingerprint reads: a trained or rounded copy differs in nearly all of them."""


class Encoders:
    """VAE, text encoder with tokenizer, and semantic tower, on one device and without gradients.

    What a size depends on is known at once; text encoder and tower are loaded when they are first used, and may be
    released when everything is cached.
    """

    def __init__(self, base: str, tower: str, device: torch.device, precision: str) -> None:
        """base: folder or Hub name of a pipeline with `vae`, `text_encoder` and `tokenizer`. tower: folder or Hub name
        of a SigLIP vision tower; `base`/semantic_tower if empty. precision: see `TrainConfig`. Raises ConfigError
        naming what is not there."""
        self.base, self.device, self.precision = base, device, precision
        self._tower_from: tuple[str, dict[str, str]] = (tower, {}) if tower else (base, {"subfolder": "semantic_tower"})
        text_config = _found(AutoConfig, base, subfolder="text_encoder")
        self._text_class = getattr(transformers, (text_config.architectures or ["UMT5EncoderModel"])[0])
        self.small = self._text_class is BertModel
        """Whether the text encoder is the embedded model's: short prompts whose quotes are spelled."""
        self.text_length = TEXT_LENGTH if self.small else WAN_TEXT_LENGTH
        self.text_dim: int = text_config.hidden_size
        self.tokenizer = _found(AutoTokenizer, base, subfolder="tokenizer")
        self.semantic_dim: int = _found(SiglipVisionConfig, *self._tower_from[:1], **self._tower_from[1]).hidden_size
        # Autocast would round these weights anew for every clip; rounded once, they give the same latents, bit for bit.
        stored = torch.bfloat16 if precision == "bfloat16" else torch.float32
        vae = _found(AutoencoderKLWan, base, subfolder="vae", torch_dtype=torch.float32)
        self.latent_channels: int = vae.config["z_dim"]
        statistics = torch.tensor([vae.config["latents_mean"], vae.config["latents_std"]], device=device)
        self._mean, self._std = statistics.view(2, 1, -1, 1, 1, 1)
        self._one_pass: OnePassVAE | None = None
        if vae.config["is_residual"]:
            self._one_pass = _frozen(OnePassVAE(copy.deepcopy(vae)).to(stored), device)
        self.vae: AutoencoderKLWan = _frozen(vae if self._one_pass is not None else vae.to(stored), device)
        """For decoding, and for encoding where there is no one-pass view."""
        self._fingerprints: dict[str, str] = {}

    @cached_property
    def text(self) -> transformers.PreTrainedModel:
        """The text encoder: the small one in float32, UMT5-XXL in the type of the run."""
        dtype = torch.float32 if self.small or self.precision == "float32" else torch.bfloat16
        options = {"add_pooling_layer": False} if self.small else {}
        return _frozen(
            _found(self._text_class, self.base, subfolder="text_encoder", dtype=dtype, **options), self.device
        )

    @cached_property
    def tower(self) -> SiglipVisionModel:
        """The semantic tower, float32."""
        name, place = self._tower_from
        return _frozen(_found(SiglipVisionModel, name, dtype=torch.float32, **place), self.device)

    @cached_property
    def bare_ids(self) -> Tensor:
        """Token ids (text_length,) of an instruction that was dropped: the task's prefix alone."""
        return self.token_ids([self.prompt("")])[0].long().to(self.device)

    def release(self) -> None:
        """Let go of text encoder and tower; they are loaded again if they are used again."""
        self.fingerprint()
        for name in ("text", "tower"):
            self.__dict__.pop(name, None)

    def prompt(self, text: str, prefix: str = EDIT_PREFIX) -> str:
        """The complete prompt that the model sees for an instruction or a caption."""
        return model_prompt(text, prefix, spell_quotes=self.small)

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Complete prompts as (N, text_length) int32 on the host, cut or padded."""
        return tokenise(self.tokenizer, prompts, self.text_length)

    @torch.no_grad()
    def latents(self, clips: Tensor) -> Tensor:
        """Clips (N, T, H, W, 3) uint8, T = 4k+1, as normalised latents (N, C, F, H/8, W/8), float32.

        N is any number, and a multiple of `CLIPS_AT_ONCE` where speed matters."""
        means = []
        with autocast(self.precision, self.device):
            for some in clips.to(self.device).permute(0, 4, 1, 2, 3).split(CLIPS_AT_ONCE):
                pixels = some.float() / 127.5 - 1
                if self._one_pass is not None:
                    means.append(self._one_pass.encode(pixels)[0])
                else:
                    means.append(self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode())
        return (torch.cat(means).float() - self._mean) / self._std

    def text_states(self, prompts: Sequence[str]) -> Tensor:
        """Complete prompts, prefix included, as states (N, text_length, text_dim), padded rows zero."""
        return self.states_of(self.token_ids(prompts).to(self.device))

    @torch.no_grad()
    def states_of(self, token_ids: Tensor) -> Tensor:
        """States (N, L, text_dim) of token ids (N, L) on the device; padded rows are zero and take part in the
        attention of the transformer, as in the official code."""
        token_ids = token_ids.long()
        mask = token_ids != self.tokenizer.pad_token_id
        given: Tensor = mask
        if self.small:
            # With four dimensions it is taken as it is; of two, the encoder would first ask the device for padding.
            given = mask[:, None, None].expand(-1, 1, token_ids.shape[1], -1)
        with autocast(self.precision, self.device):
            states = self.text(input_ids=token_ids, attention_mask=given).last_hidden_state
        return states * mask.unsqueeze(-1)

    @torch.no_grad()
    def anchors(self, pictures: Tensor) -> Tensor:
        """First frames (N, 3, H, W) uint8 on the device as anchors (N, 65, semantic_dim), float32."""
        with autocast(self.precision, self.device):
            return anchor_tokens(self.tower, pictures.float() / 255).float()

    def fingerprint(self) -> str:
        """A hash of the weights in use and of how they are used, for the keys of caches."""
        parts: Mapping[str, Any] = {"vae": lambda: self.vae, "text": lambda: self.text, "tower": lambda: self.tower}
        for name, part in parts.items():
            if name not in self._fingerprints:
                self._fingerprints[name] = _hash_of(part())
        everything = (self.precision, self.text_length, self.small, *sorted(self._fingerprints.items()))
        return hashlib.blake2b(repr(everything).encode(), digest_size=12).hexdigest()


def _frozen(module: Any, device: torch.device) -> Any:
    return module.to(device).eval().requires_grad_(False)


def _found(kind: Any, name: str, **options: Any) -> Any:
    """`kind.from_pretrained(name)`, or a ConfigError that says what is missing where."""
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        part = "/".join(filter(None, (name, options.get("subfolder"))))
        hint = "" if not Path(name).exists() else " (the folder is there, this part of it is not)"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{part} cannot be loaded{hint}: set `base` and `tower` to what there is. {reason}"
        ) from error


def _hash_of(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in module.state_dict().items():
        step = max(1, tensor.numel() // SAMPLED_VALUES)
        values = tensor.detach().flatten()[::step].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.tobytes())
    return digest.hexdigest()
