"""The records of a run: what it works on, what each step reports, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor


@dataclass
class SamaPipelineOutput(BaseOutput):
    """A finished run.

    frames: in [0, 1], float32: for `"np"` (B, T, H, W, 3), for `"pt"` (B, T, 3, H, W); for `"pil"` B lists of T
        pictures; for `"latent"` the normalised latents (B, C, F, H / 8, W / 8).
    semantic_tokens: (B, steps, 65, D) on the CPU, float32: the plan as it formed. Step s holds the model's estimate of
        the clean anchors at that step, `noisy - sigma * velocity` with the guided velocity; the last is the plan that
        the video was made by.
    """

    frames: np.ndarray | Tensor | list[list[Image.Image]]
    semantic_tokens: Tensor


@dataclass(frozen=True)
class SamaStep:
    """One denoising step, just done.

    step: 1 to num_steps. timestep: 0 to 1000, and sigma: 0 to 1, where the model was evaluated.
    latents, semantic_latents: (B, C, F, h, w) and (B, 65, D), noisy, after the step.
    clean_latents, semantic_tokens: of the same shapes, the model's estimates of the clean ones at this step; the first
        decode to a preview.
    """

    step: int
    num_steps: int
    timestep: float
    sigma: float
    latents: Tensor
    semantic_latents: Tensor
    clean_latents: Tensor
    semantic_tokens: Tensor


class Velocity(NamedTuple):
    """The model's answer for both streams, float32."""

    video: Tensor
    semantic: Tensor


@dataclass
class SamaRun:
    """What a run is about and how far it is. Callbacks may read and replace the tensors by name.

    prompt_embeds, negative_prompt_embeds: (B, L, text_dim); the second is None without guidance.
    source_latents: (B, C, F, h, w), clean, or None to generate without a source.
    guidance_interval: noise levels between which guidance acts; None for all.
    """

    latents: Tensor
    semantic_latents: Tensor
    source_latents: Tensor | None
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    num_steps: int
    guidance_scale: float
    source_guidance_scale: float
    attention_kwargs: dict[str, Any] | None
    guidance_interval: tuple[float, float] | None = None

    def replace(self, changed: Mapping[str, Any]) -> None:
        """Put tensors and numbers, by name, in place of the run's."""
        for name, value in changed.items():
            setattr(self, name, value)
