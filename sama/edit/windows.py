"""How the windows of a long clip come to agree: each one goes on from the last frames of the one before it.

Neighbouring windows share 4k+1 frames, so that the shared frames are whole latent frames of both. The later window
starts from the earlier one's noise there, and the model sees at every step what the earlier window made of them, at
that step's level of noise: what is painted next has to fit. All other noise is new, so that nothing added (flakes,
strokes) repeats with the windows. Memory stays that of one window, in whatever length of clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from sama.pipeline import SamaPipeline

_STRIDE_OF_SEEDS = 0x9E3779B97F4A7C15
"""Odd, and near 2**64 divided by the golden ratio: no two windows of requests with seeds near each other share one."""


class Continuity:
    """Starts the windows of one edit, in order.

    The first window, and so the only one of a short clip, starts as `SamaPipeline` would by itself.
    """

    def __init__(self, pipeline: SamaPipeline, seed: int, steps: int | None) -> None:
        from sama.pipeline.schedule import shifted_sigmas

        self._pipeline = pipeline
        self._seed = seed
        steps = pipeline.config["default_steps"] if steps is None else steps
        self._levels = [*shifted_sigmas(steps, pipeline.config["shift"]), 0.0]
        self._windows = 0
        self._noise: Tensor | None = None
        self._semantic: Tensor | None = None

    def start(self, source: Tensor, known: Tensor | None) -> dict[str, Any]:
        """Arguments of `SamaPipeline.stream` for the next window.

        source: (1, C, F, h, w), its latents. known: (1, C, k+1, h, w), latents of what the window before it made of its
            first 4k+1 frames; None for the first window.
        """
        import torch

        generator = torch.Generator().manual_seed((self._seed + self._windows * _STRIDE_OF_SEEDS) % 2**64)
        self._windows += 1
        noise = torch.randn(source.shape, generator=generator)
        if self._semantic is None or self._noise is None or known is None:
            config = self._pipeline.transformer.config
            shape = (1, config["num_semantic_tokens"], config["semantic_dim"])
            self._semantic = torch.randn(shape, generator=generator)
            self._noise = noise
            return {"latents": noise, "semantic_latents": self._semantic}
        shared = known.shape[2]
        # Frames that both windows show have one noise; the first latent frame is of one frame, which lies in an
        # earlier latent frame of the window before.
        noise[:, :, :shared] = self._noise[:, :, -shared:]
        self._noise = noise
        hold = Hold(known, noise[:, :, :shared], self._levels)
        return {
            "latents": noise,
            "semantic_latents": self._semantic,
            "callback_on_step_end": hold,
            "callback_on_step_end_tensor_inputs": ("latents",),
        }


def faithful_latents(pipeline: SamaPipeline, pixels: Tensor) -> Tensor:
    """Latents (1, C, k+1, h, w) that decode to frames (1, 4k+1, H, W, 3) in [0, 1] more closely than encoding alone.

    Encoding and decoding soften a picture, and every window would go on from a softer one. What a second passage takes
    from the latents is what the first one took from them, nearly, and is put back.
    """
    latents = pipeline.encode_video(pixels)
    return 2 * latents - pipeline.encode_video(pipeline.decode_latents(latents))


def as_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Frames (T, H, W, 3) as a batch of one, (1, T, H, W, 3) in [0, 1]."""
    import torch

    return torch.from_numpy(frames).unsqueeze(0).float() / 255


class Hold:
    """A callback that keeps some latent frames of a window on their way from noise to what is known of them.

    known, noise: (1, C, k, h, w), of the frames from `first` on. levels: of noise before each step, and 0 after the
    last.
    """

    def __init__(self, known: Tensor, noise: Tensor, levels: list[float], first: int = 0) -> None:
        self.known, self.noise, self.levels, self.first = known, noise.to(known.device), levels, first

    def __call__(
        self, _pipeline: Any, step: int, _timestep: Tensor, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        level, latents = self.levels[step + 1], tensors["latents"].clone()
        held = slice(self.first, self.first + self.known.shape[2])
        latents[:, :, held] = (1 - level) * self.known + level * self.noise
        return {"latents": latents}
