"""The model under examination: clips and wordings in, clips out. Needs torch and diffusers, not PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sama.device.placement import fast_dtype, vae_dtype
from sama.model.semantics import anchor_frame_indices, anchor_tokens, split_tokens
from sama.pipeline import SamaPipeline

TOWER_FRAMES = 3


class Editor:
    """A pipeline that edits and encodes clips of (T, H, W, 3) uint8.

    steps, guidance: None is the pipeline's own default.
    """

    def __init__(self, pipeline: SamaPipeline, steps: int | None = None, guidance: float | None = None) -> None:
        self.pipeline, self.steps, self.guidance = pipeline, steps, guidance

    def edit(self, clips: Sequence[np.ndarray], words: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """Clips of one size, each with its instruction and its own noise; what a batch gives, single runs give."""
        out: Any = self.pipeline(
            video=np.stack(clips),
            prompt=list(words),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        return [(np.asarray(clip) * 255).round().astype(np.uint8) for clip in out.frames]

    def through_vae(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips of one size, encoded and decoded."""
        frames = torch.from_numpy(np.stack(clips)).float() / 255
        again = self.pipeline.decode_latents(self.pipeline.encode_video(frames))
        return list((again.cpu().numpy() * 255).round().astype(np.uint8))


def load_editor(folder: str | Path, device: str, steps: int | None = None, guidance: float | None = None) -> Editor:
    """The saved pipeline in `folder` on a device, in the types in which the product runs there."""
    types = {"transformer": fast_dtype(device), "vae": vae_dtype(device), "default": torch.float32}
    pipeline = SamaPipeline.from_pretrained(folder, dtype=types).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return Editor(pipeline, steps, guidance)


class TowerDistance:
    """Distance of two clips in the features of a semantic tower: 1 - the mean cosine of their 64 local tokens, each
    after subtracting the mean of both frames' tokens; over three frames. 0 for equal frames, 1 or more for unrelated
    ones.

    This is the project's own measure, not LPIPS: the tower is the one that makes the anchors, so that a model trained
    towards its features is favoured by it, and values under different towers must not be compared.
    """

    def __init__(self, tower: Any, device: torch.device | str = "cpu") -> None:
        """tower: a transformers SigLIP vision model."""
        self.tower, self.device = tower.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        picked = anchor_frame_indices(len(a), min(TOWER_FRAMES, len(a)))
        x, y = self._tokens(a[picked]), self._tokens(b[picked])
        centre = torch.cat([x, y], dim=1).mean(dim=1, keepdim=True)
        return 1 - float(F.cosine_similarity(x - centre, y - centre, dim=-1).mean())

    def _tokens(self, frames: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(self.device).float() / 255
        return split_tokens(anchor_tokens(self.tower, pixels.to(self.tower.dtype)).float())[0]


def load_tower(folder: str | Path, device: str = "cpu") -> TowerDistance:
    """The tower of the saved pipeline in `folder`. Raises OSError where it has none."""
    from transformers import SiglipVisionModel

    return TowerDistance(
        SiglipVisionModel.from_pretrained(Path(folder) / "semantic_tower", dtype=torch.float32), device
    )
